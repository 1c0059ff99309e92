import pytest

from tests.inference.conftest import encode, plain
from vitseg.errors import SampleError
from vitseg.images.decode import open_image
from vitseg.images.formats import (
    EXTENSIONS,
    SNIFFED_BYTES,
    begins_as_image,
    has_image_name,
    is_image,
    may_be_image,
    may_be_read,
)

LIMIT = 1_000_000
COLOR = (200, 60, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "JPEG2000", "AVIF", "MPO"])
def test_the_first_bytes_tell_an_image_from_other_content(kind):
    assert may_be_image(encode(plain(COLOR), kind)[:SNIFFED_BYTES])
    for other in (b"", b"{}", b"hello, world", b"%PDF-1.7", b"PK\3\4", b"<svg>", b"\0" * SNIFFED_BYTES):
        assert not may_be_image(other)
        assert not is_image(other)


def test_names():
    assert has_image_name("a/b.JPG")
    assert has_image_name("x.heic")
    assert has_image_name("favicon.ico")
    assert not has_image_name("a.jpg/readme.txt")
    assert not has_image_name("jpg")
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2", ".avif"} <= EXTENSIONS
    assert ".heic" not in EXTENSIONS  # promises an image, but can't be read


def test_what_is_certain_to_be_an_image_may_be_as_large_as_its_pixels():
    assert may_be_read(8 * 200_000_000, 200_000_000, is_certain=True)
    assert not may_be_read(2**32, 200_000_000, is_certain=True)
    assert not may_be_read(2**30, 200_000_000, is_certain=False)
    assert may_be_read(2**25, LIMIT, is_certain=False)


def made(kind: str) -> bytes:
    return encode(plain(COLOR, 32, 32).convert("RGBA" if kind in ("ICO", "ICNS", "QOI", "DDS") else "RGB"), kind)


def heic(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic"


FOREIGN = {
    "ICO": made("ICO"),
    "PSD": b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\0\1\0\0\0\1\0\x08\0\3",
    "HEIC": heic(b"heic"),
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n",
    "DDS": made("DDS"),
    "QOI": made("QOI"),
    "ICNS": made("ICNS"),
    "SGI": made("SGI"),
    "PCX": made("PCX"),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "raw": b"FUJIFILMCCD-RAW 0201",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_formats_that_are_not_read_are_told_as_what_they_are(name):
    assert may_be_image(FOREIGN[name][:SNIFFED_BYTES])
    assert is_image(FOREIGN[name])
    with pytest.raises(SampleError, match=f"^{name} images are not read: convert it to PNG or JPEG"):
        open_image(FOREIGN[name], LIMIT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "JPEG2000", "AVIF", "MPO"])
def test_what_begins_as_an_image_is_one_in_whatever_state_the_rest_is(kind):
    start = encode(plain(COLOR), kind)[:16]
    for rest in (b"", b"\0" * 99, b"\xff" * 99, b"text" * 99):
        assert begins_as_image(start + rest)
        assert is_image(start + rest)
        with pytest.raises(SampleError, match=r"broken|kind"):
            open_image(start + rest, LIMIT).load()


def test_text_that_begins_with_the_letters_of_a_format_is_no_image():
    for text in (b"BMW is a maker of cars, and so on, for a long time", b"P5 is a bus line\n12 13", b"P1 2024 report"):
        assert not begins_as_image(text)
        assert not is_image(text)


def test_a_webp_whose_first_chunk_has_a_damaged_name_is_still_one():
    data = encode(plain(COLOR), "WEBP")
    data = data[:12] + b"XXXX" + data[16:]
    assert is_image(data)
    with pytest.raises(SampleError, match="its header is damaged"):
        open_image(data, LIMIT)
