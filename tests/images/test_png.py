import io
import struct
import sys
import zlib

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from vitseg.errors import SampleError
from vitseg.images import png
from vitseg.images.decode import decode_stored
from vitseg.images.png import decode_png

pytest.importorskip("imagecodecs")

HEAD = b"\x89PNG\r\n\x1a\n"
MANY = 10**6


def picture(height, width, mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((width, height)).convert(mode)
    return np.asarray(coarse) // 3 + rng.integers(0, 9, np.asarray(coarse).shape, np.uint8)


def encode(pixels, **options):
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunks(data):
    place, found = len(HEAD), []
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def joined(found):
    return HEAD + b"".join(
        struct.pack(">I", len(body)) + name + body + zlib.crc32(name + body).to_bytes(4) for name, body in found
    )


def by_pillow(data):
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.load()
            return np.asarray(image), image.getexif().get(0x0112, 1)
    except Exception as error:  # noqa: BLE001 - on damaged files it raises anything
        return error, 1


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)), st.sampled_from(["RGB", "L"]), st.integers(0, 9), st.integers(0, 99)
)  # fmt: skip
def test_the_pixels_are_those_of_pillow(size, mode, level, seed):
    pixels = picture(*size, mode, seed)
    found = decode_png(encode(pixels, compress_level=level, dpi=(72, 72)), MANY)
    assert found is not None
    np.testing.assert_array_equal(found, pixels)


@st.composite
def damaged(draw):
    """A file of which bytes are changed, cut off or put in, with checksums that fit or do not."""
    pixels = picture(draw(st.integers(1, 30)), draw(st.integers(1, 30)), draw(st.sampled_from(["RGB", "L"])))
    data = encode(pixels, compress_level=draw(st.sampled_from([0, 1, 6])), dpi=(72, 72))
    kind = draw(st.sampled_from(["flip", "cut", "chunk", "twice", "gone", "split", "long"]))
    if kind in ("flip", "cut"):
        place = draw(st.integers(len(HEAD), len(data) - 1))
        return data[:place] + (bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1 :]) * (
            kind == "flip"
        )
    found = chunks(data)
    number = draw(st.integers(0, len(found) - 1))
    name, body = found[number]
    if kind == "chunk" and body:  # the checksum fits again
        place = draw(st.integers(0, len(body) - 1))
        if name != b"IHDR" or place >= 8:  # a size in the millions is another test's
            found[number] = name, body[:place] + bytes([body[place] ^ 1 << draw(st.integers(0, 7))]) + body[place + 1 :]
    elif kind == "twice":
        found.insert(draw(st.integers(0, len(found))), (name, body))
    elif kind == "gone":
        del found[number]
    elif kind == "split":
        place = draw(st.integers(0, len(body)))
        found[number : number + 1] = [(name, body[:place]), (name, body[place:])]
    elif kind == "long":
        rows = zlib.decompress(dict(found)[b"IDAT"])
        rows = (rows + bytes(99))[: draw(st.integers(0, len(rows) + 99))]
        found = [(name, zlib.compress(rows) if name == b"IDAT" else body) for name, body in found]
    return joined(found)


@settings(deadline=None, max_examples=600)
@given(damaged())
def test_nothing_is_read_that_pillow_refuses_or_sees_otherwise(data):
    found = decode_png(data, MANY)
    if found is not None:
        pixels, orientation = by_pillow(data)
        assert isinstance(pixels, np.ndarray), pixels
        assert orientation == 1
        assert found.dtype == pixels.dtype
        np.testing.assert_array_equal(found, pixels)


def exif():
    tags = Image.Exif()
    tags[0x0112] = 6  # lies on its side
    return tags


def text():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    return info


@pytest.mark.parametrize(
    "data",
    [
        encode(picture(9, 7), exif=exif()),
        encode(picture(9, 7), pnginfo=text()),
        encode(picture(9, 7), transparency=(0, 0, 0)),
        encode(Image.fromarray(picture(9, 7)).convert("RGBA")),
        encode(Image.fromarray(picture(9, 7)).convert("P")),
        encode(Image.fromarray(picture(9, 7)).convert("1")),
        encode(picture(9, 7, "L").astype(np.uint16) * 99),
        joined([*chunks(encode(picture(9, 7)))[:-1], (b"eXIf", exif().tobytes()[6:]), (b"IEND", b"")]),
        encode(picture(9, 7))[:-12],
        HEAD,
        joined([(b"IEND", b"")]),
        b"",
        b"\xff\xd8\xff\xe0",
    ],
    ids=[
        "exif",
        "xmp",
        "transparent",
        "alpha",
        "palette",
        "bits",
        "16-bit",
        "exif-last",
        "endless",
        "head",
        "end",
        "empty",
        "jpeg",
    ],
)
def test_what_is_not_plain_is_left_to_pillow(data):
    assert decode_png(data, MANY) is None


def test_a_size_that_is_too_large_is_not_decoded():
    data = encode(picture(20, 30))
    assert decode_png(data, 20 * 30 - 1) is None
    assert decode_png(data, 20 * 30) is not None
    (_, header), *others = chunks(data)
    huge = joined([(b"IHDR", struct.pack(">II", 2**31 - 1, 2**31 - 1) + header[8:]), *others])
    assert decode_png(huge, MANY) is None


@settings(deadline=None, max_examples=100)
@given(damaged())
def test_what_becomes_of_a_file_does_not_depend_on_what_is_installed(data):
    def outcome():
        try:
            return np.asarray(decode_stored(data, MANY)).tolist()
        except SampleError as error:
            return str(error)

    with_it = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "imagecodecs", None)
        assert decode_png(encode(picture(9, 7)), MANY) is None
        assert outcome() == with_it


def test_damaged_files_cost_nothing_that_stays():
    """A decoder that forgets to let go loses the pixels of each damaged file, or references to None until Python aborts."""
    data = bytearray(encode(picture(256, 256)))
    data[len(data) // 2] ^= 1
    process = psutil.Process()
    decode_png(bytes(data), MANY)
    references, memory = sys.getrefcount(None), process.memory_info().rss
    for _ in range(600):
        assert decode_png(bytes(data), MANY) is None
    assert sys.getrefcount(None) > references - 100
    assert process.memory_info().rss - memory < 600 * 256 * 256 * 3 / 4
