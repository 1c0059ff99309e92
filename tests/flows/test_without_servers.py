"""Commands in folders alone: Prefect's own temporary server, closed to others, and gone with a killed command."""

import os
import shutil
from pathlib import Path

import psutil
import pytest

from flows.guard import MARK
from tests.flows.command_line import kill_when
from tests.training.conftest import SMALL


def marked(home: Path) -> list[psutil.Process]:
    """Return all processes that a command with this VITSEG_HOME has started."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if environment.get("VITSEG_HOME") == str(home) and MARK in environment and process.pid != os.getpid():
            found.append(process)
    return found


def test_training_listens_on_loopback_only_and_leaves_nothing(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_", "PREFECT_"))]:
        monkeypatch.delenv(name)
    shards = shutil.copytree(
        shards, tmp_path / "shards", ignore=shutil.ignore_patterns("_vitseg")
    )  # without others' trainings
    home = tmp_path / "home"
    monkeypatch.setenv("VITSEG_HOME", str(home))
    addresses: set[str] = set()

    def ranks_are_training() -> bool:
        running = marked(home)
        for process in running:
            try:
                connections = process.net_connections("inet")
            except psutil.NoSuchProcess:
                continue
            addresses.update(row.laddr.ip for row in connections if row.status == psutil.CONN_LISTEN)
        return any((Path(shards) / "_vitseg" / "training").rglob("step-*"))

    recipe = [part for value in SMALL for part in ("--set", value)] + ["--set", "run.epochs=2000"]
    kill_when(ranks_are_training, "train", shards, *recipe, "--nproc", "2", "--name", "killed")
    assert addresses == {"127.0.0.1"}
    _, alive = psutil.wait_procs(marked(home), timeout=30)
    assert not alive, f"left behind: {[process.cmdline() for process in alive]}"
