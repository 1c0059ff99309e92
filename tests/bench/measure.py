"""Two sides, in turn, several rounds: the figure is the median of the rounds' ratios."""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vitseg.data.commit import commit
from vitseg.data.manifest import Manifest
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.synth.dataset import write_scenes

_PACKAGES = ("torch", "prefect", "mlflow", "webdataset", "pillow", "simplejpeg", "imagecodecs")

Side = Callable[[], float]
"""Does its work and returns its measurement: seconds, images a second, a score."""


@dataclass(frozen=True)
class Figure:
    """One measured ratio; `better` is `higher` or `lower`, `goal` the value to reach, if there is one."""

    figure: str
    value: float
    goal: float | None
    better: str
    rounds: int

    def line(self) -> str:
        """Return the JSON object that `make bench` prints."""
        return json.dumps({**asdict(self), "versions": versions()}, ensure_ascii=False)


def compare(
    figure: str, ours: Side, other: Side, *, goal: float | None, better: str, rounds: int = 3, warm_up: bool = True
) -> Figure:
    """Measure ours ÷ other; the side that runs first changes every round, so that neither always has the warmer machine."""
    if warm_up:
        ours()
        other()
    ratios = []
    for number in range(rounds):
        if number % 2:
            below = other()
            above = ours()
        else:
            above = ours()
            below = other()
        ratios.append(above / below)
        log(f"{figure}: round {number + 1}: {above:.4g} / {below:.4g} = {ratios[-1]:.3f}")
    return Figure(figure, round(statistics.median(ratios), 4), goal, better, rounds)


def cpu_seconds(work: Callable[[], object]) -> Side:
    """Return a side that measures the processor time of all threads of this process."""

    def side() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return side


def wall_seconds(work: Callable[[], object]) -> Side:
    """Return a side that measures how long the work takes."""

    def side() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return side


def per_second(count: int, work: Callable[[], object]) -> Side:
    """Return a side that measures how many of `count` pieces of work are done a second."""

    def side() -> float:
        start = time.perf_counter()
        work()
        return count / (time.perf_counter() - start)

    return side


def log(text: str) -> None:
    """Write to standard error; standard output is for the figures."""
    sys.stderr.write(f"{text}\n")


def pack_scenes(folder: Path, *, train: int, val: int, side: int, shard_samples: int = 64) -> tuple[str, Manifest]:
    """Generate street scenes and pack them as square samples; return the folder of the shards, and their manifest."""
    log(f"drawing {train + val} scenes")
    source, shards = str(folder / "scenes"), str(folder / "shards")
    write_scenes(source, train=train, val=val, size=(2 * side, side), seed=0)
    plan = make_plan(source, size=(side, side), shard_samples=shard_samples)
    return shards, commit(plan, [write_shard(shard, plan.options, shards) for shard in plan.shards], shards)


def versions() -> dict[str, Any]:
    """Return what the figures depend on."""
    found: dict[str, Any] = {"python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    machine = {"processor": _processor(), "cores": len(os.sched_getaffinity(0))}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return {**found, "machine": machine}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
