"""Real ranks under a real agent: they compute together what one computes alone, and none is ever left behind."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.training.conftest import AUGMENT, small_recipe
from vitseg.data.manifest import read_manifest
from vitseg.dist import World
from vitseg.errors import RankLostError
from vitseg.evaluation import evaluate_bundle
from vitseg.model.bundle import load_bundle
from vitseg.registry import tracking
from vitseg.training.job import Job, write_job
from vitseg.training.launch import KEEP_MEMORY, run_ranks
from vitseg.training.nodes import Nodes
from vitseg.training.worker import train_rank

pytestmark = pytest.mark.usefixtures("sqlite")


@pytest.fixture
def lines() -> list[str]:
    return []


def make_job(folder: Path, shards: str, *overrides: str, run_id: str = "") -> Job:
    run_id = run_id or tracking.start_run(folder.name, {}, {})
    job = Job(str(folder), shards, read_manifest(shards).fingerprint, small_recipe("run.epochs=2", *overrides), run_id)
    write_job(job)
    return job


def ranks() -> list[psutil.Process]:
    """Return the ranks that run under this process, without their agent."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "vitseg.training.worker" in child.cmdline()[:5]]


def history(job: Job) -> list[dict[str, Any]]:
    return json.loads(Path(job.folder, "history.json").read_text())


def test_two_ranks_compute_what_one_does(shards: str, tmp_path: Path, lines: list[str]) -> None:
    # AdamW: Muon computes in bfloat16 what it makes of a gradient, and makes more of how sums were rounded.
    settings = [*AUGMENT, "optimizer.name=adamw"]
    alone, shared = (make_job(tmp_path / name, shards, *settings) for name in ("alone", "shared"))
    train_rank(alone.folder, World(0, 1, torch.device("cpu")))
    events: list[dict[str, Any]] = []
    run_ranks(shared.folder, Nodes(nproc=2), on_event=events.append, on_line=lines.append)

    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1, 2]
    assert len(history(shared)) == 2
    for mine, theirs in zip(history(alone), history(shared), strict=True):
        assert theirs == pytest.approx(mine, abs=1e-4)
    bundles = [load_bundle(Path(job.folder, "bundle")) for job in (alone, shared)]
    weights = [{name: value.shape for name, value in bundle.model.state_dict().items()} for bundle in bundles]
    assert weights[0] == weights[1]
    # What two ranks counted together is what one process counts with the same weights.
    again = evaluate_bundle(bundles[1], shards, "val")
    last = history(shared)[-1]
    assert last["val/miou"] == pytest.approx(again.scores.miou, abs=1e-12)
    assert last["val/pixel_accuracy"] == pytest.approx(again.scores.pixel_accuracy, abs=1e-12)
    client = tracking.MlflowClient()
    for job in (alone, shared):
        assert [metric.step for metric in client.get_metric_history(job.run_id, "step/loss")] == [1, 2, 3, 4, 5, 6]
        assert [metric.step for metric in client.get_metric_history(job.run_id, "val/miou")] == [3, 6]


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that has rank 1 do something when it takes its third step."""

    def make(statement: str) -> None:
        folder = tmp_path / "fault"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(FAULT.format(statement))
        monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[2]}")

    return make


FAULT = """
import os
if os.environ.get("RANK") == "1":
    from vitseg.training.step import Learner
    real = Learner.take_step
    def trip(learner, batch, *, step, **options):
        if step == 2:
            {}
        return real(learner, batch, step=step, **options)
    Learner.take_step = trip
"""


def test_a_rank_that_raises_is_quoted(
    shards: str, tmp_path: Path, lines: list[str], fault: Callable[[str], None]
) -> None:
    fault("raise KeyError('a mistake of ours')")
    job = make_job(tmp_path / "job", shards)
    with pytest.raises(RankLostError, match=r"^rank 1 failed: KeyError: 'a mistake of ours'$"):
        run_ranks(job.folder, Nodes(nproc=2), on_event=lambda event: None, on_line=lines.append)
    (told,) = [line for line in lines if line.startswith("rank 1: ")]
    assert "sitecustomize.py" in told
    assert "in trip" in told
    assert not ranks()


def test_a_rank_that_is_killed_is_named(
    shards: str, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEEP_MEMORY:
        monkeypatch.delenv(name, raising=False)  # a test's Dask cluster leaves its own behind
    monkeypatch.setenv("MALLOC_TOP_PAD_", "131072")
    job = make_job(tmp_path / "job", shards, "run.epochs=1000")
    killed, environment = [], {}

    def kill(event: dict[str, Any]) -> None:
        if event["step"] == 1:
            killed.append(time.monotonic())
            rank = next(rank for rank in ranks() if rank.environ()["RANK"] == "1")
            environment.update(rank.environ())
            rank.kill()

    with pytest.raises(RankLostError, match=r"^rank 1 was killed by SIGKILL, for example because memory ran out$"):
        run_ranks(job.folder, Nodes(nproc=2), on_event=kill, on_line=lines.append)
    assert time.monotonic() - killed[0] < 20
    assert not ranks()
    # Memory stays with the ranks, which is worth a quarter of the time; who has settings of their own keeps these.
    assert KEEP_MEMORY.items() - environment.items() == {("MALLOC_TOP_PAD_", KEEP_MEMORY["MALLOC_TOP_PAD_"])}
    assert environment["MALLOC_TOP_PAD_"] == "131072"


def test_a_rank_that_hangs_is_named_and_says_where(
    shards: str, tmp_path: Path, lines: list[str], fault: Callable[[str], None]
) -> None:
    fault("import time; time.sleep(600)")
    job = make_job(tmp_path / "job", shards, "run.hang_minutes=0.05")
    with pytest.raises(RankLostError, match=r"^rank 1 made no progress for 0\.05 minutes$"):
        run_ranks(job.folder, Nodes(nproc=2), on_event=lambda event: None, on_line=lines.append)
    hung, waiting = [line for line in lines if line.startswith("rank ") and ", where it " in line]
    assert hung.startswith("rank 1, where it hung")
    assert "in trip" in hung
    assert waiting.startswith("rank 0, where it waited")
    assert not ranks()


def test_an_interruption_leaves_no_process(shards: str, tmp_path: Path, lines: list[str]) -> None:
    job = make_job(tmp_path / "job", shards, "run.epochs=1000")
    children: list[psutil.Process] = []

    def interrupt(event: dict[str, Any]) -> None:
        everyone = psutil.Process().children(recursive=True)  # also the servers of this test session
        children.extend(child for child in everyone if "vitseg.training.worker" in child.cmdline())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ranks(job.folder, Nodes(nproc=2), on_event=interrupt, on_line=lines.append)
    assert len(children) >= 3  # the agent and two ranks
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


LAUNCHER = """
import sys
from vitseg.training.launch import run_ranks
from vitseg.training.nodes import Nodes
run_ranks(sys.argv[1], Nodes(nproc=2), on_event=lambda event: print("event", flush=True), on_line=lambda line: None)
"""


def test_a_launcher_that_is_killed_leaves_no_process_not_even_with_its_watcher(shards: str, tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", shards, "run.epochs=1000")
    command = [sys.executable, "-c", LAUNCHER, job.folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "event\n"
        children = psutil.Process(launcher.pid).children(recursive=True)
        working = [child for child in children if "vitseg.training.worker" in child.cmdline()]
        agent = next(child for child in working if child.ppid() == launcher.pid)
        ranks = [child for child in working if child != agent]
        assert len(ranks) >= 2
        for rank in ranks:
            rank.suspend()  # as hung: otherwise they end when they write to the launcher, which is gone
        for child in set(children) - set(working):
            child.kill()
        launcher.kill()
    try:
        deadline = time.monotonic() + 40
        while not all(is_terminated(rank.pid) for rank in ranks):
            assert time.monotonic() < deadline, "the agent has not noticed that the launcher is gone"
            time.sleep(0.1)
    finally:
        for rank in ranks:
            rank.resume()
    assert not psutil.wait_procs(working, timeout=40)[1]


def is_terminated(pid: int) -> bool:
    """Return whether SIGTERM waits for a suspended process (`man proc_pid_status`)."""
    pending = re.search(r"ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return pending is not None and bool(int(pending[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_a_rank_leaves_without_closing_the_interpreter(tmp_path: Path) -> None:
    """Threads of torch that are still there would meet it, and abort a rank that is done: rarely, so look at the way out."""
    code = (
        "import atexit, runpy, sys; atexit.register(print, 'closed'); "
        f"sys.argv[1:] = [{str(tmp_path)!r}]; runpy.run_module('vitseg.training.worker', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "no job.json" in done.stdout, "closed" in done.stdout) == (2, True, False)
