"""Bytes from outside → one RGB image, whatever camera or program wrote them.

Only formats that photographs come in are opened, and each by a decoder inside Pillow: nothing that runs
PostScript or guesses. Neither the extension nor the size in the header is believed before it is checked.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from PIL import Image, ImageOps

from vitseg.errors import SampleError
from vitseg.images.rgb import to_rgb

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""What is opened. JPEG includes MPO, the stereo files of some cameras."""
_READ = {name for name, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO")}
EXTENSIONS = frozenset(_READ | {".heic", ".heif", ".tga", ".psd", ".dng"})
"""Names that promise an image: where the content then isn't one that is read, the object has failed."""

SNIFFED = 64
"""Bytes at the start of an object that tell most others from images."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What turns a picture as people see it, by its orientation."""
ON_ITS_SIDE = 5
"""From this orientation on, what is stored as a row is seen as a column."""
_ORIENTATION = 0x0112  # the EXIF tag, https://exiv2.org/tags.html
_SNIFF_BYTES = 64 * 2**20  # larger objects without such a name are not read to look at their content
_DNG_VERSION = 50706  # the TIFF tag
LARGE_PIXELS = 16_000_000
"""Images over that are held one at a time."""
_ONE_LARGE = threading.RLock()

# Pillow's own limit is one number for the whole process; here each call has its own, checked before decoding.
Image.MAX_IMAGE_PIXELS = None


def has_image_name(key: str) -> bool:
    """Say whether the extension of a key is one of images."""
    return PurePosixPath(key).suffix.lower() in EXTENSIONS


def worth_reading(key: str, size: int, max_pixels: int) -> bool:
    """Say whether an object may be an image at all, before it is read.

    Args:
        key: its key.
        size: its size, bytes.
        max_pixels: the limit for images; no format needs more than 8 bytes a pixel (16-bit RGBA).
    """
    return size <= (max(8 * max_pixels, _SNIFF_BYTES) if has_image_name(key) else _SNIFF_BYTES)


def may_be_image(start: bytes) -> bool:
    """Say whether the first `SNIFFED` bytes, or all of a shorter object, may begin a format that is read."""
    Image.init()
    accepts = (Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN)
    return any(accept is None or accept(start) for accept in accepts)


def is_image(data: bytes) -> bool:
    """Say whether the header is one of a format that is read."""
    try:
        Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # noqa: BLE001 - on foreign bytes decoders raise anything; all of it means no
        return False
    return True


def decode_image(data: bytes, max_pixels: int, *, enough: tuple[int, int] | None = None) -> Image.Image:
    """Decode one image as people see it: RGB, turned as its EXIF orientation says.

    A JPEG may come out smaller, at a half, quarter or eighth, but not under `enough` (width, height).

    Of animations and stacks the first picture counts. Alpha is dropped, as in preprocessing. 16-bit values
    are divided by 257; floats are taken as 0–1 where none is over 1, else as 0–255.

    Raises:
        SampleError: it is empty, of a foreign format, too large, cut off or broken.
    """
    image = open_image(data, max_pixels)
    if enough:
        image.draft(None, enough)
    return as_people_see_it(image)


@contextmanager
def one_large(pixels: int) -> Iterator[None]:
    """Wait until no other large image is held by this process; small ones don't wait."""
    if pixels <= LARGE_PIXELS:
        yield
        return
    with _ONE_LARGE:
        yield


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header of an image.

    Raises:
        SampleError: it is empty, of a foreign format or too large.
    """
    if not data:
        raise SampleError("the object is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # on hostile bytes decoders raise anything
        raise SampleError(f"not an image in a format that is read ({', '.join(FORMATS)})") from error
    if _DNG_VERSION in getattr(image, "tag_v2", {}):  # what Pillow reads of it is a thumbnail
        raise SampleError("a raw photograph (DNG) is not read: convert it to TIFF or JPEG")
    if image.width * image.height > max_pixels:
        raise SampleError(f"{image.width}x{image.height} pixels: over {max_pixels} are refused")
    return image


def orientation(image: Image.Image) -> int:
    """Return how a picture is stored, 1 (as people see it) – 8."""
    found = image.getexif().get(_ORIENTATION, 1)
    return found if found in TURNS else 1


def as_people_see_it(image: Image.Image) -> Image.Image:
    """Decode an image whose header is read: RGB, turned as its EXIF orientation says.

    Raises:
        SampleError: it is cut off or broken.
    """
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)
    except MemoryError:
        raise  # nobody's fault but the machine's
    except Exception as error:  # on hostile bytes decoders raise anything
        raise SampleError(f"the image is broken: {error or type(error).__name__}") from error
