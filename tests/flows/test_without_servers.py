"""Commands in folders alone: Prefect's own temporary server, closed to others, and gone with a killed command."""

import functools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.flows.command_line import COMMAND, kill_when
from tests.training.conftest import SMALL
from vitseg.child_processes import MARK


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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all that these commands keep: the first makes the databases, which takes a while."""
    return tmp_path_factory.mktemp("alone") / "home"


@pytest.fixture
def folder(shards: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data set that nobody has trained on, in an environment that knows of no server."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_", "PREFECT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VITSEG_HOME", str(home))
    return shutil.copytree(shards, tmp_path / "shards", ignore=shutil.ignore_patterns("_vitseg"))


def test_training_listens_on_loopback_only_and_leaves_nothing(folder: Path, home: Path) -> None:
    addresses: set[str] = set()

    def ranks_are_training() -> bool:
        running = marked(home)
        for process in running:
            try:
                connections = process.net_connections("inet")
            except psutil.NoSuchProcess:
                continue
            addresses.update(row.laddr.ip for row in connections if row.status == psutil.CONN_LISTEN)
        return any((folder / "_vitseg" / "training").rglob("step-*"))

    recipe = [part for value in SMALL for part in ("--set", value)] + ["--set", "run.epochs=2000"]
    kill_when(ranks_are_training, "train", str(folder), *recipe, "--nproc", "2", "--name", "killed")
    assert addresses == {"127.0.0.1"}
    _, alive = psutil.wait_procs(marked(home), timeout=30)
    assert not alive, f"left behind: {[process.cmdline() for process in alive]}"


def test_ctrl_c_in_a_terminal_is_one_line_soon(folder: Path, home: Path) -> None:
    """A terminal sends it to all processes of the group, and Prefect's temporary server must not be one of them."""
    recipe = [part for value in SMALL for part in ("--set", value)] + ["--set", "run.epochs=2000"]
    process = subprocess.Popen(
        [*COMMAND, "train", str(folder), *recipe, "--name", "stopped", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN),  # as for `&` in a script: inherited
    )  # fmt: skip
    deadline = time.monotonic() + 180
    while not any((folder / "_vitseg" / "training").rglob("step-*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it never trained"
        time.sleep(0.1)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130, err
    assert out.count("\n") == 1
    assert "the same command goes on from here" in out
    assert err.count("stopped: the same command goes on from here") == 1
    assert "Traceback" not in err
    assert time.monotonic() - start < 40  # a flow that looks for its server takes 80 s
    _, alive = psutil.wait_procs(marked(home), timeout=30)
    assert not alive, f"left behind: {[process.cmdline() for process in alive]}"
