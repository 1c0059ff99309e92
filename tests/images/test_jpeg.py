import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitseg.errors import SampleError
from vitseg.images.decode import decode_stored
from vitseg.images.jpeg import check_jpeg, decode_jpeg

MANY = 10**6


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((width, height))
    return np.clip(np.asarray(coarse).astype(int) + rng.integers(-9, 9, (height, width, 3)), 0, 255).astype(np.uint8)


def encode(pixels, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["RGB", "L"]),
    st.integers(1, 100),
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_pixels_are_those_of_pillow(size, mode, quality, subsampling, progressive, seed):
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    data = encode(picture(*size, seed), mode, quality=quality, progressive=progressive, **options)
    pixels = decode_jpeg(data, size)
    assert pixels is not None
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data))))


def spoiled(data, kind):
    """Return a JPEG of which a part is lost, in ways that its end marker hides."""
    half = len(data) // 2
    if kind == "cut":
        return data[:half]
    gap = {"gap": b"", "zeros": bytes(len(data) - half - 2), "long": bytes(99_999), "noise": data[half + 40 : -2]}[kind]
    return data[:half] + gap + data[-2:]


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"mode": "CMYK"}, {"mode": "L"}]
)
@pytest.mark.parametrize("kind", ["cut", "gap", "zeros", "long", "noise"])
def test_damage_that_libjpeg_notices_is_told_in_its_words(kind, options):
    data = spoiled(encode(picture(96, 128), **options), kind)
    for check in (lambda: decode_jpeg(data, (96, 128)), lambda: check_jpeg(data)):
        with pytest.raises(SampleError, match=r"broken: (Corrupt JPEG data|Premature end of JPEG file)"):
            check()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"quality": 30}])
def test_damage_of_an_unusual_layout_of_colors_is_noticed_at_the_end_of_the_pixels(options):
    data = encode(picture(96, 128), "CMYK", subsampling=2, **options)
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg_header(data)
    np.testing.assert_array_equal(np.asarray(decode_stored(data, MANY)), np.asarray(Image.open(io.BytesIO(data))))
    decode_stored(data + data, MANY)
    for kind in ("cut", "gap", "zeros", "long")[: 2 if "progressive" in options else 4]:
        with pytest.raises(SampleError, match=r"broken: (premature end|extraneous bytes|Premature end|Corrupt)"):
            decode_jpeg(spoiled(data, kind), (96, 128))


def segment(marker, body):
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body


@pytest.mark.parametrize(
    "odd",
    [
        b"junk",  # between segments
        b"\xff\xff\xff",  # fill bytes
        segment(0xE1, b"Exif\0\0no TIFF"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
        segment(0xE2, b"ICC_PROFILE\0\7\1no profile"),
        segment(0xED, b"Photoshop 3.0\x008BIM\4\4\xff\xff\xff"),
        segment(0xE0, b"JFIF\0\7\1\0\0\1\0\1\0\0"),  # a revision of its own
        segment(0xFE, b"\xff\xd8\xff\xda"),
    ],
)
def test_what_is_odd_before_the_first_scan_changes_no_pixel(odd):
    pixels = picture(40, 56)
    data = encode(pixels)
    wanted = decode_jpeg(data, (40, 56))
    for place in (data.index(b"\xff\xdb"), data.index(b"\xff\xc0"))[: 1 if odd == b"junk" else 2]:
        odder = data[:place] + odd + data[place:] + b"more after the end"
        np.testing.assert_array_equal(decode_jpeg(odder, (40, 56)), wanted)
        np.testing.assert_array_equal(np.asarray(decode_stored(odder, MANY)), wanted)


@pytest.mark.parametrize("table", [b"\xff\xdb", b"\xff\xc4"])
def test_bytes_that_are_left_over_of_a_table_are_damage(table):
    data = encode(picture(40, 56))
    inside = data.index(table) + 30
    with pytest.raises(SampleError, match="extraneous bytes"):
        decode_jpeg(data[:inside] + b"\1\2\3" + data[inside:], (40, 56))


def test_what_libjpeg_says_of_an_odd_file_that_is_damaged_too_is_told():
    data = spoiled(encode(picture(96, 128)), "gap")
    with pytest.raises(SampleError, match="premature end of data segment"):
        decode_jpeg(data.replace(b"\xff\xdb", b"junk\xff\xdb", 1), (96, 128))


def test_other_colors_sizes_and_formats_are_left_to_pillow():
    assert decode_jpeg(encode(picture(20, 30), "CMYK"), (20, 30)) is None
    assert decode_jpeg(encode(picture(20, 30)), (30, 20)) is None
    assert decode_jpeg(b"", (20, 30)) is None
    assert decode_jpeg(b"\x89PNG\r\n\x1a\n", (20, 30)) is None


def test_colors_that_were_not_changed_to_luminance_are_those_of_pillow():
    data = encode(picture(20, 30), keep_rgb=True)
    np.testing.assert_array_equal(decode_jpeg(data, (20, 30)), np.asarray(Image.open(io.BytesIO(data))))


def test_a_jpeg_of_very_many_scans_is_refused_unread(monkeypatch):
    data = encode(picture(96, 128), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    for size in ((96, 128), (0, 0)):
        with pytest.raises(SampleError, match="more than 100 scans"):
            decode_jpeg(data[:-2] + last * 100 + data[-2:], size)


def test_a_damaged_jpeg_with_nothing_to_leave_out_is_decoded_once(monkeypatch):
    calls, decode = [], simplejpeg.decode_jpeg

    def count(*given, **options):
        calls.append(given)
        return decode(*given, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", count)
    with pytest.raises(SampleError, match="broken"):
        decode_jpeg(spoiled(encode(picture(96, 128)), "cut"), (96, 128))
    assert len(calls) == 1
