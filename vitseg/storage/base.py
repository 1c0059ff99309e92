"""What every store can do, and how addresses are written.

A store is opened on a root address (`photos/`, `s3://bucket/photos`, `gs://…`); keys are relative to it and use
forward slashes. Every write is atomic: a reader sees the old object or the new one, never a part.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from vitseg.errors import NotFoundError, StorageError

_WITH_HOST = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#]*@)?([^?#]*)", re.DOTALL)


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing: key relative to the store's root, size in bytes, and a tag that changes with its content."""

    key: str
    size: int
    etag: str


class Store(Protocol):
    """The base of all stores, and what each can do. Missing objects give `None` from `stat` and NotFoundError from `read`."""

    root: str

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix`, page by page, in the store's own order."""

    def stat(self, key: str) -> ObjectInfo | None:
        """Return the object's size and etag, or None where there is none."""

    def metadata(self, key: str) -> dict[str, str]:
        """Return the user metadata of an object; empty where the store keeps none."""
        return {}

    def read(self, key: str) -> bytes:
        """Return an object's content."""
        return self.read_tagged(key)[0]

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        """Return an object's content and the etag of just that content, which may be newer than the listing."""

    def read_many(self, keys: Iterable[str]) -> Iterator[tuple[bytes, str]]:
        """Yield what `read_tagged` returns for each key, in order; a store that is far away is asked for several at once."""
        return map(self.read_tagged, keys)

    def read_start(self, key: str, size: int) -> bytes:
        """Return the first `size` bytes (at least 1) of an object, or all of a shorter one; errors as `read_tagged`."""

    def write(
        self, key: str, data: bytes | BinaryIO, *, metadata: dict[str, str] | None = None,
        content_type: str | None = None, if_absent: bool = False, if_match: str | None = None,
    ) -> bool:  # fmt: skip
        """Put an object atomically; where a condition does not hold, write nothing and return False.

        Args:
            key: its place.
            data: its content, or a file that holds it, which is read from its start, block by block.
            metadata: user metadata, for stores that keep any.
            content_type: its media type, for stores that keep one.
            if_absent: put it only where there is no object.
            if_match: put it only in the place of the object that has this etag. Not together with `if_absent`.

        Raises:
            AccessError: the store can't be written.
            StoreFullError: it has no room left.
            NameTakenError: a folder lies where the object should, or a file where a folder of its key should.
            StorageError: it failed in another way; another try may succeed.
        """

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def md5(self, info: ObjectInfo) -> str:
        """Return the MD5 of an object's content (hex), which is read: equal content gives an equal digest in any store."""
        return content_md5(self.read(info.key))

    def claimed_md5(self, info: ObjectInfo) -> str | None:
        """Return what may be the MD5 of an object's content by its etag, unread; None where etags never are."""
        return None

    def uri(self, key: str) -> str:
        """Return the full address of a key."""
        return join(self.root, key)


@contextlib.contextmanager
def reading(address: str, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Turn what reading an address raises, any of `errors`, into a NotFoundError or StorageError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFoundError(f"{address} does not exist") from error
    except errors as error:
        raise StorageError(f"can't read {address}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Return what an error of a file system or server says, on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def without_secrets(address: str) -> str:
    """Return an address without user, password and query, so that it can be shown."""
    match = _WITH_HOST.match(address)
    return match[1] + match[2] if match else address


def as_prefix(address: str) -> str:
    """Return an address, or the start of keys, with the slash after which keys begin."""
    return address if not address or address.endswith("/") else f"{address}/"


def join(address: str | Path, *parts: str) -> str:
    """Append keys to a root address, with a slash between them where there is none yet."""
    text = str(address)
    for part in filter(None, parts):
        text = as_prefix(text) + part
    return text


def split_address(address: str) -> tuple[str, str]:
    """Return folder and name of a single object's canonical address; the name is empty where there is no folder."""
    scheme = "" if address.startswith("/") else address[: address.find("://") + 3]
    folder, slash, name = address.removeprefix(scheme).rpartition("/")
    return scheme + folder + slash, name if slash else ""


def content_md5(data: bytes) -> str:
    """Return the MD5 of bytes as hex: a content id (what S3 uses as etag), not a safeguard."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
