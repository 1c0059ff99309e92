"""The demo's flow on a handful of scenes: every step for real, twice."""

from pathlib import Path

import pytest
from PIL import Image

from flows.stack.stack import StackStatus


def test_the_whole_way_and_again(
    stack: StackStatus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows import demo

    small = {"TRAIN": 16, "VAL": 6, "PHOTOGRAPHS": 6, "SIZE": (64, 128), "BUCKET": "s3://vitseg/whole-way"}
    small["OVERRIDES"] = ("run.epochs=2",)
    for name, value in small.items():
        monkeypatch.setattr(demo, name, value)
    result = demo.demo(str(tmp_path))
    assert result["preprocess"]["samples"] == 22
    assert result["train"]["model_uri"] == "models:/vitseg-demo/1"
    alike = result["evaluate"]["precision"] == result["train"]["precision"]  # each measures what is faster
    near = 1e-6 if alike else 0.01
    assert result["evaluate"]["miou"] == pytest.approx(result["train"]["metrics"]["miou"], abs=near)
    assert result["segment"]["precision"] in ("float32", "bfloat16")
    assert (result["segment"]["ok"], result["segment"]["skipped"], result["segment"]["failed"]) == (6, 1, 0)
    page = Path(result["report"]).read_text()
    assert "models:/vitseg-demo/1" in page
    assert "8-pixel patches: rows " in page
    masks = sorted((tmp_path / "masks").rglob("*.png"))
    assert len(masks) == 6
    assert {Image.open(mask).mode for mask in masks} == {"P"}
    assert (tmp_path / "overview.png").stat().st_size > 10_000

    again = demo.demo(str(tmp_path))
    assert again["train"] == result["train"]
    assert again["preprocess"]["fingerprint"] == result["preprocess"]["fingerprint"]
    assert (again["segment"]["ok"], again["segment"]["skipped"]) == (0, 7)
    notes = capsys.readouterr().err
    for step in ("already holds these 22 samples", "this recipe on this data is", "every object under"):
        assert any("nothing to do" in line and step in line for line in notes.splitlines()), step
