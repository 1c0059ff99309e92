"""A folder as a store of objects."""

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from vitseg.errors import NameTakenError, NotFoundError, StorageError, write_error
from vitseg.storage.atomic import PART, put_file, tag_of
from vitseg.storage.base import ObjectInfo, Store, reading

_PAUSES = (0.05, 0.2, 0.0)  # seconds to wait after each reading of a file that was written meanwhile


def _walk(start: Path, wanted: str) -> Iterator[os.DirEntry[str]]:
    """Yield all that is no folder below `start`: first what is in the folder itself, by name, then each folder in it.

    A link to a folder is a folder with names of its own, unless it leads to one that it lies in: that would never end.
    Folders under which no path can begin with `wanted` are not opened. StorageError: one can't be opened.
    """
    # A path, and where the folders above it and it itself really are.
    waiting = [(str(start), tuple(os.path.realpath(path) for path in (*reversed(start.parents), start)))]
    while waiting:
        path, real = waiting.pop()
        folders = []
        for entry in sorted(_scan(path), key=lambda entry: entry.name):
            if not _is_folder(entry):
                yield entry
                continue
            target = os.path.realpath(entry.path) if entry.is_symlink() else f"{real[-1].rstrip('/')}/{entry.name}"
            loops = entry.is_symlink() and any(f"{above}/".startswith(f"{target.rstrip('/')}/") for above in real)
            if not loops and (wanted.startswith(inside := f"{entry.path}/") or inside.startswith(wanted)):
                folders.append((entry.path, (*real, target)))
        waiting += reversed(folders)


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []  # a folder that does not exist holds nothing
    except OSError as error:
        raise StorageError(f"can't list {path}: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to what nobody may see: to read it will tell
        return False


class LocalStore(Store):
    """A folder. Etags consist of modification time and size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.root = str(folder)

    def _path(self, key: str) -> Path:
        if "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):  # as a path it would name another place
            raise StorageError(f"key {key!r} can't be a path in {self.root}: it has an empty, . or .. part")
        return self.folder / key

    def _open(self, key: str) -> BufferedReader:
        """Open a file to be read; StorageError: it is a pipe or the like, of which to open one may wait for ever."""
        path = self._path(key)
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            if path.is_symlink():
                raise StorageError(
                    f"can't read {self.uri(key)}: it is a link to {path.readlink()}, which is missing"
                ) from None
            raise
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise StorageError(f"can't read {self.uri(key)}: it is no file but a pipe, socket or device")
        return path.open("rb")

    def _info(self, key: str, status: os.stat_result) -> ObjectInfo:
        return ObjectInfo(key, status.st_size, tag_of(status))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `Store.list`; part files are left out.

        What can't be read as a file is listed with size 0 and without a tag: reading it tells what it is, and never waits.
        """
        root = f"{str(self.folder).rstrip('/')}/"
        wanted = root + prefix
        for entry in _walk(Path(wanted.rpartition("/")[0] or "/"), wanted):
            if not entry.path.startswith(wanted) or entry.name.startswith(PART):
                continue
            key = entry.path[len(root) :]
            try:
                status = entry.stat()
            except OSError:
                if os.path.lexists(entry.path):  # else it vanished meanwhile
                    yield ObjectInfo(key, 0, "")
                continue
            yield self._info(key, status) if stat.S_ISREG(status.st_mode) else ObjectInfo(key, 0, "")

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
                with self._open(key) as file:
                    before = self._info(key, os.fstat(file.fileno()))
                    data = file.read()
                    after = self._info(key, os.fstat(file.fileno()))
                if before == after and len(data) == after.size:
                    return data, after.etag
            time.sleep(pause)
        raise StorageError(f"{self.uri(key)} changes while it is read: try again once it is written")

    def read_start(self, key: str, size: int) -> bytes:
        """See `Store.read_start`."""
        with reading(self.uri(key)), self._open(key) as file:
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
            with self._open(info.key) as file:
                return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise StorageError(f"can't read {self.uri(info.key)}: {error.strerror or error}") from error
