"""Runs the product on odd input, as functions and without servers, and watches that it stays quiet."""

import io
import json
import os
import signal
import sys
import tarfile
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from vitseg import precision
from vitseg.data.commit import commit
from vitseg.data.loader import Batches
from vitseg.data.manifest import read_manifest
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.data.verify import verify
from vitseg.errors import DataError, VitsegError
from vitseg.inference import model as model_module
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.commit import commit_job
from vitseg.inference.job import ModelRef, Options
from vitseg.inference.plan import plan_job

SECONDS = 120
"""What takes longer hangs."""
MEMORY = 1 << 30
"""What takes more, bytes, than there was before is unbounded."""
KNOWN_KEYS = {"schema", "fingerprint", "created", "image_size", "classes", "targets", "splits", "skipped"}
"""Of a manifest that tells nothing special."""

_STARTS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pickle.find_class",
    "socket.connect",
)
_watching = False
_started: list[str] = []


def _hear(event: str, _: Any) -> None:
    if _watching and event.startswith(_STARTS):
        _started.append(event)


sys.addaudithook(_hear)


@dataclass
class Watched:
    """What was seen from outside: an error of the product's own, and all that must not be."""

    error: str | None = None
    faults: list[str] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[Watched]:
    """Take note of errors, traces, lines that libraries print, programs that are started, hangs and memory."""
    global _watching
    seen, printed = Watched(), io.StringIO()

    def hang(*_: Any) -> None:
        raise TimeoutError(f"hangs: over {SECONDS} seconds")

    memory, alarm = _peak(), signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    _watching = True
    try:
        with (
            _own_streams() as low, redirect_stdout(printed), redirect_stderr(printed),
            warnings.catch_warnings(record=True) as warned,
        ):  # fmt: skip
            warnings.simplefilter("always", append=True)  # where the product does not filter them itself
            try:
                yield seen
            except VitsegError as error:
                seen.error = f"{type(error).__name__}: {error}"
                if "\n" in str(error):
                    seen.faults.append(f"an error of several lines: {error}")
            except Exception:  # noqa: BLE001 - whatever it is, it must not be
                seen.faults.append(traceback.format_exc())
    finally:
        _watching = False
        signal.alarm(0)
        signal.signal(signal.SIGALRM, alarm)
    if text := (low() + printed.getvalue()).strip():
        seen.faults.append(f"printed: {text[:300]}")
    seen.faults += sorted({f"warned: {one.category.__name__}: {one.message}"[:300] for one in warned})
    seen.faults += [f"started: {event}" for event in _started]
    _started.clear()
    if (more := _peak() - memory) > MEMORY:
        seen.faults.append(f"took {more >> 20} MiB")


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _own_streams() -> Iterator[Any]:
    """Catch what C libraries write to standard output and error; yields a function that returns it."""
    with tempfile.TemporaryFile() as file:
        kept = [os.dup(1), os.dup(2)]
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

        def text() -> str:
            return data.decode("utf-8", "replace")

        data = b""
        try:
            yield text
        finally:
            for place, descriptor in enumerate(kept, 1):
                os.dup2(descriptor, place)
                os.close(descriptor)
            file.seek(0)
            data = file.read()


@dataclass(frozen=True)
class MadeSample:
    """One sample of a data set, read back from its tar by nothing of the product's."""

    split: str
    label: str | None
    photo: np.ndarray
    target: np.ndarray


@dataclass
class Prepared(Watched):
    """What preprocessing made of a source."""

    samples: dict[str, MadeSample] = field(default_factory=dict)
    """By the photograph's key."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Reason by key."""
    told: dict[str, Any] = field(default_factory=dict)
    """What else the manifest says."""
    classes: int = 0
    """Number of classes."""

    @property
    def outcome(self) -> tuple[Any, ...]:
        """What a repetition must give again."""
        samples = {key: (one.split, one.target.tobytes()) for key, one in self.samples.items()}
        return self.error, samples, self.skipped, self.told


def preprocess(
    source: Path | str, dest: Path, size: tuple[int, int], layout: str = "auto", *, read: bool = True
) -> Prepared:
    """Make shards of a source with samples of (height, width), and read them back."""
    with watched() as seen, closing(make_plan(str(source), layout=layout, size=size, shard_samples=4)) as plan:
        commit(plan, [write_shard(shard, plan.options, str(dest)) for shard in plan.shards], str(dest))
    made = Prepared(seen.error, seen.faults)
    if seen.error or not read or not (dest / "manifest.json").exists():
        return made
    manifest = json.loads((dest / "manifest.json").read_text())
    made.classes = len(manifest["classes"])
    rows = [(row["source"], row["reason"]) for row in manifest["skipped"]]
    made.skipped = dict(rows)
    if len(rows) > len(made.skipped):
        made.faults.append("two rows for one source")
    made.told = {key: value for key, value in manifest.items() if key not in KNOWN_KEYS and value}
    for split, values in manifest["splits"].items():
        for shard in values["shards"]:
            made.samples |= _read_tar(dest / shard["name"], split)
        told = {
            key: value
            for key, value in values.items()
            if key not in ("samples", "pixels_per_class", "shards") and value
        }
        made.told |= {f"{split}.{key}": value for key, value in told.items()}
    if len(made.samples) != sum(values["samples"] for values in manifest["splits"].values()):
        made.faults.append("samples don't add up")
    return made


def read_shards(shards: Path, size: tuple[int, int]) -> Prepared:
    """Read a data set by the product's own checks and batches; `error` is what they say first."""
    made = Prepared()
    with watched() as seen:
        report = verify(str(shards))
        if report.problems:
            raise DataError(report.problems[0])
        manifest = read_manifest(str(shards))
        for split in manifest.splits:
            batches = Batches(
                str(shards), manifest, split, batch_size=2, drop_last=False, cache=shards.parent / "cache"
            )
            for batch in batches.epoch(0):
                for key, label in zip(batch.keys, batch.labels, strict=True):
                    made.samples[f"{split}/images/{key}.png"] = MadeSample(split, None, label.numpy(), label.numpy())
    made.error, made.faults = seen.error, seen.faults
    return made


def _read_tar(path: Path, split: str) -> dict[str, MadeSample]:
    members: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, extension = member.name.rpartition(".")
            members.setdefault(key, {})[extension] = tar.extractfile(member).read()
    made = {}
    for files in members.values():
        origin = json.loads(files["json"])
        photo, target = (np.asarray(Image.open(io.BytesIO(files[name]))) for name in ("jpg", "png"))
        made[origin["source"]] = MadeSample(split, origin["label"], photo, target)
    return made


@dataclass
class Same:
    """Stands in for a bundle whose model gives back the photograph's own colors."""

    image_size: tuple[int, int]
    sha256: str
    classes: tuple[Any, ...] = ()
    model: torch.nn.Module = field(default_factory=torch.nn.Identity)

    def colors(self, images: torch.Tensor, moments: Any = None) -> torch.Tensor:
        return images.float() / 255


@dataclass
class Segmented(Watched):
    """What segmenting made of a source."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    """Of each image that was made, by the photograph's key: uint8 (H, W, 3)."""
    listed: int = 0

    @property
    def outcome(self) -> tuple[Any, ...]:
        """What a repetition must give again."""
        rows = [
            (row["key"], row["status"] == "failed", row["error"] if row["status"] == "failed" else "")
            for row in self.rows
        ]
        return self.error, rows, {key: pixels.tobytes() for key, pixels in self.pixels.items()}


def segment(source: Path | str, dest: Path, size: tuple[int, int], *, tile: bool = False) -> Segmented:
    """Run a whole job whose images are the photographs themselves, where they have the model's size (height, width)."""
    bundle = Same(size, sha256=f"{size[0]:032x}{size[1]:032x}")
    loaded, model_module.load_bundle = model_module.load_bundle, lambda folder: bundle
    model = ModelRef(name="same", version="1", sha256=bundle.sha256, folder=str(Path(__file__).parent))
    before, job = precision.has_bfloat16, None
    precision.has_bfloat16 = lambda device: False
    try:
        with watched() as seen:
            job = plan_job(
                str(source), str(dest), model=model, options=Options(tile=tile), chunk_images=16, batch_size=4
            )
            for index in range(job.chunks):
                segment_chunk(job, index)
            commit_job(job, 1.0)
    finally:
        model_module.load_bundle, precision.has_bfloat16 = loaded, before
    made = Segmented(seen.error, seen.faults)
    if job is None or seen.error or (seen.faults and not (dest / job.file("summary.json")).exists()):
        return made
    made.listed = job.listed
    parts = sorted((dest / "_vitseg" / job.id).glob("part-*.parquet"))
    made.rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    for row in made.rows:
        if row["mask_key"]:
            made.pixels[row["key"]] = np.asarray(Image.open(dest / row["mask_key"]).convert("RGB"))
    return made
