"""A bucket as a store: retries, conditional puts, and errors that say what to do."""

import contextlib
import random
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NoReturn
from urllib.parse import quote, unquote

from botocore.exceptions import ClientError, IncompleteReadError
from urllib3.exceptions import HTTPError

from vitseg.bounded_map import bounded_map
from vitseg.errors import StorageError
from vitseg.storage.base import ObjectInfo, Store, as_prefix
from vitseg.storage.s3_client import AHEAD, client, renewed_client, start_reading
from vitseg.storage.s3_errors import S3_ERRORS, code_of, is_error, may_be_expired, s3_error

_PAUSES = (0.1, 0.4, 1.6)  # seconds to wait before a body that broke off is requested again
_WRITER = "vitseg-writer"  # metadata of conditional writes: which write it was
_MD5_DIGITS = 32


class S3Store(Store):
    """A prefix of a bucket, as it is written: `s3://bucket//photos` holds the keys `/photos/…`. The etag is the store's own."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = as_prefix(prefix)  # what precedes all keys, with its slash
        self._address = f"s3://{bucket}/{self.prefix}"
        short = self._address.removesuffix("/")
        self.root = self._address if short.endswith("/") else short  # without the slash it would be another prefix

    def _fail(self, error: Exception, key: str) -> NoReturn:
        raise s3_error(error, self.uri(key), self.bucket) from error

    def _request(self, operation: str, **parameters: Any) -> Any:
        """Send a request; where the credentials have ended, a file or role may hold newer ones: read them and send it again."""
        connection = client()
        for last in (False, True):
            if (body := parameters.get("Body")) and not isinstance(body, bytes):
                body.seek(0)
            try:
                return getattr(connection, operation)(Bucket=self.bucket, **parameters)
            except ClientError as error:
                if last or not may_be_expired(error):
                    raise
            connection = renewed_client(connection)
        raise AssertionError

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `Store.list`: ListObjectsV2, 1,000 keys a page; folder markers are left out."""
        start = self.prefix + prefix
        position: dict[str, str] = {}
        while True:
            try:
                page = self._request("list_objects_v2", Prefix=start, **position)
            except S3_ERRORS as error:
                self._fail(error, prefix)
            for row in page.get("Contents", []):
                if not row["Key"].startswith(start):
                    raise StorageError(
                        f"{self.uri(prefix)}: the server lists {row['Key']!r} there, which is another place: "
                        "it joins slashes, or reads .. as a folder: write the address as the server does"
                    )
                if not (row["Key"].endswith("/") and row["Size"] == 0):
                    yield ObjectInfo(row["Key"].removeprefix(self.prefix), row["Size"], row.get("ETag", "").strip('"'))
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if token in (None, position.get("ContinuationToken")):
                raise StorageError(f"{self.uri(prefix)}: the server's listing breaks off: try again, or tell its owner")
            position = {"ContinuationToken": token}

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            return self._request("head_object", Key=self.prefix + key)
        except S3_ERRORS as error:
            if code_of(error) in {"404", "NotFound", "NoSuchKey"}:
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
        for key, reading in bounded_map(lambda key: start_reading(self.bucket, self.prefix + key), keys, AHEAD):
            try:
                yield reading.result()
            except Exception:  # noqa: BLE001 - `read_tagged` raises what is wrong
                yield self.read_tagged(key)

    def read_start(self, key: str, size: int) -> bytes:
        """See `Store.read_start`: a range of bytes; a server without ranges sends all."""
        return self._get(key, size)[0]

    def _get(self, key: str, size: int | None = None) -> tuple[bytes, str]:
        options = {"Range": f"bytes=0-{size - 1}"} if size else {}
        for pause in (*_PAUSES, None):
            response = None
            try:
                response = self._request("get_object", Key=self.prefix + key, **options)
                with contextlib.closing(response["Body"]) as body:
                    content = body.read(size)
                if size and len(content) < (
                    wanted := min(size, response.get("ContentLength", 0))
                ):  # botocore says nothing
                    raise IncompleteReadError(actual_bytes=len(content), expected_bytes=wanted)
                return content, response["ETag"].strip('"')
            except (*S3_ERRORS, HTTPError) as error:
                if options and is_error(error, 416, "InvalidRange"):
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
        try:
            self._request("put_object", Key=self.prefix + key, Body=data, **options)
        except S3_ERRORS as error:
            if conditional and is_error(error, 501, "NotImplemented"):
                # A server without conditional writes: of two writers in the same instant, both may win.
                there = self.stat(key)
                holds = there is None if if_absent else there is not None and there.etag == if_match
                return holds and self.write(key, data, metadata=metadata, content_type=content_type)
            if conditional and is_error(error, 412, "PreconditionFailed"):
                # If the response to a first try was lost, the object that is now in the way is our own.
                retried = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
                return retried and self._metadata(key).get(_WRITER) == writer
            if if_match is not None and code_of(error) == "NoSuchKey":
                return False  # S3's response where there is nothing to match
            self._fail(error, key)
        return True

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        try:
            self._request("delete_object", Key=self.prefix + key)
        except S3_ERRORS as error:
            self._fail(error, key)

    def claimed_md5(self, info: ObjectInfo) -> str | None:
        """See `Store.claimed_md5`: not of uploads in parts; of objects under a KMS or customer's key it is something else."""
        return info.etag if len(info.etag) == _MD5_DIGITS else None

    def uri(self, key: str) -> str:
        """See `Store.uri`."""
        return self._address + key if key else self.root


def create_bucket(name: str) -> None:
    """Create a bucket; one that we already own is no error."""
    try:
        client().create_bucket(Bucket=name)
    except ClientError as error:
        if code_of(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise s3_error(error, f"s3://{name}", name) from error
