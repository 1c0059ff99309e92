import io

import numpy as np
import pytest
from PIL import Image

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
    mask, doubts = decode_label(label, photo(turn, kind=kind), (4, 8), 999)
    np.testing.assert_array_equal(np.asarray(mask), IDS)
    assert mask.format == "PNG"
    assert not doubts


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
    mask, doubts = decode_label(stored(ids, noted=False), photo(turn, shape), shape, 999)
    np.testing.assert_array_equal(np.asarray(mask), ids)
    assert "turned differently (EXIF orientation), and the size fits both ways" in doubts[0]
    mask, doubts = decode_label(stored(ids, turn), photo(turn, shape), shape, 999)
    np.testing.assert_array_equal(np.asarray(mask), ids)
    assert not doubts


def test_a_label_that_fits_no_way_is_returned_as_it_looks():
    mask, doubts = decode_label(stored(IDS[:2], 6), photo(6), (4, 8), 999)
    assert (mask.size, doubts) == ((8, 2), ())


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_several_pages_are_no_label_unless_they_are_previews(kind):
    out = io.BytesIO()
    pages = [Image.fromarray(IDS * 0 + n) for n in range(3)]
    pages[0].save(out, kind, save_all=True, append_images=pages[1:], lossless=True)
    with pytest.raises(SampleError, match=r"^3 pages of one size: save one image"):
        decode_label(out.getvalue(), photo(1), (4, 8), 999)
    if kind == "TIFF":
        out = io.BytesIO()
        pages[0].save(out, kind, save_all=True, append_images=[pages[1].resize((4, 2))])
        assert decode_label(out.getvalue(), photo(1), (4, 8), 999)[0].size == (8, 4)


def test_all_turns_are_known():
    assert set(BACK) - {1} <= set(TURNS)
