"""What batch segmentation costs, compared with the model alone, with its slowest stage, and with other programs.

The bucket is in the embedded store, which runs on the same cores. BENCH_OBJECTS is the size of the large bucket.
"""

import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.bench.measure import Figure, Side, compare, log, pack_scenes
from tests.bench.networks import TrainerWithoutCheckpoints
from tests.bench.segment_peers import plain_loop, ray_data
from tests.bench.segment_run import SIZE, smooth_scores
from vitseg import dist
from vitseg.config import load_recipe
from vitseg.images.resize import model_input
from vitseg.inference.model import default_batch, forward
from vitseg.inference.upsample import upsample_scores
from vitseg.labels import CITYSCAPES, train_classes
from vitseg.masks import encode_mask, mask_ids, renumber
from vitseg.model.bundle import Bundle, load_bundle, save_bundle
from vitseg.precision import choose, time_forward
from vitseg.storage import join, open_store
from vitseg.synth.dataset import write_photographs
from vitseg.training.logger import TrainingLogger
from vitseg.training.objectives.segmentation import Segmentation
from vitseg.training.worker import batches_of

BUCKET = "s3://vitseg"
IMAGES = 256
LARGE = 96
PASSES = 50
CORES = len(os.sched_getaffinity(0))
OBJECTS = int(os.environ.get("BENCH_OBJECTS", "20000"))


def figures(folder: Path) -> Iterator[Figure]:
    from flows.stack import environment, stack

    os.environ["VITSEG_HOME"] = str(folder / "home")
    stack.up(servers=["s3"])
    environment.enter(only_stack=True)
    try:
        yield from _figures(folder)
    finally:
        stack.down()


def _figures(folder: Path) -> Iterator[Figure]:
    log(f"drawing {IMAGES} photographs")
    source = join(BUCKET, "photographs")
    write_photographs(source, count=IMAGES, seed=0)
    model = str(folder / "bundle")
    train(folder, Path(model))
    bundle = load_bundle(Path(model))
    numbers = itertools.count()
    if torch.cuda.is_available():
        bundle.model.cuda()
        yield from _on_a_gpu(model, bundle, torch.device("cuda"))
        return

    def job(*options: str, of: str = source) -> Side:
        return lambda: run(of, join(BUCKET, f"masks-{next(numbers)}"), model, *options)["images_per_second"]

    def bare() -> float:
        images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
        return rate(IMAGES, lambda: [bundle.predict(images) for _ in range(IMAGES // 2)])

    yield compare(
        "segment: images a second of the command, bucket to bucket / forward passes alone (small)",
        job(), bare, goal=0.90, better="higher", warm_up=False,
    )  # fmt: skip
    large = join(BUCKET, "large")
    fill(large, LARGE, (2048, 1024))
    yield compare(
        "segment: images a second / a plain loop, the same model and store (2048×1024, small)",
        job(of=large), lambda: plain_loop(large, join(BUCKET, f"loop-{next(numbers)}"), bundle.predict),
        goal=2.0, better="higher", warm_up=False,
    )  # fmt: skip
    yield compare(
        "segment: images a second / Ray Data (read_images, map_batches, write_images), the same (2048×1024, small)",
        job(of=large), lambda: ray_data(folder / "peer", large, join(BUCKET, f"ray-{next(numbers)}"), model),
        goal=1.3, better="higher", warm_up=False,
    )  # fmt: skip
    for kind, count in (("PNG", 200), ("JPEG", 400)):
        drawn = join(BUCKET, kind.lower())
        fill(drawn, count, (2048, 1024), kind)
        yield from _free(
            kind, job("--free", of=drawn), lambda of=drawn: stages(of, join(BUCKET, f"stage-{next(numbers)}"))
        )
    many, few = join(BUCKET, "many"), join(BUCKET, "few")
    fill(many, OBJECTS, (256, 128))
    fill(few, OBJECTS // 20, (256, 128))
    peaks: dict[str, list[float]] = {many: [], few: []}

    def sized(address: str) -> Side:
        def side() -> float:
            result = run(address, join(BUCKET, f"sized-{next(numbers)}"), model, "--free")
            peaks[address].append(result["peak_bytes"])
            return result["images_per_second"]

        return side

    yield compare(
        f"segment: images a second of {OBJECTS} objects / of {OBJECTS // 20} (a model that costs nothing)",
        sized(many), sized(few), goal=0.95, better="higher", warm_up=False,
    )  # fmt: skip
    above, below = iter(peaks[many]), iter(peaks[few])
    yield compare(
        f"segment: peak memory with {OBJECTS} objects / with {OBJECTS // 20}",
        lambda: next(above), lambda: next(below), goal=1.10, better="lower", warm_up=False,
    )  # fmt: skip


def _on_a_gpu(model: str, bundle: Bundle, device: torch.device) -> Iterator[Figure]:
    """Yield how busy jobs keep a GPU. What processes need to start is left out, by the difference of two jobs."""
    numbers = itertools.count()
    precision = choose(device, lambda: time_forward(bundle.model, bundle.image_size))
    batch = default_batch(device, bundle.image_size)
    images = torch.randint(0, 256, (batch, 3, *bundle.image_size), dtype=torch.uint8, device=device)
    precision = choose(device, lambda: time_forward(bundle.model, bundle.image_size))

    def passes() -> None:
        for _ in range(PASSES):
            forward(bundle, images, device, precision)
        torch.get_device_module(device).synchronize()

    def seconds(source: str, *options: str) -> float:
        return run(source, join(BUCKET, f"gpu-{next(numbers)}"), model, *options)["seconds"]

    def compared(size: tuple[int, int], count: int, windows: int, *options: str) -> Figure:
        few, many = (join(BUCKET, f"{name}-{size[0]}-{count}") for name in ("few", "many"))
        fill(few, count // 4, size)
        fill(many, count, size)
        what = " ".join([f"{size[0]}×{size[1]}", *options])
        return compare(
            f"segment: images a second of the job, bucket to bucket / forward passes alone (small, {what}, {CORES} cores)",
            lambda: windows * (count - count // 4) / (seconds(many, *options) - seconds(few, *options)),
            lambda: rate(PASSES * batch, passes), goal=0.90, better="higher", warm_up=False,
        )  # fmt: skip

    passes()
    yield compared((512, 256), OBJECTS, 1)
    yield compared((2048, 1024), OBJECTS // 4, 1)
    yield compared((2048, 1024), OBJECTS // 50, 7 * 15, "--tile")  # windows of 256×256, every 128 pixels


def _free(kind: str, job: Side, alone: Callable[[], dict[str, float]]) -> Iterator[Figure]:
    """Yield how a job whose model costs nothing compares with its stages."""
    rates: list[float] = []
    each: list[dict[str, float]] = []

    def whole() -> float:
        rates.append(job())
        return rates[-1]

    def slowest() -> float:
        each.append(alone())
        return min(each[-1][name] for name in ("fetch", "decode", "encode", "put"))

    yield compare(
        f"segment: images a second / the slowest of fetch, decode, encode, put alone ({kind}, 2048×1024, no model)",
        whole, slowest, goal=0.80, better="higher", warm_up=False,
    )  # fmt: skip
    measured, found = iter(rates), iter(each)
    yield compare(
        f"segment: the same / what {CORES} cores could do, if all stages alone were spread over them ({kind})",
        lambda: next(measured), lambda: CORES / sum(1 / rate for rate in next(found).values()),
        goal=None, better="higher", warm_up=False,
    )  # fmt: skip


def train(folder: Path, bundle: Path) -> None:
    """Train `small` for a minute or two: the predictions of an untrained model do not look like masks."""
    shards, manifest = pack_scenes(folder / "lesson", train=96, val=8, side=SIZE[0])
    recipe = load_recipe("small", overrides=["data.batch_size=8", "run.epochs=5", "run.evaluate_epochs=5"])
    world = dist.start()
    objective = Segmentation(Segmentation.build_model(recipe, manifest).to(world.device), recipe, manifest)
    data, validation = batches_of(shards, manifest, recipe, world)
    log("training the preset small for 5 epochs of 96 scenes")
    TrainerWithoutCheckpoints(
        objective, world, data, validation, open_store(folder / "nothing"), TrainingLogger()
    ).run()
    save_bundle(bundle, objective.model, manifest.classes)


def run(source: str, dest: str, model: str, *options: str) -> dict[str, Any]:
    """Run the command's flow in a process of its own; return its result and its peak memory."""
    command = [sys.executable, "-m", "tests.bench.segment_run", source, dest, model, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def rate(count: int, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def fill(address: str, count: int, size: tuple[int, int], kind: str = "JPEG") -> None:
    """Write `count` photographs of one size and format: a few drawings, many times."""
    import io

    from PIL import Image

    from vitseg.synth.scene import draw_scene

    log(f"filling {address} with {count} photographs of {size[0]}x{size[1]}")
    drawn = []
    for seed in range(4):
        buffer = io.BytesIO()
        Image.fromarray(draw_scene((1, seed), size)[0]).save(buffer, kind, quality=92)
        drawn.append(buffer.getvalue())
    store = open_store(address)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.write(f"{number:06d}.{kind.lower()}", drawn[number % 4]), range(count)))


def stages(source: str, dest: str) -> dict[str, float]:
    """Return images a second of each stage, alone in one thread."""
    store, target, scores = open_store(source), open_store(dest), smooth_scores(19)
    keys = [info.key for info in store.list()][:50]
    data = store.read(keys[0])
    _, size = model_input(data, SIZE, 10**9)
    numbers, palette = mask_ids(train_classes(CITYSCAPES), "train")
    ids: np.ndarray = upsample_scores(scores[0], size).ids
    mask = encode_mask(renumber(ids, numbers), palette, {"source-etag": "x"})
    work: dict[str, Callable[[str], object]] = {
        "fetch": store.read_tagged,
        "decode": lambda key: model_input(data, SIZE, 10**9),
        "choose": lambda key: upsample_scores(scores[0], size),
        "encode": lambda key: encode_mask(renumber(ids, numbers), palette, {"source-etag": "x"}),
        "put": lambda key: target.write(f"{key}.png", mask, metadata={"source-etag": "x"}),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rates = {name: rate(len(keys), functools.partial(list, map(stage, keys))) for name, stage in work.items()}
    torch.set_num_threads(threads)
    log("  alone, images a second: " + ", ".join(f"{name} {value:.0f}" for name, value in rates.items()))
    return rates
