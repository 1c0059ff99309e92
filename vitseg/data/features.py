"""Features: what an encoder that does not learn says of each photograph, computed once and kept beside the shards.

    SHARDS/_vitseg/features/DIGEST/{16 hex of the shard's sha256}-{photos or mirrored}-{sha256 of the file}.f16

A file holds the tokens of the photographs of one shard, in its order: float16 (samples, N, E), as a processor of today
keeps it in memory, and nothing else. The digest stands for all that they depend on, so that the next training with the same
encoder finds them. Files are complete or not there at all, and read like shards: in place from a folder, or else through
the cache of shards. Whoever needs room may remove the folder: they are computed again.

Should two trainings on unlike machines compute the same at once, both leave a file; the first by name is read.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from vitseg.data.manifest import ShardInfo
from vitseg.data.shard_cache import ShardCache
from vitseg.errors import DataError
from vitseg.storage import join, open_store

FEATURES = "_vitseg/features"
PHOTOS, MIRRORED = "photos", "mirrored"
_END = ".f16"


@dataclass(frozen=True)
class OpenFeatures:
    """The features of one shard, open; may be read by several threads at once."""

    files: tuple[FileIO, ...]
    """Of the photographs as they are, and mirrored if anybody needs them."""

    def read_into(self, row: np.ndarray, sample: int, flip: bool) -> None:
        """Read the tokens of a sample into float16 (N, E)."""
        assert row.flags.c_contiguous
        found = os.preadv(self.files[flip].fileno(), [row.view(np.uint8).data], sample * row.nbytes)
        assert found == row.nbytes, "the cache checks sizes"

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()


class Features:
    """The features of one data set by one encoder."""

    def __init__(self, shards: str, digest: str, shape: tuple[int, int], cache: Path | None = None) -> None:
        """Look at what is there already.

        Args:
            shards: address of the data set.
            digest: of what the features depend on.
            shape: number and width of the tokens (N, E) of a photograph.
            cache: folder for downloaded files (see `ShardCache`).
        """
        self.folder, self.shape = join(shards, FEATURES, digest), shape
        self._store, self._cache = open_store(self.folder), ShardCache(self.folder, cache)
        self._found: dict[str, ShardInfo] = {}
        self.find()

    def bytes(self, samples: int) -> int:
        """Return the size of the features of so many photographs."""
        return samples * self.shape[0] * self.shape[1] * np.dtype(np.float16).itemsize

    def find(self) -> None:
        """Look again, for what other ranks have written."""
        for info in sorted(self._store.list(), key=lambda info: info.key, reverse=True):
            kind, _, sha256 = info.key.removesuffix(_END).rpartition("-")
            if info.key.endswith(_END) and len(sha256) == 64:
                samples, rest = divmod(info.size, self.bytes(1))
                if not rest:
                    self._found[kind] = ShardInfo(info.key, sha256, info.size, samples)

    def missing(self, shard: ShardInfo, views: Iterable[str]) -> list[str]:
        """Return those views of a shard, `PHOTOS` or `MIRRORED`, of which there is no file."""
        return [view for view in views if self._kind(shard, view) not in self._found]

    def write(self, shard: ShardInfo, view: str, path: Path) -> None:
        """Keep the features of a shard that a local file holds, float16 (samples, N, E).

        Raises:
            AccessError, StoreFullError, StorageError: see `Store.write`.
        """
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self._store.write(f"{self._kind(shard, view)}-{sha256}{_END}", file)

    def open(self, shard: ShardInfo, *, mirrored: bool) -> OpenFeatures:
        """Open the features of a shard that `find` has found.

        Raises:
            DataError: a file was removed meanwhile, or is damaged.
            StorageError: it can't be read.
        """
        files: list[FileIO] = []
        try:
            for view in (PHOTOS, MIRRORED) if mirrored else (PHOTOS,):
                info = self._found[self._kind(shard, view)]
                if info.samples != shard.samples:
                    raise DataError(f"{info.name} holds {info.samples} samples, not {shard.samples}")
                files.append(self._cache.open(info))
        except BaseException as error:
            OpenFeatures(tuple(files)).close()
            if isinstance(error, DataError):
                raise DataError(
                    f"features in {self.folder} are damaged: remove that folder, and they are computed again"
                ) from error
            raise
        return OpenFeatures(tuple(files))

    def _kind(self, shard: ShardInfo, view: str) -> str:
        return f"{shard.sha256[:16]}-{view}"
