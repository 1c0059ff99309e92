"""How long commands take that have next to nothing to do, on a machine without servers: what it costs to start and to end.

The other side is the same work by the functions of `vitseg` in this process, which has imported all that it needs. The goal is
one of seconds, which the log shows; a ratio of so little work says how small the work is.
"""

import functools
import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.measure import Figure, compare, log, pack_scenes, wall_seconds
from vitseg.config import load_recipe
from vitseg.data.commit import commit
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.evaluation import evaluate_bundle
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.commit import commit_job
from vitseg.inference.job import ModelRef, Options
from vitseg.inference.plan import plan_job
from vitseg.model.bundle import load_bundle, save_bundle
from vitseg.model.segmenter import build_model
from vitseg.registry import versions
from vitseg.synth.dataset import write_photographs

IMAGES = 8
SIDE = 64
GOAL_SECONDS = 4.0


def figures(folder: Path) -> Iterator[Figure]:
    shards, manifest = pack_scenes(folder, train=IMAGES, val=IMAGES, side=SIDE)
    photographs, bundle = str(folder / "photographs"), folder / "bundle"
    write_photographs(photographs, count=IMAGES, seed=0)
    model = load_recipe("tiny").model
    save_bundle(bundle, build_model(model, manifest.image_size, len(manifest.classes), seed=0), manifest.classes)
    numbers = itertools.count()

    def new(name: str) -> str:
        return str(folder / f"{name}-{next(numbers)}")  # finished work is not done again

    def preprocess() -> None:
        dest = new("shards")
        plan = make_plan(str(folder / "scenes"), size=(SIDE, SIDE))
        commit(plan, [write_shard(shard, plan.options, dest) for shard in plan.shards], dest)

    def segment() -> None:
        version, place = versions.open_model(str(bundle))
        reference = ModelRef(
            name=version.name, version=version.version, sha256=version.sha256, folder=str(place.resolve())
        )
        job = plan_job(photographs, new("masks"), model=reference, options=Options())
        written = [segment_chunk(job, index).written for index in range(job.chunks)]
        commit_job(job, 0, sum(written))

    commands = {
        "preprocess": lambda: [str(folder / "scenes"), new("shards"), "--size", str(SIDE)],
        "segment": lambda: [photographs, new("masks"), "--model", str(bundle)],
        "evaluate": lambda: [str(bundle), shards],
    }
    bare = {
        "preprocess": preprocess,
        "segment": segment,
        "evaluate": lambda: evaluate_bundle(load_bundle(bundle), shards, "val"),
    }
    for name, arguments in commands.items():
        yield overhead(name, functools.partial(run, folder / "home", name, arguments), bare[name])


def overhead(name: str, command: Callable[[], object], bare: Callable[[], object]) -> Figure:
    """Return the ratio of both, and log the seconds between them."""
    seconds: list[list[float]] = [[], []]

    def kept(kind: int, work: Callable[[], object]) -> float:
        seconds[kind].append(wall_seconds(work)())
        return seconds[kind][-1]

    figure = compare(
        f"start: seconds of `vitseg {name}` on {IMAGES} images / its functions alone, in a process that is warm",
        lambda: kept(0, command), lambda: kept(1, bare), goal=None, better="lower",
    )  # fmt: skip
    log(f"  the first time in a new VITSEG_HOME: {seconds[0][0]:.1f} s")
    above = statistics.median(seconds[0][1:]) - statistics.median(seconds[1][1:])
    log(f"  above the work: {above:.1f} s, goal {GOAL_SECONDS:.0f} s")
    return figure


def run(home: Path, name: str, arguments: Callable[[], list[str]]) -> None:
    """Run a command as a person does who has no servers."""
    strangers = ("AWS_", "MLFLOW_", "PREFECT_", "VITSEG_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(strangers)}
    command = [sys.executable, "-c", "from flows.cli import main; main()", name, *arguments(), "--json"]
    done = subprocess.run(command, env=environment | {"VITSEG_HOME": str(home)}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
