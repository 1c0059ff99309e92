"""`manifest.json`: what a prepared data set consists of. It is written last and makes the data set exist.

Readers check `schema`; `vitseg verify` counts again what is counted here.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vitseg.errors import DataError, NotFoundError
from vitseg.json_input import malformed_as_data_error, parse_json, to_json_bytes
from vitseg.labels import Label, train_classes
from vitseg.storage import Store, open_store

MANIFEST = "manifest.json"
SCHEMA = 1
TARGETS = ("labels", "images", "none")
MAX_MANIFEST_BYTES = 256 * 2**20
"""A manifest of a million shards is smaller; a larger file is not a manifest."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ShardInfo:
    """One tar: its name beside the manifest, SHA-256 (hex), size in bytes and number of samples."""

    name: str
    sha256: str
    bytes: int
    samples: int

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> "ShardInfo":
        """Read one row of `shards`; the name must not lead out of the data set's folder."""
        size, samples = _count(row["bytes"], "bytes"), _count(row["samples"], "samples")
        info = ShardInfo(_text(row, "name"), _text(row, "sha256"), size, samples)
        if not _SAFE_NAME.fullmatch(info.name):
            raise DataError(f"shard name {info.name!r} is not a plain file name")
        if not _SHA256.fullmatch(info.sha256):
            raise DataError(f"shard {info.name}: sha256 is not 64 hex digits")
        return info


@dataclass(frozen=True)
class Split:
    """One split: number of samples, labeled pixels of each class (by train id), and its shards in order."""

    samples: int
    pixels_per_class: tuple[int, ...]
    shards: tuple[ShardInfo, ...]
    unknown_pixels: int = 0
    """Pixels whose id or color no class has, so that they don't count."""
    unknown: Mapping[str, int] = field(default_factory=dict)
    """Pixels of the most frequent of these ids and colors, by name."""

    def to_json(self) -> dict[str, Any]:
        """Return a value of `splits`; what is unknown only if there is any."""
        row = asdict(self)
        return row if self.unknown_pixels else {key: row[key] for key in ("samples", "pixels_per_class", "shards")}

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> "Split":
        """Read one value of `splits`; `samples` must be what the shards add up to."""
        pixels = tuple(_count(value, "pixels_per_class") for value in row["pixels_per_class"])
        shards = tuple(ShardInfo.from_json(shard) for shard in row["shards"])
        unknown = {str(value): _count(count, "unknown") for value, count in row.get("unknown", {}).items()}
        unknown_pixels = _count(row.get("unknown_pixels", 0), "unknown_pixels")
        split = Split(_count(row["samples"], "samples"), pixels, shards, unknown_pixels, unknown)
        total = sum(shard.samples for shard in split.shards)
        if total != split.samples:
            raise DataError(f"a split says {split.samples} samples, but its shards hold {total}")
        return split


@dataclass(frozen=True)
class SkippedSource:
    """One source, by its key, that did not become a sample, and why; keys may hold line ends and bytes that are no UTF-8."""

    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole data set: `image_size` is (height, width) in pixels, `classes` are in order of train ids.

    Without classes, the targets are images, or there are none.
    """

    fingerprint: str
    created: str
    image_size: tuple[int, int]
    classes: tuple[Label, ...]
    splits: dict[str, Split]
    skipped: tuple[SkippedSource, ...] = field(default=())
    targets: str = "labels"
    """What the samples' PNGs hold: `labels`, train ids; `images`, target images; `none`, nothing but 255."""
    warnings: tuple[str, ...] = ()
    """What about the labels is likely a mistake, one line each."""
    schema: int = SCHEMA

    @property
    def samples(self) -> int:
        """Samples of all splits together."""
        return sum(split.samples for split in self.splits.values())

    def to_json(self) -> dict[str, Any]:
        """Return the content of `manifest.json` as plain data."""
        return {
            "schema": self.schema,
            "fingerprint": self.fingerprint,
            "created": self.created,
            "image_size": list(self.image_size),
            "classes": [label.to_json() for label in self.classes],
            **({} if self.targets == "labels" else {"targets": self.targets}),
            "splits": {name: split.to_json() for name, split in self.splits.items()},
            "skipped": [asdict(row) for row in self.skipped],
            **({"warnings": list(self.warnings)} if self.warnings else {}),
        }

    @staticmethod
    @malformed_as_data_error()
    def from_json(values: Any) -> "Manifest":
        """Read what `to_json` gave; DataError: another schema, a missing key, or numbers that contradict each other."""
        if not isinstance(values, Mapping):
            raise DataError("the manifest is not a JSON object")
        if values.get("schema") != SCHEMA:
            raise DataError(f"the manifest has schema {values.get('schema')!r}; this version reads {SCHEMA}")
        height, width = (_count(value, "image_size") for value in values["image_size"])
        classes = tuple(Label.from_json(row) for row in values["classes"])
        targets = str(values.get("targets") or values.get("truth", "labels"))  # `truth` in data sets of older versions
        if targets not in TARGETS:
            raise DataError(f"targets {targets!r} is not one of {', '.join(TARGETS)}")
        if (classes != train_classes(classes) if targets == "labels" else classes) or not height or not width:
            raise DataError("classes must be one a train id, in order, and image_size positive")
        splits = {str(name): Split.from_json(row) for name, row in values["splits"].items()}
        for name, split in splits.items():
            if len(split.pixels_per_class) != len(classes):
                counts = len(split.pixels_per_class)
                raise DataError(f"split {name}: {counts} pixel counts for {len(classes)} classes")
            if not _SAFE_NAME.fullmatch(name):
                raise DataError(f"split name {name!r} is not a plain name")
        return Manifest(
            fingerprint=_text(values, "fingerprint"),
            created=_text(values, "created"),
            image_size=(height, width),
            classes=classes,
            splits=splits,
            skipped=tuple(SkippedSource(_text(row, "source"), _text(row, "reason")) for row in values["skipped"]),
            targets=targets,
            warnings=tuple(str(line) for line in values.get("warnings", ())),
        )


def read_manifest(shards: str) -> Manifest:
    """Read the manifest of the data set at an address (folder or `s3://` prefix).

    Raises:
        NotFoundError: there is no manifest, so there is no (finished) data set.
        DataError: it is too large, no JSON, or contradicts itself.
    """
    store = open_store(shards)
    info = store.stat(MANIFEST)
    if info is None:
        command = f"vitseg preprocess SOURCE {store.root}"
        raise NotFoundError(f"no {MANIFEST} in {store.root}: run `{command}` first")
    if info.size > MAX_MANIFEST_BYTES:
        raise DataError(f"{store.uri(MANIFEST)} has {info.size} bytes: that is no manifest")
    try:
        return Manifest.from_json(parse_json(store.read(MANIFEST)))
    except DataError as error:
        raise DataError(f"{store.uri(MANIFEST)}: {error}") from error


def manifest_tag(shards: str) -> str | None:
    """Return the etag of the manifest that is at an address now, damaged or not; None where there is none."""
    info = open_store(shards).stat(MANIFEST)
    return info.etag if info else None


def write_manifest(store: Store, manifest: Manifest, replaces: str | None = None) -> bool:
    """Put `manifest.json`, atomically, where there is none or the one with the etag `replaces`; else return False."""
    text = to_json_bytes(manifest.to_json(), separators=(",", ":"))
    put = functools.partial(store.write, MANIFEST, text, content_type="application/json")
    return (replaces is not None and put(if_match=replaces)) or put(if_absent=True)


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value:
        raise DataError(f"{key} must be text, not {value!r}")
    return value


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"{name} must be a whole number from 0 up, not {value!r}")
    return value
