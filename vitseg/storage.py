"""One way to read, list and write objects, whether they lie in a folder, in S3 or behind any fsspec URL.

A store is opened on a root address (`photos/`, `s3://bucket/photos`, `gs://…`); keys are relative to it and use
forward slashes. Every write is atomic: a reader sees the old object or the new one, never a part.
"""

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit, urlunsplit

from vitseg.atomic import PART, put_file, tag_of
from vitseg.errors import NameTakenError, NotFoundError, StorageError, UsageError, write_error

_PAUSES = (0.05, 0.2, 0.0)  # seconds, after each reading of a file that changed under it


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing: key relative to the store's root, size in bytes, and a tag that changes with it."""

    key: str
    size: int
    etag: str


class Store(Protocol):
    """What every store can do. Missing objects give `None` from `stat` and NotFoundError from `read`."""

    root: str

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with `prefix`, page by page, in the store's own order."""

    def stat(self, key: str) -> ObjectInfo | None:
        """Return the object's size and etag, or None where there is none."""

    def metadata(self, key: str) -> dict[str, str]:
        """Return the user metadata of an object; empty where the store keeps none."""

    def read(self, key: str) -> bytes:
        """Return an object's content."""

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        """Return an object's content, and the etag of just that content: it may be newer than what was listed."""

    def read_start(self, key: str, size: int) -> bytes:
        """Return the first `size` bytes (at least 1) of an object, or all of a shorter one; errors as `read_tagged`."""

    def write(
        self, key: str, data: bytes | BinaryIO, *, metadata: dict[str, str] | None = None,
        content_type: str | None = None, if_absent: bool = False, if_match: str | None = None,
    ) -> bool:  # fmt: skip
        """Put an object atomically, or, where a condition does not hold, write nothing and return False.

        Args:
            key: its place.
            data: its content, or a file that holds it: that is read from its start, block by block.
            metadata: user metadata, for stores that keep some.
            content_type: its media type, for stores that keep one.
            if_absent: put it only where there is no object.
            if_match: put it only in the place of the object that has this etag. Not together with `if_absent`.

        Raises:
            AccessError: the store can't be written.
            StoreFullError: it has no room left.
            NameTakenError: a folder lies where the object should, or a file where a folder of its key should.
            StorageError: it failed in another way, which may pass.
        """

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def md5(self, info: ObjectInfo) -> str:
        """Return the MD5 of an object's content (hex): equal content gives an equal digest in any store."""

    def uri(self, key: str) -> str:
        """Return the full address of a key."""


def open_store(address: str | Path) -> Store:
    """Open the store at a local path, `file://`, `s3://` or any other fsspec URL.

    Raises:
        UsageError: the address can't be understood, or carries a secret.
    """
    text = str(address)
    if "://" not in text:
        return LocalStore(Path(text).expanduser())
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise UsageError("an address must not carry credentials: put them in the environment (AWS_ACCESS_KEY_ID …)")
    if any(word in parts.query.lower() for word in ("sig", "token", "credential")):
        raise UsageError("an address must not carry a signature or token: whoever reads the log could use it")
    if parts.scheme == "file":
        return LocalStore(Path(parts.path))
    if parts.scheme == "s3":
        if not parts.netloc:
            raise UsageError(f"{text}: an s3 address names a bucket: s3://BUCKET/PREFIX")
        from vitseg.s3 import S3Store

        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        return S3Store(bucket, prefix)
    from vitseg.remote import FsspecStore

    return FsspecStore(text)


def canonical(address: str | Path) -> str:
    """Return the one form of an address that means the same everywhere: `photos/` and `./photos` are one folder."""
    store = open_store(address)
    return str(store.folder.resolve()) if isinstance(store, LocalStore) else store.root


def without_secrets(address: str) -> str:
    """Return an address as it may be shown: without user, password and query."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")) if parts.netloc else address


def join(address: str | Path, *parts: str) -> str:
    """Join keys to a root address with single slashes."""
    text = str(address)
    stripped = text.rstrip("/") or "/"
    return "/".join([stripped.rstrip("/"), *(part.strip("/") for part in parts if part)])


def content_md5(data: bytes) -> str:
    """Return the MD5 of bytes as hex: a content id (what S3 uses as etag), not a safeguard."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _refuse(error: OSError) -> None:
    # os.walk would leave out what it can't open, without a word; a folder that is not there holds nothing.
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise StorageError(f"can't list {error.filename}: {error.strerror}") from error


class LocalStore:
    """A folder. The etag is made of modification time and size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.root = str(folder)

    def _path(self, key: str) -> Path:
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
            raise StorageError(f"key {key!r} would leave {self.root}")
        return self.folder / key

    def _info(self, key: str, status: os.stat_result) -> ObjectInfo:
        return ObjectInfo(key, status.st_size, tag_of(status))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `Store.list`; symbolic links are followed once; part files, pipes and devices are left out."""
        start = self.folder / prefix.rpartition("/")[0]
        seen: set[str] = set()
        for folder, folders, names in os.walk(start, onerror=_refuse, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                key = path.relative_to(self.folder).as_posix()
                if not key.startswith(prefix) or name.startswith(PART):
                    continue
                try:
                    status = path.stat()
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ELOOP):  # it vanished, or is a link to nowhere
                        yield ObjectInfo(key, 0, "")  # whoever reads it learns what is wrong
                    continue
                if stat.S_ISREG(status.st_mode):  # to read a pipe would wait for ever
                    yield self._info(key, status)

    def stat(self, key: str) -> ObjectInfo | None:
        """See `Store.stat`."""
        try:
            with self._reading(key):
                status = self._path(key).stat()
        except NotFoundError:
            return None
        return self._info(key, status) if stat.S_ISREG(status.st_mode) else None

    def metadata(self, key: str) -> dict[str, str]:
        """Files carry no metadata."""
        return {}

    def read(self, key: str) -> bytes:
        """See `Store.read`."""
        return self.read_tagged(key)[0]

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFoundError(f"{self.uri(key)} does not exist") from error
        except OSError as error:
            raise StorageError(f"can't read {self.uri(key)}: {error.strerror or error}") from error

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        """See `Store.read_tagged`: a file that grows or is written over in the meantime is read again.

        Raises:
            NotFoundError: there is no such file.
            StorageError: it can't be read, or changes all the time.
        """
        for pause in _PAUSES:
            with self._reading(key):
                with self._path(key).open("rb") as file:
                    before = self._info(key, os.fstat(file.fileno()))
                    data = file.read()
                    after = self._info(key, os.fstat(file.fileno()))
                if before == after and len(data) == after.size:
                    return data, after.etag
            time.sleep(pause)
        raise StorageError(f"{self.uri(key)} changes while it is read: try again once it is written")

    def read_start(self, key: str, size: int) -> bytes:
        """See `Store.read_start`."""
        with self._reading(key), self._path(key).open("rb") as file:
            return file.read(size)

    def write(
        self, key: str, data: bytes | BinaryIO, *, metadata: dict[str, str] | None = None,
        content_type: str | None = None, if_absent: bool = False, if_match: str | None = None,
    ) -> bool:  # fmt: skip
        """See `Store.write` and `put_file`; files carry no metadata."""
        path = self._path(key)
        try:
            return put_file(path, data, if_absent=if_absent, if_match=if_match)
        except OSError as error:
            if if_absent and isinstance(error, FileExistsError) and path.is_file():
                return False
            if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
                self._refuse_clash(key, error)
            raise write_error(error, self.uri(key)) from error

    def _refuse_clash(self, key: str, error: OSError) -> None:
        # The root is not looked at: should that be a file, no key is to blame.
        folders = (self.folder / name for name in PurePosixPath(key).parents[:-1])
        file = next((path for path in folders if os.path.lexists(path) and not path.is_dir()), None)
        if file or (self.folder / key).is_dir():
            other = f"the file {file}" if file else "a folder"
            raise NameTakenError(f"can't write {self.uri(key)}: {other} is in the way: move it away") from error

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._path(key).unlink()
        except OSError as error:
            raise StorageError(f"can't remove {self.uri(key)}: {error.strerror or error}") from error

    def md5(self, info: ObjectInfo) -> str:
        """See `Store.md5`: read in blocks, so that the size does not matter."""
        try:
            with self._path(info.key).open("rb") as file:
                return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise StorageError(f"can't read {self.uri(info.key)}: {error.strerror or error}") from error

    def uri(self, key: str) -> str:
        """See `Store.uri`."""
        return join(self.root, key)
