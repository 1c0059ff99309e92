"""Standard output carries one answer: rows for people, or one JSON object."""

import io
import json
import math
import os
import subprocess
import sys

import pytest
import typer

from flows.cli.output import SOME_FAILED, Output

RESULT = {"miou": 0.123456, "size": (64, 32), "classes": {"road": 0.5, "sky": None}, "matrix": [[1]], "note": ""}


@pytest.fixture
def output() -> Output:
    output = Output()
    output.stream = io.StringIO()
    return output


def written(output: Output) -> str:
    return output.stream.getvalue()


def test_a_person_gets_one_value_a_line(output: Output) -> None:
    output.answer(RESULT, as_json=False)
    assert written(output).splitlines() == ["miou          0.1235", "size          64, 32", "classes.road  0.5"]


def test_a_program_gets_one_json_object_without_nan(output: Output) -> None:
    with pytest.raises(typer.Exit) as caught:
        output.answer({**RESULT, "loss": math.nan}, as_json=True, some_failed=True)
    assert caught.value.exit_code == SOME_FAILED
    assert json.loads(written(output)) == {**RESULT, "size": [64, 32], "loss": None}


@pytest.mark.parametrize("answered", [False, True])
def test_a_failure_is_an_object_too_unless_there_was_an_answer(
    output: Output, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["vitseg", "--json"])
    if answered:
        output.answer({}, as_json=True)
    output.end("no such folder", 1)
    assert json.loads(written(output)) == ({} if answered else {"error": "no such folder", "exit_code": 1})


def test_what_libraries_print_goes_to_standard_error() -> None:
    code = (
        "import os; from flows.cli.output import Output; out = Output(); out.reserve(); os.system('echo noise'); "
        "out.answer({'a': 1}, True); out.end(); out.release(); print('after')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert (done.stdout, done.stderr) == ('{"a": 1}\nafter\n', "noise\n")


def test_seam_ratios_are_lines_with_dotted_names_except_those_that_do_not_exist(output: Output) -> None:
    output.answer({"seam_ratio": {"16": {"rows": 1.5, "columns": None}}}, as_json=False)
    assert written(output).split() == ["seam_ratio.16.rows", "1.5"]
