"""`data.batch_size=auto`: the batch that fits a device and fills it, measured before a job is made.

One rank, in a process of its own, takes whole training steps: at first with about the preset's batch, then with twice as
many images each time, while that fits in memory and pays. The other ranks are taken to have equal devices. The job keeps
what was chosen, and goes on with it on any machine.

The preset's learning rate is multiplied by √(batch ÷ the preset's batch): the rule for optimizers whose steps are as long
for small gradients as for large ones (https://arxiv.org/abs/2205.10287), as those of Adam and Muon are.
"""

import contextlib
import dataclasses
import gc
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import torch

from vitseg import child_processes, dist
from vitseg.data.loader import Batch, Batches
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.errors import TrainingError
from vitseg.precision import time_both
from vitseg.training.job import Job, read_job, write_job
from vitseg.training.launch import rank_environment
from vitseg.training.nodes import Nodes
from vitseg.training.objectives import OBJECTIVES
from vitseg.training.precision import job_precision, make_deterministic, training_pass
from vitseg.training.rank_reports import emit, ended_by, is_memory, parse_event
from vitseg.training.step import Learner
from vitseg.training.watchdog import watched

STEPS = 32
"""An epoch keeps so many steps, or as many as it has with the preset's batch: learning takes steps, too, not only images."""
MEMORY_SHARE = 0.9
"""Of the memory that is free; the rest is for messages between ranks, and for what lies between pieces in use."""
GAIN = 1.05
"""Twice as many images at once must be so much faster: else the smaller batch learns more from them."""
SECONDS = 60.0
"""No larger batch is tried where that would take longer, all together."""
_WARM_UP, _TIMED = {"cpu": 1, "cuda": 4}, {"cpu": 2, "cuda": 6}  # steps
_SAMPLES = 8  # are read, and repeated to make a batch
_ENDS = {
    "speed": "twice as many are hardly faster",
    "memory": "twice as many would not fit",
    "data": f"more would leave fewer than {STEPS} steps an epoch",
    "time": f"measured for {SECONDS:.0f} s",
}


@dataclass(frozen=True)
class Trial:
    """Steps of one rank with so many images in a forward pass: bytes that they took, and those that are there for a rank."""

    images: int
    images_per_second: float
    memory: int
    free: int

    def fits(self, times: int = 1) -> bool:
        """Return whether so many times its memory is there, with a margin."""
        return times * self.memory <= MEMORY_SHARE * self.free


@dataclass(frozen=True)
class Measured:
    """Trials, each with twice as many images as the one before, and why there is none after the last: a key of `_ENDS`."""

    trials: Sequence[Trial]
    end: str


Measure = Callable[[Job, int, int, int], Measured]
"""Takes a job, the number of ranks on a machine, and the images of a forward pass to begin with and to end with at most."""


def choose_batch(job: Job, manifest: Manifest, nodes: Nodes, *, own_rate: bool, measure: Measure | None = None) -> Job:
    """Return a new job, whose recipe has the preset's batch, with the batch for these devices and the learning rate for it.

    `own_rate`: the learning rate is the user's, and stays.

    Raises:
        TrainingError: nothing could be measured.
    """
    recipe, share = job.recipe, nodes.world_size * job.recipe.optimizer.accumulate
    before, rate = recipe.data.batch_size, recipe.optimizer.learning_rate
    first, largest = part_bounds(before, share, manifest.splits["train"].samples)
    measured = (measure or measure_apart)(job, nodes.nproc, first, largest)
    trial = choose_trial(measured.trials)
    batch, end = share * trial.images, measured.end if trial == measured.trials[-1] else "speed"
    after = rate if own_rate else float(f"{rate * math.sqrt(batch / before):.4g}")
    others = ", on one device like the others" if nodes.world_size > 1 else ""
    digits = 1 if trial.images_per_second < 100 else 0
    reason = (
        f"{batch} ({trial.images_per_second:,.{digits}f} images/s a rank{others}; {trial.memory / 2**30:.2f} of "
        f"{trial.free / 2**30:.2f} GiB; {_ENDS[end]})"
    )
    job = job.choose("data.batch_size", batch, reason)
    scaled = f"the preset's {rate:g} × √({batch} ÷ {before})" if batch != before else "the preset's, as its batch"
    scaled = "kept, for you set it" if own_rate else scaled
    if recipe.optimizer.encoder_rate and not own_rate:
        encoder_rate = float(f"{recipe.optimizer.encoder_rate * after / rate:.4g}")
        job = job.choose("optimizer.encoder_rate", encoder_rate, f"{encoder_rate:g} (as optimizer.learning_rate)")
    return job.choose("optimizer.learning_rate", after, f"{after:g} ({scaled})")


def part_bounds(preset: int, share: int, samples: int) -> tuple[int, int]:
    """Return how many images a forward pass has at first, and at most; powers of two.

    The first make a batch of at least the preset's; the most leave `STEPS` steps an epoch, unless the preset's batch leaves
    fewer. `share` is ranks × `optimizer.accumulate`, `samples` those of the training split, at least as many.
    """
    most = min(samples, max(preset, samples // STEPS)) // share
    largest = 2 ** (max(1, most).bit_length() - 1)
    return min(2 ** (-(-preset // share) - 1).bit_length(), largest), largest


def choose_trial(trials: Sequence[Trial]) -> Trial:
    """Return the smallest of those trials that fit which is about as fast as the fastest."""
    fitting = [trial for trial in trials if trial.fits()]
    best = max(trial.images_per_second for trial in fitting)
    return min((trial for trial in fitting if GAIN * trial.images_per_second > best), key=lambda trial: trial.images)


def climb(
    attempt: Callable[[int], Trial], first: int, largest: int, *, on_trial: Callable[[Trial], None], may_fail: bool
) -> str:
    """Try `first` images, then twice as many each time, or half as many until some fit; return the key of `_ENDS`.

    `attempt` raises where memory runs out; without `may_fail`, where the system would kill a process for it instead, none
    is made that may need more than there is.
    """
    start, images, last, falls = time.monotonic(), first, 0.0, False
    while True:
        began = time.monotonic()
        trial = _fitting(attempt, images)
        now = time.monotonic()
        if trial is None:
            if last or images == 1:
                return "memory"
            images, falls = images // 2, True
            continue
        on_trial(trial)
        if last and trial.images_per_second < GAIN * last:
            return "speed"
        if 2 * images > largest:
            return "data"
        if falls or not (may_fail or trial.fits(2)):
            return "memory"
        if now - start + 2 * (now - began) > SECONDS:
            return "time"
        images, last = 2 * images, trial.images_per_second


def _fitting(attempt: Callable[[int], Trial], images: int) -> Trial | None:
    try:
        trial = attempt(images)
    except Exception as error:
        if not is_memory(error):
            raise
        return None
    return trial if trial.fits() else None


def measure_apart(job: Job, nproc: int, first: int, largest: int) -> Measured:
    """Measure in a process like a rank's: what it takes of a GPU is free again when it has ended.

    Raises:
        TrainingError: it failed before anything was measured.
    """
    trials: list[Trial] = []
    end, lines, mark = "memory", [""], f"{child_processes.mark_children()}/batch-size"  # where it is killed
    with tempfile.TemporaryDirectory() as folder:
        write_job(replace(job, folder=folder, init=""))
        command = [sys.executable, "-m", "vitseg.training.batch_size", folder, *map(str, (nproc, first, largest))]
        environment = {**os.environ, **rank_environment(nproc), dist.NOTES: folder}
        process = child_processes.start(
            command, mark, environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        try:
            for line in process.stdout or ():
                event = parse_event(line)
                kind = event.pop("event") if event else ""
                if event is None:
                    lines.append(line.strip() or lines[-1])
                elif kind == "trial":
                    trials.append(Trial(**event))
                elif kind == "climbed":
                    end = event["end"]
            code = process.wait()
        finally:
            child_processes.stop(mark, 0)
    if not trials:
        how = f"was {ended_by(-code)}" if code < 0 else lines[-1] if code else "not even one image fits in memory"
        raise TrainingError(f"data.batch_size=auto could not be measured: {how}; set a number instead")
    return Measured(trials, end)


def attempt_steps(job: Job, manifest: Manifest, sample: Batch, device: torch.device, images: int, free: int) -> Trial:
    """Take steps with so many images in a forward pass, which repeat those of a sample; `free` bytes are for them."""
    cuda, timed = device.type == "cuda", _TIMED[device.type]
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    size = images * job.recipe.optimizer.accumulate
    recipe = replace(job.recipe, data=replace(job.recipe.data, batch_size=size))
    kind, world = OBJECTIVES[job.task], dist.World(0, 1, device)
    objective = kind(kind.build_model(recipe, manifest).to(device), recipe, manifest)
    objective.compute_in(job_precision(job, world, lambda: time_both(training_pass(objective))).name)
    learner = Learner(objective, world)
    learner.connect()
    rows = torch.arange(size) % len(sample.keys)
    batch = Batch(
        sample.images[rows],
        sample.labels[rows],
        [sample.keys[row] for row in rows.tolist()],
        objective.blank_tokens(size),
    )
    ends = []
    for step in range(_WARM_UP[device.type] + timed):
        learner.take_step(batch, step=step, learning_rate=1e-6, time_used=0.0)
        if cuda:
            torch.cuda.synchronize(device)
        ends.append(time.perf_counter())
    # A validation comes on top: its memory is not that of the graph of a step.
    objective.validate(learner.eval_model, cast(Batches, SimpleNamespace(epoch=lambda _: [batch])), lambda: None)
    seconds = min(after - before for before, after in itertools.pairwise(ends[-timed - 1 :]))
    # On a CPU what was freed stays with the process (see `launch.KEEP_MEMORY`).
    memory = torch.cuda.max_memory_reserved(device) if cuda else psutil.Process().memory_info().rss
    return Trial(images, size / seconds, memory, free)


def free_memory(device: torch.device, nproc: int) -> int:
    """Return the bytes that a rank can have, with those that this process has already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # a container has a limit of its own, or "max"
        limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    return (free + psutil.Process().memory_info().rss) // nproc


def main(folder: str, nproc: int, first: int, largest: int) -> None:
    """Measure the job of a folder on this process's device; report each trial."""
    job = read_job(folder)
    assert job, folder
    if job.recipe.run.deterministic:
        make_deterministic()
    manifest, device = read_manifest(job.shards), dist.start().device
    free, samples = free_memory(device, nproc), min(_SAMPLES, manifest.splits["train"].samples)
    sample = next(iter(Batches(job.shards, manifest, "train", batch_size=samples, shuffle=False).epoch(0)))
    with watched(job.recipe.run.hang_minutes) as alive:

        def report(trial: Trial) -> None:
            alive()
            emit("trial", **dataclasses.asdict(trial))

        end = climb(
            lambda images: attempt_steps(job, manifest, sample, device, images, free),
            first, largest, on_trial=report, may_fail=device.type == "cuda",
        )  # fmt: skip
    emit("climbed", end=end)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
