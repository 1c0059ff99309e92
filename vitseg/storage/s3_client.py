"""Connections to S3: boto3 for one request at a time, s3fs for reading many objects at once.

Credentials and endpoint come from the environment alone (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_ENDPOINT_URL_S3 …), as for every AWS tool. As for GDAL, AWS_REQUEST_PAYER=requester pays for what is read, and
AWS_NO_SIGN_REQUEST=yes reads public buckets without credentials.
"""

import asyncio
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from vitseg.errors import UsageError

AHEAD = 8
"""Objects that are read at once, for each task: their contents lie in memory together."""

_SETTINGS = {"connect_timeout": 10, "read_timeout": 60, "max_pool_connections": 32}
_CHECKSUMS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
_LOCK = threading.Lock()
T = TypeVar("T")


def client() -> Any:
    """Return this process's boto3 S3 client.

    Raises:
        UsageError: the AWS_ variables name a profile or endpoint that can't be.
    """
    return _connection(_client_of)


def start_reading(bucket: str, key: str) -> Future[tuple[bytes, str]]:
    """Begin to read an object and return at once. The future gives its content and etag, or fails without a retry."""
    system, connection = _connection(_file_system_of)

    async def read() -> tuple[bytes, str]:
        response = await connection.get_object(Bucket=bucket, Key=key)
        async with response["Body"] as body:
            return await body.read(), response["ETag"].strip('"')

    return asyncio.run_coroutine_threadsafe(read(), system.loop)


def renewed_client(old: Any) -> Any:
    """Return a client that has read the credentials anew; `old` where they are the same.

    If another thread has made one since `old`, that is returned.
    """
    if client() is old and _keys(boto3.session.Session()) != _keys(_session_of(os.getpid())):
        forget_connections()
    return client()


def _keys(session: Any) -> Any:
    credentials = session.get_credentials()
    return credentials and credentials.get_frozen_credentials()


def endpoint() -> str:
    """Return the address of the S3 server where the environment names one; empty for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def forget_connections() -> None:
    """Make the next request read the environment anew."""
    _client_of.cache_clear()
    _session_of.cache_clear()
    _file_system_of.cache_clear()


def _connection(make: Callable[[int], T]) -> T:
    try:
        with _LOCK:
            return make(os.getpid())
    except (BotoCoreError, ValueError) as error:
        raise UsageError(f"no S3 client can be made: {error}: check AWS_ENDPOINT_URL_S3 and AWS_PROFILE") from error


# One of each in a process: threads may share them, but they don't survive a fork.
@functools.cache
def _session_of(process: int) -> Any:
    return boto3.session.Session()


@functools.cache
def _client_of(process: int) -> Any:
    retries = {"mode": "standard", "total_max_attempts": 6}
    connection = _session_of(process).client("s3", region_name=_region(), config=Config(**_settings(), retries=retries))
    connection.meta.events.register("before-call.s3", _pay)
    for operation in ("ListObjectsV2", "HeadObject", "GetObject"):
        connection.meta.events.register(f"before-parse.s3.{operation}", _distrust)
    connection.meta.events.register("before-parse.s3.PutObject", _send_again)
    return connection


@functools.cache
def _file_system_of(process: int) -> tuple[Any, Any]:
    """Return an s3fs file system, whose thread runs the requests, and its client.

    `S3FileSystem.cat` is not used: it returns no etags, and asks for the size of each object first.
    """
    from fsspec.asyn import sync
    from s3fs import S3FileSystem  # its import takes a third of a second

    once = {"retries": {"mode": "standard", "total_max_attempts": 1}}
    system = S3FileSystem(
        client_kwargs={"region_name": _region()}, config_kwargs={**_settings(), **once}, skip_instance_cache=True
    )
    connection = sync(system.loop, system.set_session)
    connection.meta.events.register("before-call.s3", _pay)
    connection.meta.events.register("before-parse.s3.GetObject", _distrust)
    return system, connection


def _settings() -> dict[str, Any]:
    """Return what both connections have in common."""
    unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes")
    settings = {**_SETTINGS, "signature_version": UNSIGNED if unsigned else "s3v4"}
    if (address := endpoint()) and ".amazonaws.com" not in address:
        # Many other stores refuse its newer headers. A signed request has its SHA-256 all the same.
        settings |= {
            name.removeprefix("AWS_").lower(): "when_required" for name in _CHECKSUMS if name not in os.environ
        }
    return settings


def _pay(params: dict[str, Any], **_: Any) -> None:
    """Accept to pay for a request to a bucket whose requesters pay."""
    if payer := os.environ.get("AWS_REQUEST_PAYER"):
        params["headers"]["x-amz-request-payer"] = payer


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _distrust(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
    """Turn a response that broke off, and that botocore would take for a complete one, into an error that it retries.

    A connection that closes within the headers ends them as a blank line does: the content seems to be empty. A
    listing that breaks off before its first byte seems to have no keys.
    """
    if response_dict["status_code"] not in (200, 206):
        return
    headers = response_dict["headers"]
    if operation_model.name == "ListObjectsV2":
        complete = bool(response_dict["body"])
    else:
        sized = headers.get("content-length", "").isdigit() or "transfer-encoding" in headers
        etag = headers.get("etag", "")
        complete = sized and etag != "" and etag.count('"') != 1
        headers.pop("last-modified", None)  # unused, and half a date would be one more kind of error
    if not complete:
        response_dict.update(status_code=500, body=b"")


def _send_again(response_dict: dict[str, Any], **_: Any) -> None:
    """Let botocore retry a conditional put that met another one, as S3 demands; by itself it would give up."""
    if response_dict["status_code"] == 409 and b"ConditionalRequestConflict" in response_dict["body"]:
        response_dict["status_code"] = 503
