"""A remote store that fails on demand. Imports little, for processes that tests start."""

import time
from pathlib import Path

from vitseg.data import shard_cache as cache_module
from vitseg.data.shard_cache import ShardCache
from vitseg.errors import NotFoundError, StorageError


class RemoteStore:
    """A store that is not a folder: each read is a line in a log, and the first ones may fail."""

    def __init__(self, folder: Path, log: Path, *, failures: int = 0, cut: int = 0, delay: float = 0.0) -> None:
        self.root = "s3://bucket/set"
        self.folder, self.log, self.failures, self.cut, self.delay = folder, log, failures, cut, delay

    def uri(self, key: str) -> str:
        return f"{self.root}/{key}"

    def read(self, key: str) -> bytes:
        with self.log.open("a") as log:
            log.write(f"{key}\n")
        time.sleep(self.delay)
        if not (self.folder / key).exists():
            raise NotFoundError(f"{self.uri(key)} does not exist")
        if self.failures:
            self.failures -= 1
            raise StorageError(f"{self.uri(key)}: SlowDown")
        data = (self.folder / key).read_bytes()
        if self.cut:
            self.cut -= 1
            return data[:-1] + b"x"
        return data

    def reads(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


def content(cache: ShardCache, shard) -> bytes:
    with cache.open(shard) as file:
        file.seek(0)
        return file.read()


def read_all(folder: Path, shards, start, results) -> None:
    """In a process of its own: read every shard through the common cache."""
    store = RemoteStore(folder / "set", folder / "log", delay=0.2)
    cache_module.open_store = lambda address: store
    cache = ShardCache(store.root, folder / "cache")
    start.wait()
    results.put(all(content(cache, shard) == (folder / "set" / shard.name).read_bytes() for shard in shards))
