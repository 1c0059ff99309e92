"""What preprocessing costs beyond the transform itself (plan, hashes, checks, tar, records, manifest), and how it scales."""

import io
import itertools
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from webdataset import TarWriter

from tests.bench.loader_peers import name_of, run_beside
from tests.bench.measure import Figure, Side, compare, cpu_seconds, log
from vitseg.data.commit import commit
from vitseg.data.label_values import read_ids
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.labels import CITYSCAPES
from vitseg.synth.dataset import write_scenes

SCENES = 32
SIDE = 256
FEW, SOME = 128, 1000
PACKED = 5000
FRAME = (2048, 1024)
"""Width and height of Cityscapes' own photographs, pixels."""


def figures(folder: Path) -> Iterator[Figure]:
    source, numbers = folder / "scenes", itertools.count()
    log(f"drawing {SCENES} scenes")
    write_scenes(str(source), train=SCENES, val=0, size=(1024, 512), seed=0)

    def whole() -> None:
        dest = str(folder / f"shards-{next(numbers)}")  # a new one, because finished shards are not written again
        plan = make_plan(str(few), size=(SIDE, SIDE), shard_samples=64)
        commit(plan, [write_shard(shard, plan.options, dest) for shard in plan.shards], dest)

    def bare() -> None:
        table = read_ids(np.arange(256), CITYSCAPES).train_ids
        for photo in sorted(few.glob("leftImg8bit/*/*/*.png")):
            transform(photo, table)

    few = folder / "few"
    repeat(source, few, FEW)
    yield compare(
        f"preprocess: CPU time a sample / Pillow's transform alone ({FEW} images)",
        cpu_seconds(whole), cpu_seconds(bare), goal=1.10, better="lower", rounds=7,
    )  # fmt: skip
    stored = {"jpg": bytes(20_000), "png": bytes(4_000), "json": bytes(250)}
    yield compare(
        f"preprocess: CPU time of writing {PACKED} samples, webdataset / tarfile",
        cpu_seconds(lambda: by_webdataset(stored)), cpu_seconds(lambda: by_tarfile(stored)),
        goal=None, better="lower", rounds=5,
    )  # fmt: skip
    frames, many, some = folder / "frames", folder / "many", folder / "some"
    write_scenes(str(frames), train=SCENES, val=0, size=FRAME, seed=0)
    repeat(frames, many, SOME)
    repeat(source, some, SOME)

    def ours(source: Path, workers: int, runner: str = "process") -> Side:
        return lambda: rate(source, folder / f"shards-{next(numbers)}", workers, runner)

    yield compare(
        f"preprocess: images a second, 2 processes / 1 ({SOME} images of {FRAME[0]}×{FRAME[1]})",
        ours(many, 2), ours(many, 1), goal=1.8, better="higher", warm_up=False, rounds=5,
    )  # fmt: skip

    def peer(decoder: str) -> Side:
        words = ("tests.bench.preprocess_peer", str(some), decoder)
        return lambda: float(run_beside("litdata", folder, *words, str(folder / f"lit-{next(numbers)}")))

    for decoder, told, goal in (("ours", "our decoding in both", 2.0), ("pillow", "Pillow in theirs", None)):
        yield compare(
            f"preprocess: images a second, 2 threads / {name_of('litdata')}'s optimize, 2 workers, {told} ({SOME} images)",
            ours(some, 2, "thread"), peer(decoder), goal=goal, better="higher", warm_up=False,
        )  # fmt: skip


def repeat(source: Path, dest: Path, count: int) -> None:
    """Make a larger source from a small one: each scene many times, under other names."""
    photos = sorted(source.glob("leftImg8bit/*/*/*.png"))
    for number in range(count):
        photo = photos[number % len(photos)]
        for tree, ending in (("leftImg8bit", "leftImg8bit.png"), ("gtFine", "gtFine_labelIds.png")):
            place = dest / tree / "train" / "city"
            place.mkdir(parents=True, exist_ok=True)
            given = str(photo).replace("/leftImg8bit/", f"/{tree}/").replace("leftImg8bit.png", ending)
            (place / f"city_{number:06d}_000000_{ending}").hardlink_to(given)


def rate(source: Path, dest: Path, workers: int, runner: str) -> float:
    """Return images a second of the command, from its first listing of the source to the manifest."""
    command = [str(Path(sys.executable).with_name("vitseg")), "preprocess", str(source), str(dest)]
    command += ["--size", f"{SIDE}x{SIDE}", "--shard-samples", "64", "--runner", runner, "--json"]
    done = subprocess.run([*command, "--workers", str(workers)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    answer = json.loads(done.stdout)
    return float(answer["samples"] / answer["seconds"])


def by_webdataset(members: dict[str, bytes]) -> None:
    with io.BytesIO() as file, TarWriter(file, encoder=False, mtime=0) as tar:
        for number in range(PACKED):
            tar.write({"__key__": f"{number:06}", **members})


def by_tarfile(members: dict[str, bytes]) -> None:
    with io.BytesIO() as file, tarfile.open(fileobj=file, mode="w|") as tar:
        for number in range(PACKED):
            for ending, data in members.items():
                member = tarfile.TarInfo(f"{number:06}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def by_pillow(path: Path) -> Image.Image:
    return Image.open(path)


def transform(photo: Path, table: np.ndarray, decode: Callable[[Path], Image.Image] = by_pillow) -> tuple[bytes, bytes]:
    """Do what every such pipeline must: decode, resize, map ids, encode; with our filters and qualities."""
    label = str(photo).replace("leftImg8bit.png", "gtFine_labelIds.png").replace("/leftImg8bit/", "/gtFine/")
    small, mask = io.BytesIO(), io.BytesIO()
    with decode(photo) as image:
        resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        resized.save(small, "JPEG", quality=95)
    with decode(Path(label)) as image:
        ids = table[np.asarray(image.resize((SIDE, SIDE), Image.Resampling.NEAREST))]
        Image.fromarray(ids).save(mask, "PNG", compress_level=4)
    return small.getvalue(), mask.getvalue()
