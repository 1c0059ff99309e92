"""Ranks compared with threads, the Trainer with a loop of a few lines, and the model with large matrix products.

Every side is a process of its own, in the environment in which `vitseg train` starts its ranks.
"""

import contextlib
import gc
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.bench.launches import beside_the_graph, passes
from tests.bench.measure import Figure, Side, compare, pack_scenes
from tests.bench.rank import WARM_UP, timed_recipe
from vitseg.config import load_recipe
from vitseg.data.loader import Batches
from vitseg.precision import has_bfloat16
from vitseg.training.batch_size import Trial, attempt_steps, climb, free_memory
from vitseg.training.job import Job
from vitseg.training.launch import KEEP_MEMORY
from vitseg.training.throughput import matrix_rate, training_flops

CPU = torch.device("cpu")
THREADS = os.cpu_count() or 1
SIDE, STEPS = 256, 16
TILE, TILE_STEPS = 96, 64
"""Here a step takes a tenth of the time, and communication between ranks as long as before."""
GPU_SCENES = 512
FEW = 8
"""Steps of the larger preset."""


def figures(folder: Path) -> Iterator[Figure]:
    counts = (
        ("forward + backward of small", passes("small"), 600),
        ("a step beside its graph", beside_the_graph("small", folder), 300),
    )
    for what, count, goal in counts:
        yield Figure(f"train: operations dispatched in {what} (CPU count)", count, goal, "lower", 1)
    if torch.cuda.is_available():
        yield from on_a_gpu("small", folder, rate=2500, share=0.1)
        yield from on_a_gpu("base", folder, rate=None, share=0.25)
        return
    batch_size, small = timed_recipe().data.batch_size, timed_recipe(preset="small")
    shards, manifest = pack_scenes(folder / "large", train=STEPS * batch_size, val=8, side=SIDE)
    few, _ = pack_scenes(folder / "few", train=FEW * small.data.batch_size, val=8, side=SIDE)
    tiles, _ = pack_scenes(folder / "small", train=TILE_STEPS * batch_size, val=8, side=TILE)
    for side, where in ((SIDE, shards), (TILE, tiles)):
        yield compare(
            f"train: images a second, 2 ranks of 1 thread / 1 rank of 2 threads, {side} × {side}",
            ranks(2, 1, where, folder), ranks(1, 2, where, folder), goal=1.0, better="higher", rounds=5, warm_up=False,
        )  # fmt: skip
    yield compare(
        f"train: images a second, Trainer on shards / bare loop on tensors in memory, {SIDE} × {SIDE}",
        ranks(1, THREADS, shards, folder), bare_loop(shards), goal=0.97, better="higher", rounds=5, warm_up=False,
    )  # fmt: skip
    flops = training_flops(small, manifest.image_size, len(manifest.classes))
    yield share_of_products("float32", flops, few, folder, goal=None)
    if has_bfloat16(CPU):
        yield share_of_products("bfloat16", flops, few, folder, goal=0.6)
    yield compare(
        f"train: images a second, preset small at {SIDE} × {SIDE}, run.precision=auto / float32",
        lambda: small_rate(few, folder, "auto"), lambda: small_rate(few, folder, "float32"),
        goal=3.0, better="higher", warm_up=False,
    )  # fmt: skip


def share_of_products(precision: str, flops: int, shards: str, folder: Path, goal: float | None) -> Figure:
    """Compare the FLOP/s of preset `small`, of so many FLOP an image, with those of large matrix products."""
    return compare(
        f"train: FLOP/s of preset small at {SIDE} × {SIDE} / FLOP/s of large matrix products, {precision}",
        lambda: flops * small_rate(shards, folder, precision), lambda: matrix_rate(CPU, precision, seconds=2),
        goal=goal, better="higher", warm_up=False,
    )  # fmt: skip


def on_a_gpu(preset: str, folder: Path, *, rate: float | None, share: float) -> Iterator[Figure]:
    """Measure a preset at the batch at which it is fastest, which is found as for `data.batch_size=auto`."""
    device, recipe = torch.device("cuda", 0), load_recipe(preset)
    shards, manifest = pack_scenes(folder / preset, train=GPU_SCENES, val=8, side=SIDE)
    sample = next(Batches(shards, manifest, "train", batch_size=8).epoch(0))
    job, trials = Job(str(folder), shards, manifest.fingerprint, recipe), list[Trial]()

    free = free_memory(device, 1)
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the figures
        climb(
            lambda images: attempt_steps(job, manifest, sample, device, images, free),
            8, 1024, on_trial=trials.append, may_fail=True,
        )  # fmt: skip
    gc.collect()
    torch.cuda.empty_cache()  # the processes below need it
    best = max(trials, key=lambda trial: trial.images_per_second)
    name = f"preset {preset} at {SIDE} × {SIDE} in batches of {best.images}"
    yield Figure(f"train: images a second of {name}", round(best.images_per_second), rate, "higher", 1)
    flops = training_flops(recipe, manifest.image_size, len(manifest.classes)) * best.images_per_second
    products = matrix_rate(device)
    yield Figure(f"train: FLOP/s of {name} / FLOP/s of large matrix products", flops / products, share, "higher", 1)
    batch = f"data.batch_size={min(best.images, GPU_SCENES // (2 * WARM_UP))}"
    yield compare(
        f"train: images a second of {preset}, Trainer on shards / bare loop on tensors in memory",
        lambda: run_ranks(1, THREADS, shards, folder, preset, batch)[1], bare_loop(shards, preset, batch),
        goal=0.95, better="higher", warm_up=False,
    )  # fmt: skip


_NUMBERS = itertools.count()


def ranks(nproc: int, threads: int, shards: str, folder: Path) -> Side:
    """Return a side that trains in a process group of its own; what processes need to start is not counted."""
    return lambda: run_ranks(nproc, threads, shards, folder, "tiny", "run.precision=float32")[1]  # as the bare loop


def run_ranks(
    nproc: int, threads: int, shards: str, folder: Path, preset: str = "tiny", *overrides: str
) -> tuple[float, float]:
    """Train for an epoch; return the share of it spent waiting for data, and images a second."""
    command = ["torch.distributed.run", f"--nproc-per-node={nproc}", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["-m", "tests.bench.rank", shards, str(folder / f"checkpoints-{next(_NUMBERS)}"), preset, *overrides]
    waited, rate = _numbers(command, threads)
    return waited, rate


def small_rate(shards: str, folder: Path, precision: str) -> float:
    """Return images a second of preset `small` in a precision; choosing one is not counted."""
    return run_ranks(1, THREADS, shards, folder, "small", f"run.precision={precision}")[1]


def bare_loop(shards: str, preset: str = "tiny", *overrides: str) -> Side:
    """Return a side that trains as `tests.bench.bare_loop` does."""
    return lambda: _numbers(["tests.bench.bare_loop", shards, preset, *overrides], THREADS)[-1]


def _numbers(module: list[str], threads: int) -> list[float]:
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", *module]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [float(word) for word in done.stdout.splitlines()[-1].split()]
