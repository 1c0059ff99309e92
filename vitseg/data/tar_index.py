"""Where each sample lies inside a tar, so that samples can be read in any order.

Only headers are read, once. A shard holds `{key}.jpg`, `{key}.png` and `{key}.json`, and nothing else is
accepted: shards come from outside, and other extensions make some readers run code (pickles, torch files).
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from vitseg.data.features import OpenFeatures
from vitseg.data.manifest import ShardInfo
from vitseg.errors import DataError

_EXTENSIONS = ("jpg", "png", "json")


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one tar, in its order."""

    keys: tuple[str, ...]
    spans: np.ndarray
    """int64 (N, 4): offset and size of the photo, offset and size of the labels, bytes."""


@dataclass(frozen=True)
class OpenShard:
    """A shard that is open, with its index; may be read by several threads at once."""

    info: ShardInfo
    file: BinaryIO
    index: ShardIndex
    features: OpenFeatures | None = None

    def read(self, sample: int) -> tuple[str, bytes, bytes]:
        """Return key, JPEG and PNG of a sample."""
        offset, size, label_offset, label_size = self.index.spans[sample].tolist()
        file = self.file.fileno()
        return self.index.keys[sample], os.pread(file, size, offset), os.pread(file, label_size, label_offset)

    def close(self) -> None:
        """Close the file, and those of features."""
        self.file.close()
        if self.features:
            self.features.close()


def index_shard(file: BinaryIO, shard: ShardInfo) -> ShardIndex:
    """Read the headers of a tar.

    Raises:
        DataError: it is no tar, holds anything but complete samples, or another number of them than the manifest says.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for name, offset, size in _members(file, shard):
        key, _, extension = name.partition(".")
        spans = samples.setdefault(key, {})
        if not key or extension not in _EXTENSIONS or extension in spans:
            raise DataError(f"shard {shard.name}: member {name!r}: a sample is one jpg, png and json of a key")
        spans[extension] = (offset, size)
    for key, spans in samples.items():
        if "jpg" not in spans or "png" not in spans:
            raise DataError(f"shard {shard.name}: sample {key!r} has no {'png' if 'jpg' in spans else 'jpg'}")
    if len(samples) != shard.samples:
        raise DataError(f"shard {shard.name} holds {len(samples)} samples; the manifest says {shard.samples}")
    rows = [[*spans["jpg"], *spans["png"]] for spans in samples.values()]
    return ShardIndex(tuple(samples), np.array(rows, np.int64).reshape(-1, 4))


def _members(file: BinaryIO, shard: ShardInfo) -> Iterator[tuple[str, int, int]]:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isreg() or member.issparse() or member.offset_data + member.size > shard.bytes:
                    raise DataError(f"shard {shard.name}: member {member.name!r} is not a plain, whole file")
                yield member.name, member.offset_data, member.size
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"shard {shard.name} is not a readable tar: {error}") from error
