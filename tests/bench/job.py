"""What a training job costs beside its steps: `vitseg train` from a bucket with all its logging, and checkpoints."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from mlflow import MlflowClient

from tests.bench.loader import copy
from tests.bench.measure import Figure, Side, compare, log, pack_scenes
from tests.bench.rank import timed_recipe
from tests.bench.train import bare_loop
from vitseg.checkpoint import CheckpointWriter, capture
from vitseg.config import load_recipe
from vitseg.model.segmenter import build_model
from vitseg.storage import open_store
from vitseg.training.optimizer import build_optimizers

SIDE, STEPS = 256, 25
MINUTE = 60.0
_NUMBERS = itertools.count()


def figures(folder: Path) -> Iterator[Figure]:
    from flows.stack import environment, stack

    os.environ["VITSEG_HOME"] = str(folder / "home")
    stack.up()
    environment.enter(only_stack=True)
    try:
        shards, _ = pack_scenes(folder, train=STEPS * timed_recipe().data.batch_size, val=8, side=SIDE)
        bucket = copy(shards, "s3://vitseg/shards")
        yield compare(
            "job: images a second, `vitseg train` (1 process, from the bucket, logged) / bare loop on tensors in memory, "
            f"{SIDE} × {SIDE}",
            command(bucket), bare_loop(shards), goal=0.97, better="higher", rounds=5, warm_up=False,
        )  # fmt: skip
        yield compare(
            "job: share of a minute that training pauses for a checkpoint of preset base, into the bucket",
            pause("s3://vitseg/checkpoints"), lambda: MINUTE, goal=0.02, better="lower", warm_up=False,
        )  # fmt: skip
    finally:
        stack.down()


def command(shards: str) -> Side:
    """Return a side that runs the command with its default logging, and measures images a second after the first steps."""
    recipe = timed_recipe()

    def side() -> float:
        words = ["train", shards, "--preset", "tiny", "--nproc", "1", "--json", "--name", f"timed-{next(_NUMBERS)}"]
        words += ["--no-resume", "--epochs", "1"]
        start = [sys.executable, "-c", "from flows.cli import main; main()"]
        done = subprocess.run([*start, *words], stdout=subprocess.PIPE, text=True, check=True)
        history = MlflowClient().get_metric_history(json.loads(done.stdout)["run_id"], "step/loss")
        first, *_, last = sorted(history, key=lambda metric: metric.step)
        steps, seconds = last.step - first.step, (last.timestamp - first.timestamp) / 1000
        return recipe.data.batch_size * steps / seconds

    return side


def pause(place: str) -> Side:
    """Return a side that measures the seconds for which a checkpoint pauses training; it is written beside training.

    Each checkpoint waits until the one before is written, which at one a minute never happens.
    """
    recipe = load_recipe("base")
    model = build_model(recipe.model, (256, 256), 19, 0)
    optimizers = build_optimizers(model, recipe.optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers:
        optimizer.step()  # creates its moments
    store = open_store(place)

    def side() -> float:
        pauses, written = [], []
        with CheckpointWriter(store, keep=2) as writer:
            for step in range(3):
                start = time.perf_counter()
                writer.put(capture(model, optimizers, step, {}))
                pauses.append(time.perf_counter() - start)
                writer.wait()
                written.append(time.perf_counter() - start)
        size = max(info.size for info in store.list())
        log(f"  {size / 1e6:.0f} MB, written in {statistics.median(written):.1f} s beside training")
        return statistics.median(pauses)

    return side
