"""The embedded servers let nobody else in."""

import os
import socket
import ssl
import subprocess

import psutil
import pytest

from flows.stack import credentials, servers
from flows.stack import stack as stack_module
from flows.stack.stack import StackStatus
from tests.flows.stack.running import all_processes, answer, state
from vitseg.storage import open_store


def talk(context: ssl.SSLContext, port: int, data: bytes) -> None:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        context.wrap_socket(connection) as wrapped,
    ):
        wrapped.sendall(data)
        while wrapped.recv(100):
            pass


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
