"""What a person sees who mistypes: one clear line, the right exit code, no traceback, and no secret."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.app import app
from flows.stack.stack import StackStatus
from tests.flows.command_line import vitseg
from vitseg.errors import VitsegError

MISTAKES = [
    (["preprocess", "no-such-folder", "out"], 1, "no-such-folder"),
    (["preprocess", ".", "out"], 2, "layout"),
    (["segment", ".", "out", "--model", "models:/nobody/1", "--also", "colour"], 2, "overlay"),
    (["preprocess", ".", "out", "--size", "big"], 2, "WIDTHxHEIGHT"),
    (["preprocess", "s3://no-such-bucket/x", "out"], 1, "no-such-bucket"),
    (["preprocess", "s3://key:secret@bucket/x", "out"], 2, "environment"),
    (["train", "no-shards-here"], 1, "vitseg preprocess"),
    (["train", "x", "--set", "run.epoch=3"], 2, "run.epochs"),
    (["train", "x", "--set", "run.epochs=three"], 2, "run.epochs"),
    (["train", "x", "--recipe", "none.toml"], 1, "none.toml"),
    (["train", "x", "--nnodes", "2"], 2, "--rendezvous"),
    (["segment", ".", "out", "--model", "models:/nobody@champion"], 1, "registry list"),
    (["segment", ".", "out", "--model", "models:nobody"], 2, "models:/NAME@alias"),
    (["segment", ".", "out", "--model", "no-such-folder"], 1, "no-such-folder"),
    (["evaluate", "models:/nobody/7", "x"], 1, "vitseg preprocess"),
    (["registry", "show", "7", "--name", "nobody"], 1, "nobody/7"),
    (["registry", "promote", "1", "--reviewer", "me", "--reason", "why", "--name", "nobody"], 1, "nobody"),
    (["retrain", ".", "--start", "anywhere"], 2, "scratch or champion"),
]
CHOICES = [
    (["preprocess", ".", "out", "--layout", "cubes"], "cityscapes"),
    (["preprocess", ".", "out", "--runner", "cloud"], "dask"),
    (["train", "x", "--preset", "huge"], "tiny"),
    (["segment", ".", "out", "--model", "models:/nobody/1", "--ids", "both"], "label"),
    (["model", "huge"], "tiny"),
]


@pytest.mark.parametrize(("arguments", "code", "hint"), MISTAKES, ids=[" ".join(row[0])[:40] for row in MISTAKES])
def test_a_mistake_is_told_in_one_line(
    stack: StackStatus, arguments: list[str], code: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file.txt").write_text("not a picture")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VitsegError) as caught:
        app(arguments)
    assert caught.value.exit_code == code
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("arguments", "hint"), CHOICES, ids=[" ".join(row[0])[:40] for row in CHOICES])
def test_a_wrong_choice_names_the_right_ones(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        app(arguments)
    assert caught.value.code == 2
    assert hint in capsys.readouterr().err


def test_the_version_names_the_commit() -> None:
    done = vitseg("--version", env={"VITSEG_GIT_COMMIT": "abc123"})
    assert (done.code, done.out) == (0, f"vitseg {importlib.metadata.version('vitseg')}, commit abc123\n")


def complete(text: str) -> list[str]:
    """Return what the shell offers for the last word of a command line."""
    words = text.split(" ")
    asked = {"COMP_WORDS": text, "COMP_CWORD": str(len(words) - 1), "_VITSEG_COMPLETE": "complete_bash"}
    code = "from flows.cli.app import app; app(prog_name='vitseg')"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked}
    ).stdout.split()


def test_the_shell_completes_commands_options_and_choices() -> None:
    assert complete("vitseg pre") == ["preprocess", "pretrain"]
    assert complete("vitseg train shards --max") == ["--max-minutes"]
    assert complete("vitseg preprocess a b --layout c") == ["cityscapes"]
    assert complete("vitseg retrain a --start s") == ["scratch"]


def test_the_completion_script_goes_to_standard_output() -> None:
    done = vitseg("--show-completion", "bash", env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert done.code == 0
    assert "COMP_WORDS" in done.out


def test_the_line_is_all_that_is_shown(stack: StackStatus) -> None:
    done = vitseg("train", "no-shards-here", "--json")
    assert done.code == 1
    assert done.err.count("error:") == 1
    assert "vitseg preprocess" in done.err
    assert "Traceback" not in done.err
    assert json.loads(done.out)["exit_code"] == 1


def test_wrong_credentials_are_named_but_not_shown(stack: StackStatus) -> None:
    done = vitseg("verify", "s3://vitseg/shards", env={"AWS_SECRET_ACCESS_KEY": "not-the-secret-one"})
    assert done.code == 1
    assert "AWS_SECRET_ACCESS_KEY" in done.err
    assert "not-the-secret-one" not in done.err
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in done.err


def test_wrong_usage_is_code_2_and_one_json_object_if_asked_for() -> None:
    assert vitseg("segment").code == 2
    for words in (
        ["no-such-command"],
        ["preprocess", ".", "out", "--runner", "no-such-runner"],
        ["segment", "--no-such-option"],
    ):
        done = vitseg(*words, "--json")
        assert done.code == 2
        assert done.json["exit_code"] == 2
        assert "no-such-" in done.json["error"], "the answer says what is wrong, as standard error does"


def test_json_is_the_only_thing_on_standard_output(tmp_path: Path) -> None:
    done = vitseg("synth", str(tmp_path), "--train", "2", "--val", "1", "--size", "64x32", "--json")
    assert done.code == 0
    assert done.json["scenes"] == 3


def test_model_shows_its_numbers() -> None:
    found = vitseg("model", "tiny", "--json").json
    assert {"preset", "parameters", "trainable", "flops_per_image", "convolutions"} <= found.keys()
    assert found["convolutions"] == 0
    assert found["parameters"] == found["trainable"] > 500_000
