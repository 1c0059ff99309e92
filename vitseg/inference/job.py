"""What a job of `segment` is: addresses, model, options, and the names of its files.

    DEST/<key>.png                            the mask of SOURCE/<key>: with its extension, as stems may be equal
    DEST/_vitseg/also/color/<key>.png         the mask in its colors, without a palette
    DEST/_vitseg/also/overlay/<key>.jpg       the colors over the photo
    DEST/_vitseg/also/confidence/<key>.png    probability of the chosen class, 255 is certain
    DEST/_vitseg/<job>/listing/*/part-*.parquet, listing.json  the frozen listing
    DEST/_vitseg/<job>/precision.json                          what its masks are computed in, as its first worker chose
    DEST/_vitseg/<job>/part-*.parquet, summary.json            the rows, and the proof that they are complete
    DEST/_vitseg/<job>/begun/*                                 marks of chunks in work, or in work when the job was killed
    DEST/_vitseg/<job>/least-confident.jpg                     a contact sheet for a person to look at first

Keys with a `_vitseg` folder in them are never listed, so no mask can fall on any of the other names.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from vitseg.errors import UsageError
from vitseg.images import MAX_PIXELS
from vitseg.storage import LocalStore, Store

RESERVED = "_vitseg"
Ids = Literal["train", "label"]
"""Numbers in the masks: train ids (0 … K-1) or the label ids of the data set."""
Picture = Literal["color", "overlay", "confidence"]
PICTURES: dict[Picture, str] = {"color": "png", "overlay": "jpg", "confidence": "png"}
"""Pictures that `also` can ask for, and the format of each."""
_NAME_BYTES = 255  # of one name between slashes: in usual file systems, and in S3 servers that store files
_PATH_BYTES = 4000  # of a whole path: Linux takes 4,096, with the part file that precedes a write
_KEY_BYTES = 1024  # of a whole key, in S3


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """The model of a job: where its bundle lies on this machine, and the hash that it must have."""

    name: str
    version: str
    sha256: str
    """Its identity, `Bundle.sha256`."""
    folder: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides the content of masks, the model aside."""

    ids: Ids = "train"
    also: tuple[Picture, ...] = ()
    """Pictures to write beside the masks."""
    tile: bool = False
    """Slide the model over the image at its own scale, instead of shrinking the image to the model's size."""
    flip: bool = False
    """Predict the mirrored image, too, and take the mean of both outputs."""
    max_pixels: int = MAX_PIXELS
    """Larger images are refused: width × height."""

    def __post_init__(self) -> None:
        """Check ranges; the order of `also` does not matter."""
        if self.ids not in get_args(Ids):
            raise UsageError(f"--ids {self.ids}: choose {' or '.join(get_args(Ids))}")
        unknown = sorted(set(self.also) - set(PICTURES))
        if unknown:
            raise UsageError(f"--also {','.join(unknown)}: choose from {', '.join(PICTURES)}")
        if self.max_pixels < 1:
            raise UsageError(f"--max-pixels {self.max_pixels}: at least 1")
        object.__setattr__(self, "also", tuple(sorted(set(self.also))))

    def signature(self) -> str:
        """Return the options as text that is stored in each mask: a mask with equal text can be reused."""
        flip = " flip=true" if self.flip else ""
        return f"ids={self.ids} also={','.join(self.also)} tile={str(self.tile).lower()}{flip}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"also": list(self.also)}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A planned job: small, frozen and picklable, it goes to every worker as it is."""

    id: str
    source: str
    """As given: a folder, prefix or single object."""
    root: str
    """What keys are relative to: the source, or the folder of a single object."""
    dest: str
    model: ModelRef
    options: Options
    batch_size: int | None
    """Images a forward pass; None: as suits the worker's device."""
    chunk_images: int
    """Objects a chunk, as frozen with the listing."""
    listed: int
    """Objects in the listing."""
    bytes: int
    """Their size together."""
    listing: str
    """Name of the folder of the frozen listing, new each time that a listing is begun."""

    @property
    def chunks(self) -> int:
        """Number of chunks: `segment_chunk(job, index)` takes 0 … chunks - 1."""
        return -(-self.listed // self.chunk_images)

    def size(self, index: int) -> int:
        """Return the number of objects in a chunk."""
        return min(self.chunk_images, self.listed - index * self.chunk_images)

    def file(self, name: str) -> str:
        """Return the key under DEST of one of the job's own files."""
        return f"{RESERVED}/{self.id}/{name}"

    def listing_key(self, index: int) -> str:
        """Return the key under DEST of a chunk's part of the frozen listing."""
        return self.file(f"listing/{self.listing}/part-{index:05d}.parquet")

    def part_key(self, index: int) -> str:
        """Return the key under DEST of a chunk's rows."""
        return self.file(f"part-{index:05d}.parquet")

    def begun_key(self, index: int) -> str:
        """Return the key under DEST of the mark that a chunk was begun."""
        return self.file(f"begun/{index:05d}")


def job_digest(source: str, dest: str, model: ModelRef, options: Options) -> str:
    """Return 12 hex digits: the same for the same source, destination, model and options."""
    text = json.dumps([source, dest, model.sha256, options.to_json()], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def mask_key(key: str) -> str:
    """Return the key under DEST of an object's mask: `a/b.jpg` → `a/b.jpg.png`."""
    return f"{key}.png"


def picture_key(kind: Picture, key: str) -> str:
    """Return the key under DEST of a picture that `also` asks for."""
    return f"{RESERVED}/also/{kind}/{key}.{PICTURES[kind]}"


def key_problem(key: str, dest: Store) -> str | None:
    """Return why no mask can be written under this key, or None. S3 allows keys that no folder can hold."""
    try:
        encoded = mask_key(key).encode()
    except UnicodeEncodeError:
        return "the file name is not UTF-8"
    longest = len(encoded) + len(f"{dest.root}/{RESERVED}/also/confidence/".encode())
    if longest > (_PATH_BYTES if isinstance(dest, LocalStore) else _KEY_BYTES):
        return "the key is too long for a mask under DEST"
    parts = encoded.split(b"/")
    if isinstance(dest, LocalStore) and (b"\0" in encoded or b"" in parts):
        return "the key can't be a path in a folder: it has an empty part or a NUL"
    if b"." in parts or b".." in parts:
        return "the key has a . or .. part, with which a folder, and many a bucket, would put the mask elsewhere"
    if max(len(part) for part in parts) > _NAME_BYTES:
        return "the name is too long for a mask under DEST"
    return None
