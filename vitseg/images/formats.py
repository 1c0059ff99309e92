"""Which formats of images are read, and which objects may be images at all, before they are decoded.

Only formats that photographs come in are opened, and each by a decoder inside Pillow: nothing that runs PostScript
or guesses.
"""

import io
import logging
import re
import warnings
from pathlib import PurePosixPath

from PIL import Image, ImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""JPEG includes MPO, the stereo files of some cameras."""
_EXTENSIONS = """
.jpg .jpeg .jpe .jfif .mpo .png .apng .webp .tif .tiff .bmp .gif .pbm .pgm .pnm .ppm .pfm .avif .avifs
.jp2 .j2c .j2k .jpc .jpf .jpx
"""
EXTENSIONS = frozenset(_EXTENSIONS.split())
"""Extensions of these formats, however Pillow was built: what a source holds must not depend on it."""
SNIFFED_BYTES = 64
"""Bytes at the start of an object that tell most others from images."""

# Pillow's own limit is one number for the whole process, and half of what we allow. TIFF and WebP check it even where
# `Image.open` is not used, so it is lifted here, once, for everything that decodes: each call below has its limit.
Image.MAX_IMAGE_PIXELS = None
# What Pillow warns of is metadata that it can't read; what it logs, it raises, too.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

APPLE_DOUBLE = b"\x00\x05\x16\x07"
"""Start of the files, mostly named `._x.jpg`, in which macOS keeps what it knows of another."""
_WEAK = ("BMP", "PPM")
"""Formats whose first bytes are two letters, as in other content."""
_FOREIGN = {
    name: re.compile(signature, re.DOTALL)
    for name, signature in {
        "ICO": rb"\x00\x00\x01\x00[^\x00]\x00.{3}[\x00\x01]",
        "CUR": rb"\x00\x00\x02\x00[^\x00]\x00.{3}\x00",
        "HEIC": rb"\x00\x00\x00.ftyp(?:hei[cxms]|hev[cxms]|mif1(?!.{,40}avif)|msf1(?!.{,40}avi))",
        "JPEG XL": rb"\x00\x00\x00\x0cJXL |\xff\x0a",
        "JPEG XR": rb"II\xbc[\x00\x01]",
        "PSD": rb"8BPS\x00[\x01\x02]",
        "OpenEXR": rb"v/1\x01",
        "HDR": rb"#\?RADIANCE\n|#\?RGBE\n",
        "DDS": rb"DDS \x7c\x00\x00\x00",
        "QOI": rb"qoif.{8}[\x03\x04][\x00\x01]",
        "ICNS": rb"icns.{4}[ -~]{4}",
        "SGI": rb"\x01\xda[\x00\x01][\x01\x02]\x00[\x01-\x03]",
        "Sun raster": rb"\x59\xa6\x6a\x95",
        "PCX": rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]",
        "XCF": rb"gimp xcf ",
        "FITS": rb"SIMPLE  = ",
        "DPX": rb"SDPX\x00|XPDS",
        "MNG": rb"\x8a[MJ]NG\r\n|\x8bJNG\r\n",
        "EPS": rb"%!PS-Adobe-\d\.\d EPSF|\xc5\xd0\xd3\xc6",
        "WMF or EMF": rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF",
        "raw": rb"II\*\x00....CR\x02|....ftypcrx |FUJIFILMCCD-RAW|IIU\x00|IIR[OS]|MMOR|FOVb",  # of Canon, Fujifilm, …
    }.items()
}
"""Images that are named as what they are, by their first bytes."""
_FOREIGN_EXTENSIONS = """
.heic .heif .hif .tga .psd .psb .dng .ico .cur .jxl .jxr .wdp .exr .hdr .dds .qoi .icns .sgi .rgb .ras .pcx .xcf .fits
.dpx .mng .jng .eps .wmf .emf .cr2 .cr3 .nef .arw .raf .rw2 .orf .x3f .pef .srw
"""
_UNREADABLE = frozenset(_FOREIGN_EXTENSIONS.split())
"""Extensions of images, too, which can only fail."""
_LARGEST_UNCERTAIN = 64 * 2**20  # bytes


def has_image_name(key: str) -> bool:
    """Return whether the extension of a key promises an image, if only one of a format that isn't read."""
    return PurePosixPath(key).suffix.lower() in EXTENSIONS | _UNREADABLE


def may_be_read(size: int, max_pixels: int, *, is_certain: bool) -> bool:
    """Return whether an object of `size` bytes is small enough: 8 bytes a pixel are 16-bit RGBA.

    It `is_certain` to be an image by its name or first bytes; others are read only to find out.
    """
    return size <= (max(8 * max_pixels, _LARGEST_UNCERTAIN) if is_certain else _LARGEST_UNCERTAIN)


def begins_as_image(start: bytes) -> bool:
    """Return whether the first `SNIFFED_BYTES` are those of an image alone, of a format that is read or not."""
    if foreign_format(start) or (start[:4], start[8:12]) == (b"RIFF", b"WEBP"):  # whatever chunk comes first
        return True
    return any(_accepts(name, start) for name in FORMATS if name not in _WEAK)


def may_be_image(start: bytes) -> bool:
    """Return whether the first `SNIFFED_BYTES`, or all of a shorter object, may begin an image."""
    return begins_as_image(start) or any(_accepts(name, start) for name in _WEAK)


def is_image(data: bytes) -> bool:
    """Return whether an object is an image, sound or not: by its first bytes, or where these are weak by its header."""
    if begins_as_image(data):
        return True
    try:
        return read_header(data, _WEAK) is not None
    except Exception:  # noqa: BLE001 - on foreign bytes decoders raise anything; all of it means no
        return False


def foreign_format(start: bytes) -> str | None:
    """Return the name of an image format that isn't read, by the first `SNIFFED_BYTES`."""
    start = start[:SNIFFED_BYTES]
    return next((name for name, signature in _FOREIGN.items() if signature.match(start)), None)


def read_header(data: bytes, formats: tuple[str, ...] = FORMATS) -> ImageFile.ImageFile | None:
    """Return an image whose header is read and whose pixels are not; None where no format fits.

    Raises:
        Exception: on damaged headers, and on kinds of a format that they don't read, decoders raise anything.
    """
    refusal = "its header is damaged" if formats == FORMATS else ""
    for name in formats:
        if _accepts(name, data):
            try:
                return Image.OPEN[name][0](io.BytesIO(data), "")
            except SyntaxError as error:  # the decoder's way to tell that the format is another, or a kind of its own
                refusal = f"{error}; or it is a {name} of a kind that is not read"
    if refusal and begins_as_image(data):
        raise ValueError(refusal)
    return None


def _accepts(name: str, start: bytes) -> bool:
    if name not in Image.OPEN:
        Image.init()
    accepts = Image.OPEN[name][1] if name in Image.OPEN else lambda _: False
    return accepts is None or accepts(start[:SNIFFED_BYTES]) is True
