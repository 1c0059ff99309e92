"""What happens to files on their way: whether a reader can notice it is known of each format."""

import random
import re
from dataclasses import replace

from tests.odd.photographs import OddPhoto, noise

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

_ENDS = {"jpg": b"\xff\xd9", "png": b"\0\0\0\0IEND\xaeB`\x82"}


ACCIDENTS = (
    "cut", "cut late", "zeros", "zeros to the end", "gap", "flipped", "swapped", "after", "before", "empty", "doubled",
)  # fmt: skip


def damaged(photo: OddPhoto, r: random.Random) -> OddPhoto:
    """Return a photograph after some accident: what is read of it now is its picture, or nothing."""
    name = r.choice(ACCIDENTS)
    data = changed_by(photo.data, name, photo.extension, r)
    noticed = may_be_noticed(photo.what, photo.extension, data, name)
    clear = photo.clear and name in ("after",)
    if b"eXIf" in photo.data and b"eXIf" not in data:  # nothing is left that says how it lies
        noticed = False
    return replace(photo, what=f"{photo.what} | {name}", data=data, clear=clear, checked=noticed)


def changed_by(data: bytes, name: str, extension: str, r: random.Random) -> bytes:
    """Return the bytes of a file after an accident, which is one of `ACCIDENTS`."""
    size = len(data)
    a, b = sorted((r.randrange(size), r.randrange(size)))
    if name == "cut":
        return data[:a]
    if name == "cut late":
        return data[: -r.randrange(1, 20)]
    if name == "zeros":
        b = min(b, a + 600)
        return data[:a] + bytes(b - a) + data[b:]
    end = _ENDS.get(extension, b"")
    if name == "zeros to the end":
        return data[:a] + bytes(max(0, size - a - len(end))) + end
    if name == "gap":
        return data[:a] + (data[b:] if r.random() < 0.5 else end)
    if name == "flipped":
        changed = bytearray(data)
        for _ in range(r.choice([1, 1, 3, 20])):
            changed[r.randrange(size)] ^= 1 << r.randrange(8)
        return bytes(changed)
    if name == "swapped":  # two blocks of a disk
        length = (b - a) // 2
        return data[:a] + data[a + length : a + 2 * length] + data[a : a + length] + data[a + 2 * length :]
    if name == "after":
        return data + r.choice([b"\0", b"\n", b"\r\n", bytes(512), noise(r, 99), b"GIF89a", data[: size // 2]])
    if name == "before":
        return r.choice([b"\n", b"\xef\xbb\xbf", b"\0", noise(r, 20), b"HTTP/1.1 200 OK\r\n\r\n"]) + data
    return b"" if name == "empty" else data + data


def may_be_noticed(what: str, extension: str, data: bytes, name: str) -> bool:
    """Return whether a reader can tell a file that shows another picture now: by checksums, or as pixels are missing."""
    if extension == "png":
        return True
    if extension == "jpg":  # what its decoder says; a wrong turn in the metadata has no checksum
        return name == "cut" or _libjpeg_warns(data)
    if "deflate" in what:
        return name == "cut"
    return name in ("cut", "cut late", "after") and not extension.startswith("j")


def _libjpeg_warns(data: bytes) -> bool:
    """Return whether libjpeg says something about the pixels: what it says of segments before them changes none."""
    if simplejpeg is None:
        return False
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if height * width > 1_000_000:  # damage to its size
            return False
        simplejpeg.decode_jpeg(data, strict=True)
    except ValueError as error:
        return bool(re.search("remature end|bad Huffman|found marker|before marker 0xd9", str(error)))
    return False
