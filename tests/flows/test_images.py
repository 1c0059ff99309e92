"""Pairs of images without classes, the whole way by real commands: noisy photographs in, cleaner images out."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.flows.command_line import vitseg
from vitseg.errors import UsageError

pytestmark = pytest.mark.usefixtures("stack")  # for Prefect: a server of each command's own would take longer

SIZE = 32
NOISE = 60


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy and a clean image, uint8 (H, W, 3): one smooth color over another."""
    rng = np.random.default_rng(seed)
    top, bottom = rng.uniform(40, 215, (2, 3))
    share = np.linspace(0, 1, SIZE)[:, None, None]
    clean = np.broadcast_to(top * (1 - share) + bottom * share, (SIZE, SIZE, 3))
    noisy = clean + rng.normal(0, NOISE, clean.shape)
    return noisy.clip(0, 255).astype(np.uint8), clean.astype(np.uint8)


def write_pairs(folder: Path, train: int, val: int) -> Path:
    for number in range(train + val):
        split = "train" if number < train else "val"
        for part, pixels in zip(("images", "targets"), scene(number), strict=True):
            path = folder / split / part / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


RECIPE = [
    "model.encoder_projection=32", "model.blocks=1", "model.heads=2", "model.head_width=16", "model.mlp_units=[64]",
    "model.features_per_patch=32", "model.decoder_projection=32", "model.decoder_mlp_units=[64]",
    "data.batch_size=8", "run.epochs=20", "run.log_steps=20", "run.evaluate_epochs=10", "run.panel_epochs=20",
    "optimizer.learning_rate=0.01", "loss.rgb=squared",
]  # fmt: skip


@pytest.mark.slow
def test_noisy_photographs_become_cleaner_ones(sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, shards, dest = write_pairs(tmp_path / "pairs", 48, 8), str(tmp_path / "shards"), tmp_path / "clean"
    prepared = vitseg("preprocess", str(source), shards, "--size", f"{SIZE}x{SIZE}", "--json")
    assert (prepared.code, prepared.json["samples"]) == (0, 56), prepared.err
    assert json.loads((tmp_path / "shards" / "manifest.json").read_text())["classes"] == []
    sets = [part for value in RECIPE for part in ("--set", value)]
    trained = vitseg("train", shards, *sets, "--nproc", "1", "--json")
    assert trained.code == 0, trained.err
    assert "model.target=rgb" in trained.err  # chosen by itself, and said
    metrics = trained.json["metrics"]
    assert (metrics["miou"], metrics["pixel_accuracy"]) == (None, None)

    model = trained.json["model_uri"]
    measured = vitseg("evaluate", model, shards, "--json").json
    assert (measured["miou"], measured["pixel_accuracy"], measured["per_class_iou"]) == (None, None, {})
    assert measured["psnr"] == pytest.approx(metrics["psnr"], abs=1e-3)
    assert measured["psnr"] == pytest.approx(-10 * math.log10(measured["mean_squared_error"]))

    photographs = tmp_path / "photographs"
    photographs.mkdir()
    wanted = {}
    for number in range(100, 104):  # of another size than the samples
        noisy, clean = (Image.fromarray(pixels).resize((50, 40), Image.Resampling.NEAREST) for pixels in scene(number))
        noisy.save(photographs / f"{number}.png")
        wanted[number] = np.asarray(noisy, float), np.asarray(clean, float)
    done = vitseg("segment", str(photographs), str(dest), "--model", model, "--json")
    assert (done.code, done.json["ok"]) == (0, 4), done.err
    for number, (noisy, clean) in wanted.items():
        with Image.open(dest / f"{number}.png.png") as image:
            assert (image.mode, image.size) == ("RGB", (50, 40))
            assert image.text["model-sha256"]
            output = np.asarray(image, float)
        assert np.abs(output - clean).mean() < 0.7 * np.abs(noisy - clean).mean()
        assert np.abs(output - clean).mean() < np.abs(127.5 - clean).mean()
    rows = [row for part in dest.glob("_vitseg/*/part-*.parquet") for row in pq.read_table(part).to_pylist()]
    assert {(row["status"], row["width"], row["height"]) for row in rows} == {("ok", 50, 40)}
    assert {(row["mean_confidence"], row["class_fractions"]) for row in rows} == {(None, None)}

    # What follows is asked of the same functions in this process, for each command takes seconds to start.
    from flows.cli import registry
    from flows.segment import segment
    from vitseg.model.bundle import load_bundle
    from vitseg.registry import versions

    # How bright the noisy image is is part of what is asked for.
    assert load_bundle(versions.open_model(model)[1]).architecture.pixels == "fixed"
    again = segment(str(photographs), str(dest), model=model)
    assert (again["ok"], again["skipped"], again["failed"]) == (0, 4, 0)
    answers: list[dict[str, Any]] = []
    monkeypatch.setattr(registry, "answer", lambda result, as_json: answers.append(result))
    version = trained.json["version"]
    registry.list_()
    registry.show(version)
    registry.compare(version, version, shards="", json=True)
    registry.compare(version, version, shards="")
    listed, shown, compared, said = answers
    assert "PSNR" in listed["version 1"]
    assert shown["miou"] is None
    assert shown["psnr"] == pytest.approx(metrics["psnr"], abs=1e-3)
    assert "PSNR" in shown["description"]
    assert (compared["delta"]["miou"], compared["delta"]["psnr"], compared["differences"]) == (None, 0, {})
    assert said["psnr"].endswith(" dB")


def test_pictures_of_masks_are_refused_for_images(sqlite: str, tmp_path: Path) -> None:
    from flows.segment import segment
    from tests.training.conftest import small_recipe
    from vitseg.model.bundle import save_bundle
    from vitseg.model.segmenter import build_model

    save_bundle(tmp_path / "bundle", build_model(small_recipe("model.target=rgb").model, (16, 16), 0, seed=0), ())
    write_pairs(tmp_path / "pairs", 1, 0)
    source = str(tmp_path / "pairs" / "train" / "images")
    with pytest.raises(UsageError, match="has no classes"):
        segment(source, str(tmp_path / "out"), model=str(tmp_path / "bundle"), also=["overlay"])
