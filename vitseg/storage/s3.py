"""A bucket as a store: retries, conditional puts, and errors that say what to do."""

import os
import random
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NoReturn
from urllib.parse import quote, unquote

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from vitseg.bounded_map import bounded_map
from vitseg.errors import AccessError, NotFoundError, StorageError, StoreFullError, UsageError
from vitseg.storage.base import ObjectInfo, Store, content_md5, without_secrets
from vitseg.storage.s3_client import AHEAD, client, start_reading

_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "ExpiredToken", "InvalidToken"}
_MISSING = {"NoSuchKey", "404", "NotFound", "NoSuchBucket"}
# MinIO's full disk and quota, Ceph's quota; others send the status 507, and SeaweedFS InternalError, as for all else.
_FULL = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage"}
_ERRORS = (ClientError, BotoCoreError, ResponseParserError)
_PAUSES = (0.1, 0.4, 1.6)  # seconds to wait before a body that broke off is requested again
_WRITER = "vitseg-writer"  # metadata of conditional writes: which write it was


def _code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _is(error: Exception, status: int, code: str) -> bool:
    # Servers differ in which of the two they send.
    sent = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return _code(error) in (code, str(status)) or sent.get("HTTPStatusCode") == status


class S3Store(Store):
    """A prefix of a bucket. The etag is the store's own."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.root = f"s3://{bucket}/{self.prefix}".rstrip("/")

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _fail(self, error: Exception, key: str) -> NoReturn:
        where = self.uri(key)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        endpoint = without_secrets(endpoint)
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            raise AccessError(
                f"no S3 credentials for {where}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or start the embedded store with `vitseg stack up`"
            ) from error
        if isinstance(error, EndpointConnectionError):
            raise StorageError(
                f"no S3 server answers at {endpoint}: start it (`vitseg stack up`), or check AWS_ENDPOINT_URL_S3"
            ) from error
        if isinstance(error, ParamValidationError):
            raise UsageError(f"{where}: S3 allows no such name of a bucket or object") from error
        if isinstance(error, ClientError):
            code = _code(error)
            if code == "NoSuchBucket":
                raise NotFoundError(
                    f"bucket {self.bucket!r} does not exist at {endpoint}: create it, or check its name"
                ) from error
            if code in _MISSING:
                raise NotFoundError(f"{where} does not exist") from error
            if code in _DENIED:
                raise AccessError(
                    f"{endpoint} refuses access to {where} ({code}): check AWS_ACCESS_KEY_ID, "
                    "AWS_SECRET_ACCESS_KEY and the bucket's permissions"
                ) from error
            if code in _FULL or _is(error, 507, "507"):
                raise StoreFullError(
                    f"{endpoint} has no room left for {where} ({code}): make room there or raise the quota, "
                    "then start again"
                ) from error
            text = f"{where}: {code} {error.response.get('Error', {}).get('Message', '')}".strip()
            if code == "InternalError" and error.operation_name == "PutObject":
                text += " (SeaweedFS says this when its disk is full, too)"
            raise StorageError(text) from error
        raise StorageError(f"{where}: {' '.join(str(error).split())[:300]}") from error

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `Store.list`: ListObjectsV2, 1,000 keys a page; folder markers are left out."""
        base = f"{self.prefix}/" if self.prefix else ""
        pages = client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=base + prefix)
        try:
            for page in pages:
                for row in page.get("Contents", []):
                    key = row["Key"].removeprefix(base)
                    if key and not (key.endswith("/") and row["Size"] == 0):
                        yield ObjectInfo(key, row["Size"], row["ETag"].strip('"'))
        except _ERRORS as error:
            self._fail(error, prefix)

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            return client().head_object(Bucket=self.bucket, Key=self._key(key))
        except _ERRORS as error:
            if _code(error) in {"404", "NotFound", "NoSuchKey"}:
                return None
            self._fail(error, key)

    def stat(self, key: str) -> ObjectInfo | None:
        """See `Store.stat`."""
        head = self._head(key)
        return ObjectInfo(key, head["ContentLength"], head["ETag"].strip('"')) if head else None

    def metadata(self, key: str) -> dict[str, str]:
        """See `Store.metadata`."""
        return {name: value for name, value in self._metadata(key).items() if name != _WRITER}

    def _metadata(self, key: str) -> dict[str, str]:
        head = self._head(key)
        return {name.lower(): unquote(value) for name, value in (head or {}).get("Metadata", {}).items()}

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        """See `Store.read_tagged`: content and etag come in one response."""
        return self._get(key)

    def read_many(self, keys: Iterable[str]) -> Iterator[tuple[bytes, str]]:
        """See `Store.read_many`: what fails is read again singly, with all retries, which tells why."""
        for key, reading in bounded_map(lambda key: start_reading(self.bucket, self._key(key)), keys, AHEAD):
            try:
                yield reading.result()
            except Exception:  # noqa: BLE001 - `read_tagged` raises what is wrong
                yield self.read_tagged(key)

    def read_start(self, key: str, size: int) -> bytes:
        """See `Store.read_start`: a range of bytes; a server without ranges sends all."""
        return self._get(key, Range=f"bytes=0-{size - 1}")[0][:size]

    def _get(self, key: str, **options: str) -> tuple[bytes, str]:
        for pause in (*_PAUSES, None):
            response = None
            try:
                response = client().get_object(Bucket=self.bucket, Key=self._key(key), **options)
                return response["Body"].read(), response["ETag"].strip('"')
            except (*_ERRORS, HTTPError) as error:
                if options and _is(error, 416, "InvalidRange"):
                    return b"", ""  # an empty object has no first byte
                # botocore retries requests, but not a body that breaks off, be it content or an error.
                begun = response is not None or isinstance(error, HTTPError)
                if pause is None or not begun:
                    self._fail(error, key)
            time.sleep(pause * random.uniform(0.5, 1.5))  # threads must not retry in step
        raise AssertionError

    def write(
        self,
        key: str,
        data: bytes | BinaryIO,
        *,
        metadata: dict[str, str] | None = None,
        content_type: str | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> bool:
        """See `Store.write`: one PUT, at most 5 GiB; metadata is percent-encoded, for S3 takes ASCII only."""
        options: dict[str, Any] = {"ContentType": content_type or "application/octet-stream"}
        options["Metadata"] = {name: quote(value, safe=":/@.-_") for name, value in (metadata or {}).items()}
        conditional = if_absent or if_match is not None
        if conditional:
            options |= {"IfNoneMatch": "*"} if if_absent else {"IfMatch": f'"{if_match}"'}
            options["Metadata"][_WRITER] = writer = secrets.token_hex(8)
        if not isinstance(data, bytes):
            data.seek(0)
        try:
            client().put_object(Bucket=self.bucket, Key=self._key(key), Body=data, **options)
        except _ERRORS as error:
            if conditional and _is(error, 501, "NotImplemented"):
                # A server without conditional writes: of two writers in the same instant, both may win.
                there = self.stat(key)
                holds = there is None if if_absent else there is not None and there.etag == if_match
                return holds and self.write(key, data, metadata=metadata, content_type=content_type)
            if conditional and _is(error, 412, "PreconditionFailed"):
                # If the response to a first try was lost, the object that is now in the way is our own.
                retried = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
                return retried and self._metadata(key).get(_WRITER) == writer
            if if_match is not None and _code(error) == "NoSuchKey":
                return False  # S3's response where there is nothing to match
            self._fail(error, key)
        return True

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        try:
            client().delete_object(Bucket=self.bucket, Key=self._key(key))
        except _ERRORS as error:
            self._fail(error, key)

    def md5(self, info: ObjectInfo) -> str:
        """See `Store.md5`: a plain etag is the MD5 already; a multipart one is not, so the object is read."""
        plain = len(info.etag) == 32 and "-" not in info.etag
        return info.etag if plain else content_md5(self.read(info.key))

    def uri(self, key: str) -> str:
        """See `Store.uri`."""
        return f"{self.root}/{key}" if key else self.root


def create_bucket(name: str) -> None:
    """Create a bucket; one that we already own is no error."""
    try:
        client().create_bucket(Bucket=name)
    except ClientError as error:
        if _code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            S3Store(name)._fail(error, "")
