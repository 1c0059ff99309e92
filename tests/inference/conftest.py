"""Pictures in plain colors, and a model whose output for them is known."""

import io
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitseg import precision
from vitseg.inference import chunk
from vitseg.inference import model as model_module
from vitseg.inference.commit import Summary, commit_job
from vitseg.inference.job import Job, Options
from vitseg.inference.plan import plan_job

from .color_rule import SHA256, ColorRule, model

RED, GREEN, BLUE = (250, 20, 10), (20, 250, 10), (10, 20, 250)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in float32, also on machines with bfloat16."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> ColorRule:
    """The model that every job of the test loads."""
    rule = ColorRule()
    monkeypatch.setattr(model_module, "load_bundle", lambda folder: rule)
    model_module._loaded.cache_clear()
    yield rule
    model_module._loaded.cache_clear()


def encode(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(color: tuple[int, int, int], width: int = 21, height: int = 13) -> Image.Image:
    return Image.new("RGB", (width, height), color)


def halves(width: int = 24, height: int = 16) -> Image.Image:
    """Draw red on the left and blue on the right."""
    image = plain(RED, width, height)
    image.paste(plain(BLUE, width - width // 2, height), (width // 2, 0))
    return image


def put(root: Path, key: str, data: bytes) -> Path:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Source and destination."""
    source = tmp_path / "photos"
    source.mkdir()
    return source, tmp_path / "masks"


def gather_options(options: dict[str, Any]) -> dict[str, Any]:
    """Gather the fields of `Options` among keyword arguments into one."""
    own = {field.name for field in fields(Options)} & options.keys()
    rest = {name: value for name, value in options.items() if name not in own}
    return rest | {"options": Options(**{name: options[name] for name in own})}


def run(source: Path, dest: Path, sha256: str = SHA256, **options: Any) -> tuple[Job, Summary]:
    """Plan, segment all chunks, commit."""
    job = plan_job(
        str(source), str(dest), model=model(sha256), **{"chunk_images": 4, "batch_size": 3} | gather_options(options)
    )
    written = sum(chunk.segment_chunk(job, index).written for index in range(job.chunks))
    return job, commit_job(job, 2.0, written)


def rows(job: Job) -> list[dict[str, Any]]:
    """Return the ledger of a job, in the order of chunks."""
    folder = Path(job.dest, "_vitseg", job.id)
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def read_ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image)
