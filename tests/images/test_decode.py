import contextlib
import io
import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.images.photographs import draw
from tests.inference.conftest import RED, encode, plain
from vitseg.errors import SampleError
from vitseg.images.decode import decode_image, decode_stored, one_large, to_rgb
from vitseg.images.formats import is_image
from vitseg.images.resize import model_input

LIMIT = 1_000_000
COLOR = (200, 60, 30)


def decoded(data: bytes) -> np.ndarray:
    image = decode_image(data, LIMIT)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def close(data: bytes, color: tuple[int, int, int], tolerance: int) -> bool:
    return bool((np.abs(decoded(data) - color) <= tolerance).all())


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        ("JPEG", 4),
        ("PNG", 0),
        ("WEBP", 6),
        ("TIFF", 0),
        ("BMP", 0),
        ("PPM", 0),
        ("GIF", 4),
        ("JPEG2000", 6),
        ("AVIF", 8),
    ],
)
def test_every_format_gives_its_colors(kind, tolerance):
    data = encode(plain(COLOR, 31, 17), kind)
    assert is_image(data)
    assert decoded(data).shape == (17, 31, 3)
    assert close(data, COLOR, tolerance)


def test_the_first_of_several_pictures_in_a_file_is_taken():
    for kind in ("MPO", "GIF", "TIFF", "PNG"):
        data = encode(plain(COLOR, 31, 17), kind, save_all=True, append_images=[plain((0, 0, 255), 31, 17)])
        assert close(data, COLOR, 4)


def test_gray_black_and_white_and_palette():
    assert close(encode(Image.new("L", (5, 3), 77)), (77, 77, 77), 0)
    assert close(encode(Image.new("1", (5, 3), 1)), (255, 255, 255), 0)
    assert close(encode(plain(COLOR).convert("P", palette=Image.Palette.ADAPTIVE)), COLOR, 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_dropped(mode):
    image = plain((90, 90, 90)).convert("RGBA")
    image.putalpha(0)
    image = image if mode == "RGBA" else image.convert("LA") if mode == "LA" else image.convert("P")
    assert close(encode(image), (90, 90, 90), 3)


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_read_without_a_warning():
    image = plain(COLOR).convert("P", palette=Image.Palette.ADAPTIVE)
    assert close(encode(image, transparency=bytes([7] * 256)), COLOR, 1)


def test_cmyk():
    image = Image.new("CMYK", (9, 9), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    for kind in ("JPEG", "TIFF"):
        red, green, blue = decoded(encode(image, kind, **({"quality": 95} if kind == "JPEG" else {})))[4, 4]
        assert red > 220
        assert max(green, blue) < 60


# Row and column of the stored pixels that are the upper left corner of the upright image, by EXIF orientation.
CORNERS = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (-1, 0), 7: (-1, -1), 8: (0, -1)}


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_images_are_turned_upright(orientation, kind):
    stored = np.full((16, 32, 3), 128, np.uint8)
    row, column = CORNERS[orientation]
    stored[slice(0, 8) if row == 0 else slice(8, 16), slice(0, 8) if column == 0 else slice(24, 32)] = RED
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = decoded(encode(stored, kind, exif=exif))
    assert seen.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    assert np.abs(seen[1, 1] - RED).max() < 40
    assert np.abs(seen[-2, -2] - 128).max() < 40


def test_a_broken_exif_block_costs_no_image():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40
    assert decoded(encode(plain(COLOR), "JPEG", exif=exif)).shape == (13, 21, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_a_file_that_is_cut_off_is_refused(kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(noise, kind)
    for share in (0.1, 0.5, 0.9):
        for decode in (decode_image, decode_stored):
            with pytest.raises(SampleError):
                decode(data[: int(len(data) * share)], LIMIT)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"hello, world", "not an image"), (b"%PDF-1.7\n", "not an image")],
)
def test_content_that_is_no_image_is_refused_with_its_reason(data, reason):
    assert not is_image(data)
    with pytest.raises(SampleError, match=reason):
        decode_image(data, LIMIT)


def test_an_image_over_the_limit_is_refused_before_it_is_decoded():
    header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 6_000, 8, 2, 0, 0, 0)
    data = encode(plain(COLOR))
    data = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    with pytest.raises(SampleError, match="40000x6000 pixels: over 200000000"):
        model_input(data, (8, 8), 200_000_000)
    with pytest.raises(SampleError, match="21x13"):
        decode_image(encode(plain(COLOR)), 21 * 13 - 1)
    assert decode_image(encode(plain(COLOR)), 21 * 13).size == (21, 13)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"]), st.integers(0, 2**32))
def test_damaged_bytes_give_an_image_or_a_reason_nothing_else(kind, seed):
    rng = random.Random(seed)
    data = bytearray(encode(plain(COLOR), kind))
    for _ in range(rng.randint(1, 12)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    with contextlib.suppress(SampleError):
        model_input(bytes(data), (4, 4), LIMIT)


def test_one_large_image_at_a_time_and_small_ones_beside_it():
    inside, most = 0, {10: 0, 10**9: 0}
    lock = threading.Lock()

    def hold(pixels):
        nonlocal inside
        with one_large(pixels):
            with lock:
                inside += 1
                most[pixels] = max(most[pixels], inside)
            time.sleep(0.02)
            with lock:
                inside -= 1

    for pixels in most:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(hold, [pixels] * 4))
    assert most[10**9] == 1
    assert most[10] > 1


def test_a_jpeg_is_decoded_no_larger_than_a_preview_needs():
    photo = Image.fromarray(np.full((300, 400, 3), 90, np.uint8))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    assert decode_image(buffer.getvalue(), LIMIT, enough=(70, 70)).size == (100, 75)
    assert decode_image(buffer.getvalue(), LIMIT, enough=(76, 76)).size == (200, 150)
    assert decode_image(buffer.getvalue(), LIMIT).size == (400, 300)


def test_labels_keep_the_values_that_they_are_stored_with():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(ids)
    palette.putpalette(bytes(range(256)) * 3)
    for kind, image in (
        ("PNG", palette),
        ("GIF", palette),
        ("PNG", Image.fromarray(ids)),
        ("TIFF", Image.fromarray(ids)),
    ):
        stored = decode_stored(encode(image, kind), LIMIT)
        assert stored.mode == image.mode
        np.testing.assert_array_equal(np.asarray(stored), ids)
    wide = ids.astype(np.uint16) * 999
    np.testing.assert_array_equal(np.asarray(decode_stored(encode(wide), LIMIT)), wide)
    np.testing.assert_array_equal(np.asarray(decode_stored(encode(ids, exif=exif), LIMIT)), np.rot90(ids, -1))


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG", "JPEG"])
def test_the_limit_is_ours_whatever_pillow_s_is_for_the_process(kind):
    """Pillow refuses TIFF and WebP of more than twice its limit while they are decoded, not only in `Image.open`."""
    data = repr(encode(plain(COLOR), kind))
    code = f"""
from PIL import Image
Image.MAX_IMAGE_PIXELS = 5  # as its default is for a photograph of 200 million
from vitseg.images.decode import decode_image
assert decode_image({data}, 21 * 13).size == (21, 13)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    image = to_rgb(draw(9, 7, mode))
    assert (image.mode, image.size) == ("RGB", (9, 7))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "MPO"])
@pytest.mark.parametrize("more", [b"\n", bytes(512), b"more after the end" * 9])
def test_bytes_behind_the_end_change_nothing(kind, more):
    data = encode(draw(31, 17), kind)
    np.testing.assert_array_equal(decoded(data + more), decoded(data))
