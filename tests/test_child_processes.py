"""What a process starts ends with it, however it ends; what is started under another mark stays."""

import os
import subprocess
import sys

import psutil
import pytest

from vitseg import child_processes

STARTS = """
import os, subprocess, sys, time
from vitseg import child_processes
mark = child_processes.mark_children()
sleep = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"]
ours = child_processes.start(sleep, f"{mark}/name", dict(os.environ))
theirs = subprocess.Popen(["sleep", "60"])  # as a library starts it
stays = child_processes.start(["sleep", "60"], "outlives", dict(os.environ))
print(ours.pid, theirs.pid, stays.pid, mark, flush=True)
time.sleep(60)
"""


def test_children_end_with_a_process_that_is_killed_and_others_stay() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        *pids, mark = process.stdout.readline().split()
        ours, theirs, stays = (psutil.Process(int(pid)) for pid in pids)
        assert {ours, theirs} <= set(child_processes.marked(mark))
        assert child_processes.is_alive(ours.pid, f"{mark}/name")
        assert not child_processes.is_alive(ours.pid, f"{mark}/na")
        process.kill()
    try:
        assert not psutil.wait_procs([ours, theirs], timeout=20)[1]
        assert not child_processes.marked(mark)  # nor the child of the child
        assert child_processes.is_alive(stays.pid, "outlives")
    finally:
        assert child_processes.stop("outlives") == [stays.pid]
    assert child_processes.stop("outlives") == []


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", stubborn]
    process = child_processes.start(command, "stubborn", dict(os.environ), stdout=subprocess.PIPE)
    process.stdout.readline()
    assert child_processes.stop("stubborn", patience=0.2) == [process.pid]
    assert process.wait(10) == -9


def test_servers_of_the_version_before_are_known() -> None:
    environment = {name: value for name, value in os.environ.items() if name != child_processes.MARK}
    environment["VITSEG_SERVER"] = "/home/stack:s3"
    command = ["sh", "-c", "echo; sleep 60"]
    with subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it runs: before that it has no environment that others can read
        assert child_processes.is_alive(process.pid, "/home/stack:s3")
        assert process.pid in child_processes.stop("/home/stack:s3")


def test_a_terminals_ctrl_c_does_not_reach_them() -> None:
    process = child_processes.start(["sleep", "60"], "apart", dict(os.environ))
    assert os.getpgid(process.pid) != os.getpgid(0)
    child_processes.stop("apart")
    process.wait(10)


@pytest.mark.parametrize("pid", [None, 0x7FFFFFFF])
def test_a_process_that_is_not_there_is_not_alive(pid: int | None) -> None:
    assert not child_processes.is_alive(pid, "any")


def test_a_process_can_end_with_a_parent_that_knows_nothing_of_it() -> None:
    child = "import time; from vitseg.child_processes import end_with_parent; end_with_parent(); print(flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = psutil.Process(process.pid).children()
        process.kill()
        assert not psutil.wait_procs(children, timeout=20)[1]
