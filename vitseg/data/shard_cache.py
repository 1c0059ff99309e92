"""Shards as local files whose content was checked against the manifest.

A folder is read in place. Shards in S3, or behind any other address, are downloaded into one folder that all
processes of a machine share. A file's name there is its SHA-256: equal shards of two data sets are one file,
and different ones never collide. The least recently used go when the folder outgrows `VITSEG_CACHE_GB`.

Any number of processes may do this at once. Atomic renames keep the files right; locks only prevent double downloads
and the removal of files in use.
"""

import contextlib
import fcntl
import hashlib
import os
import random
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from vitseg.data.manifest import ShardInfo
from vitseg.errors import DataError, NotFoundError, StorageError, UsageError, VitsegError
from vitseg.home import home
from vitseg.storage import LocalStore, open_store
from vitseg.storage.atomic import PART, lock, part_of

_ATTEMPTS = 3
_DELAY_S = 0.5
_STALE_S = 3600  # a part file this old was left by a process that died


class ShardCache:
    """Opens the shards of one data set; safe to use from several threads and processes."""

    def __init__(self, shards: str, folder: Path | None = None) -> None:
        """Prepare to read; downloads are kept in `folder`, by default `cache/shards` under `VITSEG_HOME`."""
        self._store = open_store(shards)
        self._folder = folder or home() / "cache" / "shards"
        self._limit = limit_bytes()
        self._verified: set[str] = set()

    def open(self, shard: ShardInfo) -> FileIO:
        """Open a shard for reading; it stays readable until closed, even if the cache drops it meanwhile.

        Size is checked each time, and SHA-256 the first time this cache opens the shard.

        Raises:
            DataError: the shard is missing or corrupt in the store.
            StorageError: the store failed several times in a row, or the cache can't be written.
        """
        if isinstance(self._store, LocalStore):
            return self._open_in_place(self._store.folder / shard.name, shard)
        path = self._folder / f"{shard.sha256}.tar"
        try:
            file = self._open_cached(path, shard)
            if file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                with _lock_file(path.with_suffix(".lock")):
                    # The process that had the lock before has probably downloaded it.
                    file = self._open_cached(path, shard) or self._keep(path, self._download(shard))
        except OSError as error:
            reason = error.strerror or error
            raise StorageError(
                f"can't use the shard cache {self._folder}: {reason}: make room, lower VITSEG_CACHE_GB, "
                "or set VITSEG_HOME to another disk"
            ) from error
        self._verified.add(shard.name)
        return file

    def _open_in_place(self, path: Path, shard: ShardInfo) -> FileIO:
        try:
            file = path.open("rb", buffering=0)
            intact = self._intact(file, shard)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(self._missing(shard)) from error
        except OSError as error:
            raise StorageError(f"can't read {path}: {error.strerror or error}") from error
        if not intact:
            file.close()
            raise DataError(self._corrupt(shard))
        self._verified.add(shard.name)
        return file

    def _open_cached(self, path: Path, shard: ShardInfo) -> FileIO | None:
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            return None
        lock(file, fcntl.LOCK_SH)
        if self._intact(file, shard):
            os.utime(file.fileno())  # its modification time says when it was last used
            return file
        file.close()
        path.unlink(missing_ok=True)
        return None

    def _intact(self, file: FileIO, shard: ShardInfo) -> bool:
        if os.fstat(file.fileno()).st_size != shard.bytes:
            return False
        return shard.name in self._verified or hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256

    def _download(self, shard: ShardInfo) -> bytes:
        failure: VitsegError = DataError(self._corrupt(shard))
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_DELAY_S * 2**attempt * random.uniform(0.5, 1.5))  # ranks must not retry in step
            try:
                data = self._store.read(shard.name)
            except NotFoundError as error:
                raise DataError(self._missing(shard)) from error
            except StorageError as error:
                failure = error
                continue
            if len(data) == shard.bytes and hashlib.sha256(data).hexdigest() == shard.sha256:
                return data
            failure = DataError(self._corrupt(shard))
        raise failure

    def _keep(self, path: Path, data: bytes) -> FileIO:
        self._make_room(len(data))
        with part_of(path) as part:
            part.write_bytes(data)
            file = part.open("rb", buffering=0)  # locked before it has its name: from then on others may remove it
            lock(file, fcntl.LOCK_SH)
            part.replace(path)
        return file

    def _make_room(self, size: int) -> None:
        """Remove files that are not in use, least recently used first, until `size` more bytes fit."""
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                status = path.stat()
                partial = path.name.startswith(PART) or path.suffix == ".part"  # the latter of an earlier version
                if path.suffix == ".tar":
                    files.append((status.st_mtime, status.st_size, path))
                elif partial and time.time() - status.st_mtime > _STALE_S:
                    path.unlink()
        excess = sum(length for _, length, _ in files) + size - self._limit
        for _, length, path in sorted(files):
            if excess <= 0:
                break
            if _remove_unused(path):
                excess -= length

    def _missing(self, shard: ShardInfo) -> str:
        return f"shard {self._store.uri(shard.name)} is in the manifest but does not exist: preprocess again"

    def _corrupt(self, shard: ShardInfo) -> str:
        return (
            f"shard {self._store.uri(shard.name)} is corrupt: size or SHA-256 is not what the manifest says; "
            "see `vitseg verify`, and preprocess again"
        )


def limit_bytes() -> int:
    """Return the size, `VITSEG_CACHE_GB`, that what is kept for faster reading may have."""
    text = os.environ.get("VITSEG_CACHE_GB") or "50"
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1
    if not 0 <= gigabytes < float("inf"):
        raise UsageError(f"VITSEG_CACHE_GB={text}: give the size limit of the shard cache in GB, such as 50")
    return int(gigabytes * 1e9)


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    with path.open("ab", buffering=0) as file:
        lock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _remove_unused(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
        if not lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
        path.unlink()
    return True
