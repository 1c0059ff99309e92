"""A folder as a store of objects."""

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from vitseg.errors import NameTakenError, NotFoundError, StorageError, write_error
from vitseg.storage.atomic import PART, put_file, tag_of
from vitseg.storage.base import ObjectInfo, Store, reading

_PAUSES = (0.05, 0.2, 0.0)  # seconds to wait after each reading of a file that was written meanwhile


def _refuse(error: OSError) -> None:
    # os.walk would silently leave out what it can't open. A folder that does not exist holds nothing.
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise StorageError(f"can't list {error.filename}: {error.strerror}") from error


class LocalStore(Store):
    """A folder. Etags consist of modification time and size."""

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
                        yield ObjectInfo(key, 0, "")  # to read it will tell what is wrong
                    continue
                if stat.S_ISREG(status.st_mode):  # to read a pipe could block forever
                    yield self._info(key, status)

    def stat(self, key: str) -> ObjectInfo | None:
        """See `Store.stat`."""
        try:
            with reading(self.uri(key)):
                status = self._path(key).stat()
        except NotFoundError:
            return None
        return self._info(key, status) if stat.S_ISREG(status.st_mode) else None

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        """See `Store.read_tagged`: a file that is written in the meantime is read again; StorageError: it keeps changing."""
        for pause in _PAUSES:
            with reading(self.uri(key)):
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
        with reading(self.uri(key)), self._path(key).open("rb") as file:
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
        # The root is not checked: if that is a file, no key is to blame.
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
