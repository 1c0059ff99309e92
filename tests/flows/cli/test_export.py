"""`vitseg export-model`: one file, which says what it is, and one answer."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch

from flows.cli.app import app
from flows.cli.output import stdout
from tests.model.test_export import BINARY, bundle_of
from tests.model.test_no_convolution import SMALL
from vitseg.model.export import DESCRIPTION, generated_photographs


def test_a_binary_model_becomes_a_program_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_of(tmp_path / "bundle", dataclasses.replace(SMALL, blocks=1), BINARY)
    monkeypatch.setattr(stdout, "stream", io.StringIO())
    app(
        ["export-model", str(tmp_path / "bundle"), str(tmp_path / "out"), "--to", "torch", "--json"],
        standalone_mode=False,
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.pt2"]
    answer = json.loads(stdout.stream.getvalue())
    assert answer == {
        "model": bundle.sha256,
        "file": str(tmp_path / "out/model.pt2"),
        "any_size": True,
        "outputs": ["ids", "scores"],
        "largest_difference": pytest.approx(0, abs=1e-5),
        "different_pixels": pytest.approx(0, abs=1e-3),
    }
    assert b".py" not in Path(answer["file"]).read_bytes(), "no paths of this machine"
    about = {DESCRIPTION: ""}
    program = torch.export.load(answer["file"], extra_files=about).module()
    assert json.loads(about[DESCRIPTION])["classes"] == [label.to_json() for label in BINARY]
    images = generated_photographs(1, (24, 40))
    found, ours = program(images), bundle.predict(images)
    assert torch.allclose(found["scores"], ours, atol=1e-5)
    assert found["ids"].unique().tolist() == [0, 1]
