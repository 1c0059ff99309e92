"""Health checks that prove more than an open port: each sends a signed-in request that needs the database.

    python infra/health.py mlflow http://mlflow:5000      # by host name, to check the allowed hosts too
    python infra/health.py prefect http://prefect:4200/api
    python infra/health.py s3 http://s3:8333/vitseg       # a signed listing of the bucket
    python infra/health.py worker http://prefect:4200/api # the worker polls, and Prefect answers

Prints `ok` and exits with 0, or prints one line that says what is wrong and exits with 1. Credentials come from the
environment: a client's variables, or those of the server that is checked. Standard library only, because it starts
every few seconds.
"""

import base64
import datetime
import hashlib
import hmac
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 8


class UnhealthyError(Exception):
    """What is wrong, in one line."""


def mlflow(url: str) -> None:
    """Search the experiments. `/health` would prove nothing: it needs no login, no allowed host and no database."""
    user = _variable("MLFLOW_TRACKING_USERNAME", "MLFLOW_AUTH_ADMIN_USERNAME")
    password = _variable("MLFLOW_TRACKING_PASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD")
    address = f"{url.rstrip('/')}/api/2.0/mlflow/experiments/search"
    if not _request_json(address, f"{user}:{password}", {"max_results": 1}).get("experiments"):
        raise UnhealthyError("it has no experiment, not even the default one")


def prefect(url: str) -> None:
    """Count the flows. `/api/health` would prove nothing: it needs no login and no database."""
    login = _variable("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING")
    count = _request_json(f"{url.rstrip('/')}/flows/count", login, {})
    if not isinstance(count, int):
        raise UnhealthyError(f"it answers {count!r} instead of the number of flows")


def worker(url: str) -> None:
    """Check that the worker on this machine polls, and that Prefect answers."""
    port = os.environ.get("PREFECT_WORKER_WEBSERVER_PORT") or "8080"
    _request_json(f"http://127.0.0.1:{port}/health")
    prefect(url)


def s3(url: str) -> None:
    """List one object of the bucket, signed (AWS signature version 4)."""
    parts = urlsplit(url)
    access = _variable("AWS_ACCESS_KEY_ID")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    query, empty = "list-type=2&max-keys=1", hashlib.sha256(b"").hexdigest()
    signed = {"host": parts.netloc, "x-amz-content-sha256": empty, "x-amz-date": now}
    lines = [f"{name}:{value}" for name, value in signed.items()]
    request = "\n".join(["GET", parts.path, query, *lines, "", ";".join(signed), empty])
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{_variable('AWS_SECRET_ACCESS_KEY')}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.digest(key, part.encode(), "sha256")
    login = f"Credential={access}/{scope}, SignedHeaders={';'.join(signed)}, Signature={key.hex()}"
    headers = {"Authorization": f"AWS4-HMAC-SHA256 {login}", **{name: signed[name] for name in list(signed)[1:]}}
    if b"<ListBucketResult" not in _read(urllib.request.Request(f"{url}?{query}", headers=headers)):  # noqa: S310
        raise UnhealthyError("its answer is not a bucket listing")


CHECKS = {"mlflow": mlflow, "prefect": prefect, "s3": s3, "worker": worker}


def main(arguments: list[str]) -> int:
    """Run one check and return the exit code."""
    if len(arguments) != 2 or arguments[0] not in CHECKS:
        print(f"usage: health.py {'|'.join(CHECKS)} URL", file=sys.stderr)  # noqa: T201
        return 2
    name, url = arguments
    try:
        CHECKS[name](url)
    except UnhealthyError as error:
        print(f"{name} at {url}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print("ok")  # noqa: T201
    return 0


def _variable(*names: str) -> str:
    for name in names:
        if os.environ.get(name):
            return os.environ[name]
    raise UnhealthyError(f"{names[0]} is not set")


def _request_json(url: str, login: str = "", body: dict[str, int] | None = None) -> Any:
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    try:
        return json.loads(_read(urllib.request.Request(url, data, headers)))  # noqa: S310
    except ValueError as error:
        raise UnhealthyError("its answer is not JSON") from error


def _read(request: urllib.request.Request) -> bytes:
    open_ = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # never through a proxy of the user
    try:
        with open_(request, timeout=TIMEOUT_SECONDS) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        refused = ": it refuses the credentials or the host name" if error.code in (401, 403) else ""
        raise UnhealthyError(f"it answers {error.code}{refused}") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnhealthyError(f"it does not answer ({getattr(error, 'reason', error)})") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
