"""Connections to S3: boto3 for one request at a time, s3fs for reading many objects at once.

Credentials and endpoint come from the environment alone (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_ENDPOINT_URL_S3 …), as for every AWS tool.
"""

import asyncio
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from vitseg.errors import UsageError

AHEAD = 16
"""Objects that are read at once."""

_SETTINGS = {"signature_version": "s3v4", "connect_timeout": 10, "read_timeout": 60, "max_pool_connections": 32}
_LOCK = threading.Lock()
T = TypeVar("T")


def client() -> Any:
    """Return this process's boto3 S3 client.

    Raises:
        UsageError: the AWS_ variables name a profile or endpoint that can't be.
    """
    return _connection(_client_of)


def start_reading(bucket: str, key: str) -> Future[tuple[bytes, str]]:
    """Begin to read an object and return at once. The future gives its content and etag, or fails without a retry.

    Raises:
        UsageError: see `client`.
    """
    system, connection = _connection(_file_system_of)

    async def read() -> tuple[bytes, str]:
        answer = await connection.get_object(Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            return await body.read(), answer["ETag"].strip('"')

    return asyncio.run_coroutine_threadsafe(read(), system.loop)


def forget_connections() -> None:
    """Let the next request read the environment anew."""
    _client_of.cache_clear()
    _file_system_of.cache_clear()


def _connection(make: Callable[[int], T]) -> T:
    try:
        with _LOCK:
            return make(os.getpid())
    except (BotoCoreError, ValueError) as error:
        raise UsageError(f"no S3 client can be made: {error}: check AWS_ENDPOINT_URL_S3 and AWS_PROFILE") from error


# One of each a process: they may be shared by threads, not carried over a fork.
@functools.cache
def _client_of(process: int) -> Any:
    retries = {"mode": "standard", "total_max_attempts": 6}
    made = boto3.session.Session().client("s3", region_name=_region(), config=Config(**_SETTINGS, retries=retries))
    for operation in ("ListObjectsV2", "HeadObject", "GetObject"):
        made.meta.events.register(f"before-parse.s3.{operation}", _distrust)
    made.meta.events.register("before-parse.s3.PutObject", _send_again)
    return made


@functools.cache
def _file_system_of(process: int) -> tuple[Any, Any]:
    """Return an s3fs file system, whose thread runs the requests, and its client.

    s3fs' own `cat` is not used: it returns no etags, and gives up on answers that break off.
    """
    from fsspec.asyn import sync
    from s3fs import S3FileSystem  # a third of a second, for those who read many objects

    once = {"retries": {"mode": "standard", "total_max_attempts": 1}}
    system = S3FileSystem(
        client_kwargs={"region_name": _region()}, config_kwargs={**_SETTINGS, **once}, skip_instance_cache=True
    )
    connection = sync(system.loop, system.set_session)
    connection.meta.events.register("before-parse.s3.GetObject", _distrust)
    return system, connection


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _distrust(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
    """Turn an answer that broke off, where botocore would take it for a whole one, into an error that it retries.

    A connection that closes among the headers ends them like a blank line does: the content seems to be empty. A
    listing that breaks off before its first byte seems to have no keys.
    """
    if response_dict["status_code"] not in (200, 206):
        return
    headers = response_dict["headers"]
    if operation_model.name == "ListObjectsV2":
        whole = bool(response_dict["body"])
    else:
        sized = headers.get("content-length", "").isdigit() or "transfer-encoding" in headers
        etag = headers.get("etag", "")
        whole = sized and etag != "" and etag.count('"') != 1
        headers.pop("last-modified", None)  # nobody asks for it, and half a date is one more kind of error
    if not whole:
        response_dict.update(status_code=500, body=b"")


def _send_again(response_dict: dict[str, Any], **_: Any) -> None:
    """Let botocore retry a conditional put that met another one, as S3 asks for: by itself it takes that for final."""
    if response_dict["status_code"] == 409 and b"ConditionalRequestConflict" in response_dict["body"]:
        response_dict["status_code"] = 503
