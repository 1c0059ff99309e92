"""The demo's page: its key figures."""

import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli.output import answer, stdout
from flows.display import demo_report
from tests.registry.conftest import write_bundle
from vitseg.model.bundle import load_bundle

MEASURED: dict[str, Any] = {
    "miou": 0.5,
    "samples": 6,
    "pixel_accuracy": 0.75,
    "seam_ratio": {"16": {"rows": 1.5, "columns": None}, "4": {"rows": 1.25, "columns": 1.1}},
    "seam_ratio_truth": {"16": {"rows": 1.01, "columns": 0.99}, "4": {"rows": 1.0, "columns": 1.0}},
}


def test_the_largest_seam_ratio_is_a_key_figure_with_all_others_as_its_note(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "bundle"))
    segmented = {"images_per_second": 0.0, "listed": 0}
    results = demo_report.DemoResults(str(tmp_path), "", str(tmp_path), {}, {}, MEASURED, segmented)
    (seam,) = [one for one in demo_report.key_figures(results, bundle, 0) if one.label == "Seam ratio"]
    assert seam.value == "1.50"
    assert seam.note.startswith(
        "16-pixel patches: rows 1.50, columns – (labels 1.01, 0.99); 4-pixel patches: rows 1.25"
    )


def test_seam_ratios_stand_in_the_table_that_evaluate_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stdout, "stream", sys.stdout)
    answer(MEASURED, as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["seam_ratio.16.rows", "1.5"] in lines
    assert ["seam_ratio_truth.16.columns", "0.99"] in lines
    assert not [line for line in lines if line[0] == "seam_ratio.16.columns"]  # it does not exist
