import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitseg.errors import DataError, UsageError
from vitseg.labels import CITYSCAPES, Label, train_classes
from vitseg.masks import (
    class_fractions,
    colorize,
    confidence_image,
    decode_mask,
    encode_mask,
    encode_picture,
    mask_ids,
    overlay,
    read_mask_metadata,
)

CLASSES = train_classes()


def test_a_mask_reads_as_ids_and_opens_in_colors():
    ids = np.array([[0, 13, 18], [10, 10, 0]], np.uint8)
    _, palette = mask_ids(CLASSES, "train")
    image = Image.open(io.BytesIO(encode_mask(ids, palette, {})))
    assert (image.mode, image.size) == ("P", (3, 2))
    assert np.array_equal(np.asarray(image), ids)
    assert image.convert("RGB").getpixel((1, 0)) == (0, 0, 142)  # car
    assert image.convert("RGB").getpixel((0, 1)) == (70, 130, 180)  # sky


def test_a_mask_has_8_bits_a_pixel_however_few_classes_it_shows():
    data = encode_mask(np.zeros((5, 7), np.uint8), mask_ids(CLASSES, "train")[1], {})
    depth, color_type = struct.unpack(">BB", data[24:26])  # IHDR
    assert (depth, color_type) == (8, 3)


def test_label_ids_keep_the_official_colors():
    numbers, palette = mask_ids(CLASSES, "label")
    by_name = {label.name: label for label in CITYSCAPES}
    assert numbers[0] == 7
    assert numbers[18] == 33
    assert tuple(palette[26]) == by_name["car"].color
    assert tuple(palette[33]) == by_name["bicycle"].color
    assert tuple(palette[0]) == (0, 0, 0)


@pytest.mark.parametrize("numbers", [(7, 7), (-1, 3), (3, 256)])
def test_label_ids_that_fit_no_mask_are_refused(numbers):
    classes = tuple(Label(f"c{i}", (i, 0, 0), number, i) for i, number in enumerate(numbers))
    with pytest.raises(UsageError, match="--ids train"):
        mask_ids(classes, "label")


@given(st.dictionaries(st.sampled_from(["source-key", "job"]), st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_comes_back(metadata):
    data = encode_mask(np.zeros((1, 1), np.uint8), np.zeros((256, 3), np.uint8), metadata)
    assert read_mask_metadata(data) == metadata
    assert decode_mask(data)[1] == metadata


def test_metadata_is_in_the_file_as_other_programs_read_it():
    metadata = {"source-key": "Zürich/日本 100%.jpg", "model-name": "streets"}
    data = encode_mask(np.zeros((2, 2), np.uint8), np.zeros((256, 3), np.uint8), metadata)
    assert b"tEXtmodel-name\0streets" in data
    assert "日本 100%.jpg".encode() in data


@pytest.mark.parametrize("data", [b"", b"nothing", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_mask_is_refused(data):
    with pytest.raises(DataError):
        read_mask_metadata(data)


def test_a_mask_that_is_cut_off_or_not_a_palette_image_is_refused():
    ids = np.random.default_rng(0).integers(0, 19, (64, 64), np.uint8)
    data = encode_mask(ids, mask_ids(CLASSES, "train")[1], {})
    with pytest.raises(DataError):
        decode_mask(data[: len(data) // 2])
    with pytest.raises(DataError, match="mode RGB"):
        decode_mask(encode_picture(np.zeros((4, 4, 3), np.uint8), "png"))


def test_fractions_follow_train_ids_whatever_the_file_numbers():
    ids = np.array([[7, 7, 7, 26]], np.uint8)
    fractions = class_fractions(ids, mask_ids(CLASSES, "label")[0])
    assert len(fractions) == 19
    assert (fractions[0], fractions[13], sum(fractions)) == (0.75, 0.25, 1)


def test_pictures_for_people():
    ids = np.array([[0, 1]], np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[1] = (200, 100, 0)
    photo = np.array([[[10, 20, 30], [100, 100, 100]]], np.uint8)
    assert colorize(ids, palette).tolist() == [[[0, 0, 0], [200, 100, 0]]]
    assert overlay(photo, ids, palette, 0.0).tolist() == photo.tolist()
    assert overlay(photo, ids, palette, 1.0).tolist() == [[[0, 0, 0], [200, 100, 0]]]
    assert overlay(photo, ids, palette).tolist() == [[[5, 10, 15], [150, 100, 50]]]
    assert confidence_image(np.array([[0.0, 0.2, 1.0, 1.5]])).tolist() == [[0, 51, 255, 255]]


def test_a_jpeg_picture_of_a_very_wide_strip_shrinks_to_what_the_format_holds():
    picture = Image.open(io.BytesIO(encode_picture(np.zeros((2, 70_000, 3), np.uint8), "jpg")))
    assert picture.format == "JPEG"
    assert picture.width == 65_500
