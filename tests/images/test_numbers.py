import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.inference.conftest import encode
from vitseg.errors import SampleError
from vitseg.images import rows as rows_module
from vitseg.images.decode import decode_image, to_rgb
from vitseg.images.numbers import stored_bits, to_bytes, white_level
from vitseg.images.resize import model_input
from vitseg.images.rows import open_photo

from .tiffs import tiff

LIMIT = 10**6
RAMP = np.linspace(0, 1, 24 * 16).reshape(16, 24)


def read(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data, LIMIT))[..., 0]


def readers(data: bytes):
    """Return all ways in which the photograph of these bytes is read."""

    def by_rows():
        with open_photo(data, LIMIT) as photo:
            return np.concatenate([photo.rows(top, top + 1) for top in range(photo.size[0])])

    return (lambda: decode_image(data, LIMIT), lambda: model_input(data, RAMP.shape, LIMIT)[0], by_rows)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_divided_by_257_and_rounded(kind):
    values = np.array([[0, 128, 129, 257, 128 * 257, 65_535]], np.uint16)
    assert read(encode(values, kind)).tolist() == [[0, 0, 1, 1, 128, 255]]


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_32_bit_integers_hold_16_bit_numbers(dtype):
    assert read(tiff(np.array([[0, 257, 65_535]], dtype))).tolist() == [[0, 1, 255]]


def test_12_bits_of_a_tiff_are_its_whole_range():
    data = tiff(np.array([[0x00, 0x0F, 0xFF, 0x07, 0xF8, 0x00]], np.uint8), width=4, bits=12)
    assert read(data).tolist() == [[0, 255, 8, 128]]  # of 0, 4095, 127 and 2048


def test_floats_are_0_to_1_or_0_to_255():
    assert read(encode(np.array([[0, 0.5, 1]], np.float32), "TIFF")).tolist() == [[0, 128, 255]]
    assert read(encode(np.array([[0, 9, 250]], np.float32), "TIFF")).tolist() == [[0, 9, 250]]


def ppm(colors: np.ndarray, plain: bool = False) -> bytes:
    numbers = " ".join(map(str, colors.ravel())).encode() if plain else colors.astype(">u2").tobytes()
    return b"P%d %d %d 65535\n" % (3 if plain else 6, *colors.shape[1::-1]) + numbers


def jpeg_2000(colors: np.ndarray, **options: int) -> bytes:
    return imagecodecs.jpeg2k_encode(colors, level=0, **options)


COLORS = (RAMP[..., None] * [4095, 99, 9]).astype(np.uint16)
ABOUT_4095 = r"its numbers end at about 4\d\d\d, at most a quarter of 65535"
UNCLEAR = {
    "12 bits in 16": (encode((RAMP * 4095).astype(np.uint16)), "its numbers end at 4095"),
    "14 bits in 16": (encode((RAMP * 16_383).astype(np.uint16), "TIFF"), "its numbers end at 16383"),
    "8 bits in 16": (encode((RAMP * 255).astype(np.uint16)), "its numbers end at 255"),
    "8 bits in 32": (encode((RAMP * 255).astype(np.int32), "TIFF"), "its numbers end at 255"),
    "dark 12 bits": (
        tiff(np.zeros((1, 3), np.uint8), width=2, bits=12),
        "end at 0, at most a quarter of 4095: .* to 4095",
    ),
    "12 bits of a PPM's color": (ppm(COLORS), ABOUT_4095),
    "12 bits of a plain PPM's color": (ppm(COLORS, plain=True), ABOUT_4095),
    "12 bits of a JPEG 2000's color": (jpeg_2000(COLORS), ABOUT_4095),
    "floats of color": (tiff(np.ones((9, 9, 3), np.float32)), "floats of several channels"),
    "doubles of color": (tiff(np.ones((9, 9, 3), np.float64), compression=8), "floats of several channels"),
    "floats of 16 bits": (tiff(np.ones((9, 9), np.float16)), "floats of several channels, or of 16 bits"),
    "20 bits": (encode((RAMP * 2**20).astype(np.int32), "TIFF"), "its numbers are 0 to 1048576: only 0 to 65535"),
    "below 0": (encode((RAMP * 60_000 - 9).astype(np.int32), "TIFF"), "its numbers are -9 to"),
    "signed 16": (tiff((RAMP * 30_000).astype(np.int16)), "16-bit numbers have a sign"),
    "signed 8": (tiff((RAMP * 100).astype(np.int8)), "8-bit numbers have a sign"),
    "floats to 4095": (encode((RAMP * 4095).astype(np.float32), "TIFF"), "its numbers are 0 to 4095"),
    "floats to 65535": (encode((RAMP * 65_535).astype(np.float32), "TIFF"), "its numbers are 0 to 65535"),
    "floats to 1.02": (encode((RAMP * 1.02).astype(np.float32), "TIFF"), "its numbers are 0 to 1.02"),
    "floats from -1": (encode((RAMP * 2 - 1).astype(np.float32), "TIFF"), "its numbers are -1 to 1"),
    "NaN": (encode(np.where(RAMP > 0.9, np.nan, RAMP).astype(np.float32), "TIFF"), "NaN"),
    "infinite": (encode(np.where(RAMP > 0.9, np.inf, RAMP).astype(np.float32), "TIFF"), "infinite"),
    "12 bits of color": (tiff(COLORS), ABOUT_4095),
    "white is 0": (tiff((RAMP * 65_535).astype(np.uint16), photometric=0), "its white is 0"),
    "planes": (tiff((RAMP[None] * np.full((3, 1, 1), 65_535)).astype(np.uint16), planes=True), "separate planes"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_numbers_whose_white_is_not_known_are_refused_with_their_range(name):
    data, reason = UNCLEAR[name]
    for reader in readers(data):
        with pytest.raises(SampleError, match=reason):
            reader()


def test_colors_of_16_bits_keep_their_upper_8():
    colors = (RAMP[..., None] * [65_535, 30_000, 9_000]).astype(np.uint16)
    for compression in (1, 8):
        assert (np.asarray(decode_image(tiff(colors, compression=compression), LIMIT)) == colors >> 8).all()
    np.testing.assert_allclose(np.asarray(decode_image(ppm(colors), LIMIT)), colors / 257, atol=1)
    for bits in (10, 16):
        data = jpeg_2000(colors >> 16 - bits, bitspersample=bits)
        assert (np.asarray(decode_image(data, LIMIT)) == colors >> 8).all()


def test_a_band_is_scaled_as_the_whole(monkeypatch):
    monkeypatch.setattr(rows_module, "BAND", 2)
    for values in ((RAMP * 65_535).astype(np.uint16), (RAMP * 250).astype(np.float32)):
        data = encode(values, "TIFF")
        whole, _, by_rows = readers(data)
        np.testing.assert_array_equal(by_rows(), np.asarray(whole()))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "LA", "CMYK"])
def test_8_bits_are_as_dark_as_they_are(mode):
    image = Image.new(mode, (3, 2), 0)
    assert (stored_bits(image, b""), white_level(image)) == (8, 255)
    assert to_rgb(image).mode == "RGB"


@given(st.integers(16_384, 65_535))
def test_no_number_that_a_16_bit_photograph_may_have_leaves_the_bytes(largest):
    values = np.array([[0, largest]], np.uint16)
    found = to_bytes(values, white_level(Image.fromarray(values)))
    assert found.tolist() == [[0, round(largest / 257)]]
