import io

import numpy as np
import pytest
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from vitseg.data.label_orientation import decode_label
from vitseg.errors import SampleError
from vitseg.images.decode import TURNS, decode_image

IDS = np.arange(32, dtype=np.uint8).reshape(4, 8)
"""What a label says of an upright photograph of 8x4 pixels."""
BACK = {1: None, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}


def stored(pixels, turn=1, kind="PNG", noted=True):
    """Encode an image as a camera stores it: turned back, with a note of how to turn it."""
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    if noted:
        exif[0x0112] = turn
    out = io.BytesIO()
    (image.transpose(BACK[turn]) if BACK[turn] is not None else image).save(out, kind, exif=exif)
    return out.getvalue()


def photo(turn, shape=(4, 8), kind="JPEG"):
    data = stored(np.zeros((*shape, 3), np.uint8), turn, kind)
    assert decode_image(data, 999).size == shape[::-1]
    return data


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", [1, 6, 8])
@pytest.mark.parametrize("drawn", ["upright", "upright, noted", "as stored", "as stored, noted"])
def test_a_label_is_turned_so_that_it_fits_its_photograph(kind, turn, drawn):
    label = stored(IDS, turn if drawn.startswith("as stored") else 1, noted=drawn.endswith("noted"))
    mask, _, doubts = decode_label(label, photo(turn, kind=kind), (4, 8), 999)
    np.testing.assert_array_equal(np.asarray(mask), IDS)
    assert not doubts


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_note_behind_a_large_color_profile_is_found(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    noise = np.random.default_rng(0).bytes(30_000)
    Image.new("RGB", (4, 8)).save(out, kind, exif=exif, icc_profile=noise)
    data = out.getvalue()
    if kind == "JPEG":  # Pillow writes EXIF first, cameras do, programs may not
        start, end = data.index(b"\xff\xe1"), data.index(b"\xff\xe2")
        rest = data.index(b"\xff\xdb", end + 30_000)
        data = data[:start] + data[end:rest] + data[start:end] + data[end:rest] + data[rest:]
        assert data.index(b"Exif") > 2**14
    label = stored(np.arange(32, dtype=np.uint8).reshape(4, 8), 6, noted=False)
    mask, _, doubts = decode_label(label, data, (4, 8), 999)
    np.testing.assert_array_equal(np.asarray(mask), IDS)
    assert not doubts


def test_the_second_page_is_enough_to_refuse_a_label(monkeypatch):
    out = io.BytesIO()
    pages = [Image.fromarray(IDS * 0 + n) for n in range(9)]
    pages[0].save(out, "GIF", save_all=True, append_images=pages[1:])
    seek, sought = GifImageFile.seek, []
    monkeypatch.setattr(GifImageFile, "seek", lambda image, page: (sought.append(page), seek(image, page)))
    with pytest.raises(SampleError, match="several pages of one size"):
        decode_label(out.getvalue(), photo(1), (4, 8), 999)
    assert sought == [1]


def test_a_note_that_no_longer_holds_is_not_followed():
    """Programs that turn pixels upright often leave the note as it was."""
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IDS).save(out, "PNG", exif=exif)
    for turn in (1, 6):
        np.testing.assert_array_equal(np.asarray(decode_label(out.getvalue(), photo(turn), (4, 8), 999)[0]), IDS)


@pytest.mark.parametrize(("turn", "shape"), [(3, (4, 8)), (6, (6, 6))])
def test_a_size_that_fits_both_ways_is_told(turn, shape):
    ids = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    mask, _, doubts = decode_label(stored(ids, noted=False), photo(turn, shape), shape, 999)
    np.testing.assert_array_equal(np.asarray(mask), ids)
    assert "turned differently (EXIF orientation), and the size fits both ways" in doubts[0]
    mask, _, doubts = decode_label(stored(ids, turn), photo(turn, shape), shape, 999)
    np.testing.assert_array_equal(np.asarray(mask), ids)
    assert not doubts


def test_a_label_that_fits_no_way_is_returned_as_it_looks():
    mask, _, doubts = decode_label(stored(IDS[:2], 6), photo(6), (4, 8), 999)
    assert (mask.size, doubts) == ((8, 2), ())


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_several_pages_are_no_label_unless_they_are_previews(kind):
    out = io.BytesIO()
    pages = [Image.fromarray(IDS * 0 + n) for n in range(3)]
    pages[0].save(out, kind, save_all=True, append_images=pages[1:], lossless=True)
    with pytest.raises(SampleError, match=r"^several pages of one size: save one image"):
        decode_label(out.getvalue(), photo(1), (4, 8), 999)
    if kind == "TIFF":
        out = io.BytesIO()
        pages[0].save(out, kind, save_all=True, append_images=pages[1:], compression="tiff_lzw")
        with pytest.raises(SampleError, match="several pages of one size"):
            decode_label(out.getvalue(), photo(1), (4, 8), 999)
        out = io.BytesIO()
        pages[0].save(out, kind, save_all=True, append_images=[pages[1].resize((4, 2))])
        assert decode_label(out.getvalue(), photo(1), (4, 8), 999)[0].size == (8, 4)


def test_all_turns_are_known():
    assert set(BACK) - {1} <= set(TURNS)
