import contextlib
import gc
import io
import struct
import sys
import zlib

import imagecodecs
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from vitseg.errors import SampleError
from vitseg.images import png
from vitseg.images.decode import decode_stored
from vitseg.images.png import chunk, decode_png, keep_pixels

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
    try:
        found = decode_png(data, MANY)
    except SampleError:
        return
    if found is not None:
        pixels, orientation = by_pillow(keep_pixels(data))
        assert isinstance(pixels, np.ndarray), pixels
        assert orientation == 1
        assert found.dtype == pixels.dtype
        np.testing.assert_array_equal(found, pixels)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["RGB", "L", "RGBA", "P", "1", "LA"]), st.integers(0, 10**6), st.integers(0, 255))
def test_no_wrong_byte_changes_a_pixel_without_a_reason(mode, place, value):
    image = Image.fromarray(picture(30, 40)).convert(mode)
    data = bytearray(encode(image, dpi=(72, 72), pnginfo=comment()))
    wanted = np.asarray(decode_stored(bytes(data), MANY))
    data[place % len(data)] = value
    with contextlib.suppress(SampleError):
        np.testing.assert_array_equal(np.asarray(decode_stored(bytes(data), MANY)), wanted)


def comment():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "a" * 200, zip=True)
    return info


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
        encode(Image.fromarray(picture(9, 7)).convert("P")),
        encode(Image.fromarray(picture(9, 7)).convert("1")),
        encode(picture(9, 7, "L").astype(np.uint16) * 99),
        joined([*chunks(encode(picture(9, 7)))[:-1], (b"eXIf", exif().tobytes()[6:]), (b"IEND", b"")]),
        HEAD,
        joined([(b"IEND", b"")]),
        b"",
        b"\xff\xd8\xff\xe0",
    ],
    ids=[
        "exif",
        "xmp",
        "palette",
        "bits",
        "16-bit",
        "exif-last",
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
def test_what_becomes_of_a_file_does_not_depend_on_who_decodes_it(data):
    def outcome():
        try:
            return np.asarray(decode_stored(data, MANY)).tolist()
        except SampleError:
            return None

    by_libspng = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "_PLAIN", {})  # all is left to Pillow
        assert outcome() == by_libspng


def spoiled_chunk(name, body):
    """Return a chunk whose checksum is wrong."""
    return struct.pack(">I", len(body)) + name + body + b"\0\0\0\0"


def sound_chunk(name, body):
    return joined([(name, body)])[len(HEAD) :]


ODD = {
    "large text": sound_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20))),
    "text bomb": sound_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200 << 20))),
    "large international text": sound_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),
    "large color profile": sound_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(3 << 20))),
    "color profile that is none": sound_chunk(b"iCCP", b"x\0\0junk"),
    "short": sound_chunk(b"gAMA", b"\0"),
    "checksum of gamma": spoiled_chunk(b"gAMA", b"\0\0\xb1\x8f"),
    "checksum of a text": spoiled_chunk(b"tEXt", b"Comment\0abc"),
    "checksum of transparency": spoiled_chunk(b"tRNS", b"\0\1\0\1\0\1"),
    "private": sound_chunk(b"vsEg", b"abc"),
    "private, with a wrong checksum": spoiled_chunk(b"oDDy", b"abc"),
    "EXIF that is none": sound_chunk(b"eXIf", b"abc"),
    "XMP without orientation, with a wrong checksum": spoiled_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>"),
    "large XMP": sound_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2 << 20))),
    "XMP bomb": sound_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"Orientation" * 9_000_000)),
    "large EXIF as text": sound_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(3 << 20))),
    "animation": sound_chunk(b"acTL", b"\0\0\0\1"),
}


@pytest.mark.parametrize("mode", ["RGB", "P", "I;16"])
@pytest.mark.parametrize("name", ODD)
def test_chunks_that_change_no_pixel_are_no_reason_to_refuse_a_file(name, mode):
    pixels = picture(9, 7, "L") if mode == "P" else picture(9, 7)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 700) if mode == "I;16" else Image.fromarray(pixels)
    data = encode(image.convert(mode))
    odd = data[:33] + ODD[name] + data[33:]
    assert odd != data
    np.testing.assert_array_equal(np.asarray(decode_stored(odd, MANY)), np.asarray(image))


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (spoiled_chunk(b"eXIf", b"abc"), "the checksum of its 'eXIf' chunk is wrong"),
        (
            spoiled_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation"),
            "the checksum of its 'iTXt' chunk is wrong",
        ),
        (spoiled_chunk(b"eXIg", exif().tobytes()[6:]), "the checksum of its 'eXIg' chunk is wrong"),  # a damaged name
        (sound_chunk(b"CgBI", b"abcd"), "'CgBI' chunk changes its pixels"),
        (spoiled_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0abc"), "the checksum of its 'iTXt' chunk is wrong"),
        (sound_chunk(b"teXt", b"") * 100_001, "more than 100000 chunks"),
    ],
)
def test_chunks_that_say_what_is_seen_are_a_reason_where_they_are_damaged(odd, reason):
    data = encode(picture(9, 7))
    with pytest.raises(SampleError, match=reason):
        decode_stored(data[:33] + odd + data[33:], MANY)


def test_xmp_is_asked_for_orientation_packed_or_not():
    pixels = picture(9, 7)
    for zipped in (False, True):
        for said, is_read_here in (("tiff:Orientation", False), ("tiff:Make", True)):
            info = PngImagePlugin.PngInfo()
            info.add_itxt("XML:com.adobe.xmp", f'<x {said}="6"/>', zip=zipped)
            data = encode(pixels, pnginfo=info)
            assert (decode_png(data, MANY) is not None) == is_read_here
            assert np.asarray(decode_stored(data, MANY)).shape == ((9, 7, 3) if is_read_here else (7, 9, 3))


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_the_checksum_of_pixels_must_fit_whoever_decodes_them(mode):
    data = bytearray(encode(Image.fromarray(picture(9, 7)).convert(mode)))
    data[-13] ^= 1  # of the checksum itself: neither decoder looks at it
    with pytest.raises(SampleError, match="the checksum of its 'IDAT' chunk is wrong"):
        decode_stored(bytes(data), MANY)


@pytest.mark.parametrize("mode", ["RGB", "P", "1", "LA", "I;16"])
def test_pixels_that_end_too_soon_are_told_where_the_checksums_fit(mode):
    image = Image.fromarray(picture(9, 17))
    image = (
        Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 700) if mode == "I;16" else image.convert(mode)
    )
    found = dict(chunks(encode(image)))
    rows = zlib.decompress(found[b"IDAT"])
    decode_stored(joined(found.items()), MANY)
    for shorter in (rows[:-1], rows[: len(rows) // 2], b""):
        with pytest.raises(SampleError, match="broken"):
            decode_stored(joined((found | {b"IDAT": zlib.compress(shorter)}).items()), MANY)


INTERLACED = {  # Pillow writes none: 5 x 3 pixels of 1 bit
    size: joined(
        [
            (b"IHDR", struct.pack(">II5B", *size, 1, 0, 0, 0, 1)),
            (b"IDAT", zlib.compress(bytes(2 * passes))),
            (b"IEND", b""),
        ]
    )
    for size, passes in {(1, 1): 1, (5, 1): 4, (5, 3): 7, (8, 8): 15}.items()
}


@pytest.mark.parametrize("size", INTERLACED)
def test_the_rows_of_interlaced_pixels_are_counted_by_pass(size):
    assert decode_stored(INTERLACED[size], MANY).size == size
    found = dict(chunks(INTERLACED[size]))
    rows = zlib.decompress(found[b"IDAT"])[:-1]
    with pytest.raises(SampleError, match="missing"):
        decode_stored(joined((found | {b"IDAT": zlib.compress(rows)}).items()), MANY)


def test_a_palette_image_without_its_palette_is_refused():
    found = [chunk for chunk in chunks(encode(Image.fromarray(picture(9, 7)).convert("P"))) if chunk[0] != b"PLTE"]
    with pytest.raises(SampleError, match="no palette"):
        decode_stored(joined(found), MANY)


def decode_damaged(data):
    with pytest.raises(imagecodecs.SpngError):
        imagecodecs.spng_decode(data)
    with pytest.raises(SampleError):
        decode_png(data, MANY)


def test_damaged_files_cost_nothing_that_stays():
    """A decoder that forgets to let go loses the pixels of each damaged file, or references to None until Python aborts."""
    data = bytearray(encode(picture(256, 256)))
    data[len(data) // 2] ^= 1
    process = psutil.Process()
    decode_damaged(bytes(data))
    gc.collect()
    references, memory = sys.getrefcount(None), process.memory_info().rss
    for _ in range(600):
        decode_damaged(bytes(data))
    gc.collect()
    assert sys.getrefcount(None) > references - 500
    assert process.memory_info().rss - memory < 600 * 256 * 256 * 3 / 4


def test_a_chunk_is_found_by_its_place_and_not_by_its_letters():
    texts = PngImagePlugin.PngInfo()
    texts.add_text("note", "tRNS of IDAT")
    palette = Image.fromarray(np.zeros((4, 4), np.uint8))
    palette.putpalette(bytes(6))
    assert chunk(encode(palette, pnginfo=texts, transparency=1), b"tRNS") == b"\xff\0"
    assert chunk(encode(palette, pnginfo=texts), b"tRNS") == b""
    assert chunk(joined([*chunks(encode(palette))[:-1], (b"tRNS", b"late")]), b"tRNS") == b""
