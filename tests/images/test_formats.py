import pytest

from tests.inference.conftest import encode, plain
from vitseg.images.formats import EXTENSIONS, SNIFFED_BYTES, has_image_name, is_image, may_be_image, may_be_read

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
    assert not has_image_name("a.jpg/readme.txt")
    assert not has_image_name("jpg")
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2", ".avif"} <= EXTENSIONS
    assert ".heic" not in EXTENSIONS  # promises an image, but can't be read


def test_what_is_certain_to_be_an_image_may_be_as_large_as_its_pixels():
    assert may_be_read(8 * 200_000_000, 200_000_000, is_certain=True)
    assert not may_be_read(2**32, 200_000_000, is_certain=True)
    assert not may_be_read(2**30, 200_000_000, is_certain=False)
    assert may_be_read(2**25, LIMIT, is_certain=False)
