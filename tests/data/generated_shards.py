"""Small data sets: shards written by the stock writer, and sources prepared by ours."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import webdataset as wds
from PIL import Image

from vitseg.data.commit import commit
from vitseg.data.manifest import Manifest, ShardInfo, Split, manifest_tag
from vitseg.data.plan import Plan, make_plan
from vitseg.data.shards import write_shard
from vitseg.labels import CITYSCAPES, train_classes

HEIGHT, WIDTH = 16, 24


def photo(number: int) -> np.ndarray:
    """A picture that is easy to tell from others, and from its mirror image: (H, W, 3)."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, :, 0] = np.linspace(0, 255, WIDTH)
    picture[:, :, 1] = number * 9 % 256
    return picture


def label(number: int) -> np.ndarray:
    """Ids that say which sample it is, and which side is left: (H, W)."""
    ids = np.full((HEIGHT, WIDTH), 255, np.uint8)
    ids[:, :4] = number % 19
    return ids


def encode(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def sample(number: int, **members: bytes | None) -> dict:
    """The members of one sample; `members` replaces some of them, or leaves them out (None)."""
    members_ = {
        "jpg": encode(photo(number), "JPEG"),
        "png": encode(label(number), "PNG"),
        "json": b"{}",
        **members,
    }
    return {"__key__": f"key{number:03d}", **{name: data for name, data in members_.items() if data is not None}}


def write_tar(path: Path, samples: list[dict], count: int | None = None) -> ShardInfo:
    with path.open("wb") as file, wds.TarWriter(file, encoder=False, mtime=0) as tar:
        for row in samples:
            tar.write(row)
    return shard_info(path, len(samples) if count is None else count)


def shard_info(path: Path, count: int) -> ShardInfo:
    data = path.read_bytes()
    return ShardInfo(path.name, hashlib.sha256(data).hexdigest(), len(data), count)


def manifest_of(shards: list[ShardInfo], split: str = "train") -> Manifest:
    classes = train_classes(CITYSCAPES)
    total = sum(shard.samples for shard in shards)
    return Manifest(
        fingerprint="f",
        created="2026-01-01T00:00:00Z",
        image_size=(HEIGHT, WIDTH),
        classes=classes,
        splits={split: Split(total, (0,) * len(classes), tuple(shards))},
    )


def write_data_set(folder: Path, counts: list[int]) -> Manifest:
    """Write one shard a count; samples are numbered through all shards."""
    folder.mkdir(exist_ok=True)
    firsts = np.cumsum([0, *counts])
    shards = [
        write_tar(folder / f"train-{index:05d}.tar", [sample(first + i) for i in range(count)])
        for index, (first, count) in enumerate(zip(firsts, counts, strict=False))
    ]
    return manifest_of(shards)


def prepare(source: Path, dest: Path, **options: object) -> tuple[Plan, Manifest]:
    """Make a data set of a source, small images and small shards."""
    before = manifest_tag(str(dest))
    plan = make_plan(str(source), **{"size": (32, 32), "shard_samples": 3, **options})
    records = [write_shard(shard, plan.options, str(dest)) for shard in plan.shards]
    return plan, commit(plan, records, str(dest), before)


def tar_names(dest: Path) -> list[str]:
    return sorted(path.name for path in dest.glob("*.tar"))


def write_folders(root: Path, masks: list[np.ndarray], classes: list[dict]) -> Path:
    """Write a `folders` source with one class list, and as many samples as masks (H, W) or (H, W, 3)."""
    for number, mask in enumerate(masks):
        for part, pixels in (("images", np.full((*mask.shape[:2], 3), 90, np.uint8)), ("masks", mask)):
            path = root / "train" / part / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (root / "classes.json").write_text(json.dumps(classes))
    return root
