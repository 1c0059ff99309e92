import io
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.images.photographs import draw
from vitseg.errors import SampleError
from vitseg.images.decode import decode_image, decode_stored, open_image
from vitseg.images.tiff import decode_tiff

from .tiffs import tiff

LIMIT = 10**6
COMPRESSIONS = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "group4")


def encode(mode: str, compression: str, **options) -> bytes:
    file = io.BytesIO()
    draw(97, 61, mode).save(file, "TIFF", compression=compression, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_pixels_are_those_of_pillow(mode, compression):
    if compression == ("group4" if mode != "1" else "jpeg") or (compression == "jpeg" and mode in ("P", "I;16", "LA")):
        return  # there is none such
    data = encode(mode, compression)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(decode_stored(data, LIMIT)), np.asarray(image))
    by_pillow = mode == "1" or compression == "jpeg"
    assert (decode_tiff(data, open_image(data, LIMIT))[0] is None) == by_pillow


DAMAGED = {
    "tiff_lzw": "code not yet in table",
    "tiff_adobe_deflate": "BAD_DATA|incorrect data check|ecoding error",
    "packbits": "Not enough data|Discarding",
    "jpeg": "Corrupt JPEG data|premature end",
}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16", "CMYK"])
@pytest.mark.parametrize("compression", DAMAGED)
def test_damage_is_told_in_the_decoder_s_words_and_nothing_is_printed(mode, compression, capfd):
    if compression == "jpeg" and mode in ("I;16", "RGBA"):
        return
    data = encode(mode, compression)
    with Image.open(io.BytesIO(data)) as image:
        (start, *_), (length, *_) = image.tag_v2[273], image.tag_v2[279]
    middle, end = start + length // 2, start + length
    spoiled = data[:middle] + b"\x7f" * (end - middle - 2) + data[end - 2 :]
    with ThreadPoolExecutor(2) as pool:
        errors = list(pool.map(lambda _: refusal(spoiled), range(4)))
    assert errors == errors[:1] * 4
    assert re.search(DAMAGED[compression], errors[0]), errors[0]
    assert capfd.readouterr() == ("", "")


def refusal(data: bytes) -> str:
    try:
        decode_image(data, LIMIT)
    except SampleError as error:
        return str(error)
    return "read"


def test_the_checksum_of_a_zip_stream_must_fit():
    values = np.asarray(draw(97, 61))
    data = bytearray(tiff(values, compression=8))
    np.testing.assert_array_equal(np.asarray(decode_stored(bytes(data), LIMIT)), values)
    with Image.open(io.BytesIO(bytes(data))) as image:
        data[image.tag_v2[273][0] + image.tag_v2[279][0] - 1] ^= 1
    assert re.search("BAD_DATA|Decoding error", refusal(bytes(data)))


@pytest.mark.parametrize("compression", [1, 8])
def test_a_palette_of_8_bit_numbers_is_read_as_that(compression):
    colors = tuple(range(0, 256)) + tuple(range(255, -1, -1)) + (7,) * 256
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    wanted = [[[number, 255 - number, 7] for number in row] for row in ids.tolist()]
    for factor in (1, 256, 257):
        data = tiff(ids, photometric=3, compression=compression, more={320: tuple(factor * color for color in colors)})
        assert np.asarray(decode_image(data, LIMIT)).tolist() == wanted
        assert np.asarray(decode_stored(data, LIMIT)).tolist() == ids.tolist()


def test_raw_photographs_are_refused_rather_than_their_preview():
    for tag in ({50706: (1,)}, {254: (1,)}):  # DNG; a preview of what comes later in the file
        assert "not read, only its preview" in refusal(tiff(np.full((9, 9, 3), 200, np.uint8), more=tag))
    assert refusal(tiff(np.full((9, 9, 3), 200, np.uint8), more={254: (2,)})) == "read"  # one page of several


def test_a_size_that_is_there_twice_is_refused():
    data = bytearray(tiff(np.full((9, 9, 3), 200, np.uint8), compression=8))
    place = data.index(struct.pack("<HHI", 262, 3, 1))
    data[place : place + 12] = struct.pack("<HHII", 257, 4, 1, 9)
    assert "tag 257 is there twice" in refusal(bytes(data))
    data[place : place + 12] = struct.pack("<HHII", 256, 4, 1, 9)
    assert "tag 256 is there twice" in refusal(bytes(data))


@pytest.mark.parametrize("kind", [2, 7, 11])  # text, bytes, a float
def test_a_kind_of_page_that_is_no_number_changes_no_pixel(kind):
    data = bytearray(tiff(np.full((9, 9, 3), 200, np.uint8), more={254: (0,)}))
    place = data.index(struct.pack("<HHI", 254, 3, 1))
    data[place : place + 12] = struct.pack("<HHI4s", 254, kind, 1, b"\1\0\0\0")
    open_image(bytes(data), LIMIT)
    assert refusal(bytes(data)) == "read"


def test_strips_are_inflated_to_one_image_at_most(monkeypatch):
    inflated, inflate = [], imagecodecs.deflate_decode

    def count(data, **options):
        inflated.append(len(data))
        return inflate(data, **options)

    monkeypatch.setattr(imagecodecs, "deflate_decode", count)
    row = np.full((1, 9), 200, np.uint8)
    size = len(zlib.compress(row.tobytes()))
    shared = {257: (40,), 278: (1,), 273: (8,) * 40, 279: (size,) * 40}
    data = tiff(row, compression=8, more=shared)
    assert (np.asarray(decode_stored(data, LIMIT)) == row.repeat(40, 0)).all()
    assert len(inflated) == 1
    image = np.full((40, 9), 200, np.uint8)
    size = len(zlib.compress(image.tobytes()))
    data = tiff(image, compression=8, more={278: (1,), 273: (8,) * 40, 279: tuple(range(size, size + 40))})
    assert "its strips or tiles hold more than its pixels" in refusal(data)
    assert len(inflated) == 3


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32])
@pytest.mark.parametrize("turn", [1, 6])
def test_bytes_of_32_bit_numbers_are_not_swapped_twice(dtype, turn):
    """Pillow swaps those of the other byte order once more than libtiff."""
    values = np.linspace(0, 1 if dtype == np.float32 else 65_535, 12).reshape(3, 4).astype(dtype)
    wanted = Image.fromarray((values * 255.0 / values.max()).round().astype(np.uint8))
    wanted = wanted.transpose(Image.Transpose.ROTATE_270) if turn == 6 else wanted
    for order in "<>":
        for compression in (1, 8):
            data = tiff(
                values.astype(np.dtype(dtype).newbyteorder(order)), compression=compression, more={274: (turn,)}
            )
            if (order, dtype) != (">", np.uint32):  # which Pillow doesn't read
                found = np.asarray(decode_image(data, LIMIT))[..., 0]
                np.testing.assert_allclose(found.astype(int), np.asarray(wanted).astype(int), atol=1)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("compression", [1, 8])
def test_few_bits_are_their_whole_range(bits, compression):
    data = tiff(np.array([[0xFF, 0x00]], np.uint8), width=16 // bits, bits=bits, compression=compression)
    half = 8 // bits
    assert np.asarray(decode_image(data, LIMIT))[0, :, 0].tolist() == [255] * half + [0] * half


def test_a_file_whose_tags_are_cut_off_is_refused():
    """Pillow would do without them, and read floats as integers."""
    data = tiff(np.full((9, 9, 3), 200, np.uint8))
    assert refusal(data) == "read"
    for kept in (len(data) - 1, len(data) - 7, len(data) - 30):
        assert "cut off" in refusal(data[:kept])


def test_big_tiff_is_read():
    file = io.BytesIO()
    draw(31, 17).save(file, "TIFF", compression="tiff_lzw", big_tiff=True)
    np.testing.assert_array_equal(np.asarray(decode_stored(file.getvalue(), LIMIT)), np.asarray(draw(31, 17)))


def test_kinds_that_are_not_read_are_told_as_that():
    many = np.zeros((9, 9, 7), np.uint8)  # of seven bands
    assert "TIFF of a kind that is not read" in refusal(tiff(many))
