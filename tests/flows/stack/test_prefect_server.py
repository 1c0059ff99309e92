"""A command without a server starts one of its own, which its workers find, others can't use, and which ends with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, httpx, psutil
from flows.stack import prefect_server
prefect_server.start_temporary()
from prefect import flow, task
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import ProcessPoolTaskRunner

@task
def server():
    from prefect.settings import PREFECT_API_URL
    return PREFECT_API_URL.value()

@flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
def ask():
    return server.submit().result()

if __name__ == "__main__":
    print(ask() == PREFECT_API_URL.value() != None)
    print(httpx.post(PREFECT_API_URL.value() + "/flows/filter", json={}).status_code)
    from vitseg.child_processes import mark_children, marked
    addresses = {row.laddr.ip for process in marked(mark_children()) for row in process.net_connections("inet")}
    print(addresses)
"""


def own_environment(home: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return own | {"PREFECT_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}


def test_worker_processes_use_the_server_of_their_command(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=120, env=own_environment(tmp_path)
    )
    assert done.stdout.splitlines()[-3:] == ["True", "401", "{'127.0.0.1'}"], done.stderr


def test_a_server_that_can_not_start_is_reported_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "prefect" / "prefect.db").mkdir(parents=True)  # no database can be there
    scenes = tmp_path / "photos" / "train"
    scenes.mkdir(parents=True)
    pytest.importorskip("PIL.Image").new("RGB", (64, 32)).save(scenes / "1.jpg")
    command = [
        sys.executable,
        "-c",
        "from flows.cli import main; main()",
        "preprocess",
        str(tmp_path / "photos"),
        "out",
    ]
    environment = own_environment(tmp_path / "prefect") | {"VITSEG_HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, "--layout", "photos"], capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr
    assert "error: the Prefect server" in done.stderr
    assert "temporary-server.log" in done.stderr
    assert "Traceback" not in done.stderr
