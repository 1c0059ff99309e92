import io
import json

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.images.photographs import draw, encode, photographs
from vitseg.data import samples
from vitseg.data.plan import PlannedSample, PlanOptions
from vitseg.data.samples import encode_photo, make_sample
from vitseg.errors import SampleError
from vitseg.images import MAX_PIXELS
from vitseg.images.decode import decode_image
from vitseg.images.resize import model_input
from vitseg.labels import CITYSCAPES, Label

OWN = (Label("void", (0, 0, 0), 0), Label("crack", (200, 30, 30), 5, 0), Label("asphalt", (90, 90, 90), 9, 1))


def encoded(pixels, kind="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def sample(image, label, *, layout="folders", labels=OWN, size=(8, 8), name="train/masks/a.png"):
    options = PlanOptions(fingerprint="f", source="s", layout=layout, image_size=size, labels=labels)
    planned = PlannedSample("a", "train/images/a.jpg", "m1", name if label else None, "m2" if label else None)
    members, counts, _ = make_sample(planned, "train", options, image, label)
    png = Image.open(io.BytesIO(members["png"]))
    assert png.mode == "L"
    return members, np.asarray(png), counts


def photo(height=8, width=8):
    return encoded(np.full((height, width, 3), 120, np.uint8), "JPEG")


IDS = np.repeat([[0, 0, 5, 5, 5, 9, 9, 9]], 8, 0).astype(np.uint8)
TRAIN_IDS = [255, 255, 0, 0, 0, 1, 1, 1]
COLORS = np.array([{0: (0, 0, 0), 5: (200, 30, 30), 9: (90, 90, 90)}[value] for value in IDS[0]], np.uint8)


OWN_PALETTE = [(7, 7, 7), *(label.color for label in OWN)]


def palette_image(indices, colors):
    image = Image.fromarray(indices)
    image.putpalette(np.array(colors, np.uint8).tobytes())  # makes it mode P
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def rgba():
    rgb = np.repeat(COLORS[None], 8, 0)
    return encoded(np.concatenate([rgb, np.full((8, 8, 1), 255, np.uint8)], 2))


@pytest.mark.parametrize(
    "label",
    [
        encoded(IDS),
        encoded(IDS.astype(np.uint16)),
        palette_image(IDS, [(n, n, 255) for n in range(256)]),
        encoded(np.repeat(COLORS[None], 8, 0)),
        encoded(np.repeat(COLORS[None], 8, 0), "BMP"),
        encoded(np.repeat(COLORS[None], 8, 0), "GIF"),
        rgba(),
        palette_image(np.searchsorted([0, 5, 9], IDS).astype(np.uint8) + 1, OWN_PALETTE),
    ],
    ids=["ids", "ids-16-bit", "ids-palette", "colors", "colors-bmp", "colors-gif", "colors-alpha", "colors-palette"],
)
def test_labels_are_read_in_every_form(label):
    _, train_ids, counts = sample(photo(), label)
    assert train_ids.tolist() == [TRAIN_IDS] * 8
    assert counts.tolist() == [24, 24]


def test_pairs_are_cut_in_half():
    left = np.full((16, 16, 3), (250, 250, 250), np.uint8)
    right = np.full((16, 16, 3), (128, 64, 128), np.uint8)
    pair = encoded(np.concatenate([left, right], 1), "JPEG", quality=95)
    members, train_ids, _ = sample(pair, None, layout="pairs", labels=CITYSCAPES)
    assert (train_ids == 0).all()
    picture = np.asarray(Image.open(io.BytesIO(members["jpg"])))
    assert picture.shape == (8, 8, 3)
    assert picture.min() > 240
    origin = json.loads(members["json"])
    assert (origin["width"], origin["height"]) == (16, 16)


def test_far_colors_of_a_pair_are_counted_by_name():
    both = np.full((16, 32, 3), (250, 250, 250), np.uint8)
    both[:, 16:] = 128, 64, 128
    both[:4, 16:20] = 0, 255, 0
    options = PlanOptions(fingerprint="f", source="s", layout="pairs", image_size=(16, 16), labels=CITYSCAPES)
    _, _, found = make_sample(PlannedSample("a", "train/1.png", "m", None, None), "train", options, encoded(both), None)
    assert (found.unknown_pixels, found.unknown) == (16, {"colors far from every class's": 16})


def test_photo_and_label_are_resized_to_height_and_width():
    _, train_ids, _ = sample(photo(16, 32), encoded(np.repeat(np.repeat(IDS, 2, 0), 4, 1)), size=(4, 24))
    assert train_ids.tolist() == [np.repeat(TRAIN_IDS, 3).tolist()] * 4


def test_the_origin_is_kept():
    members, _, _ = sample(photo(), encoded(IDS))
    assert json.loads(members["json"]) == {
        "source": "train/images/a.jpg",
        "label": "train/masks/a.png",
        "split": "train",
        "width": 8,
        "height": 8,
        "md5": "m1",
        "label_md5": "m2",
    }


def test_photos_are_turned_as_their_camera_was():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image = encoded(np.zeros((4, 8, 3), np.uint8), "JPEG", exif=exif)
    _, train_ids, _ = sample(image, encoded(np.full((8, 4), 5, np.uint8)))
    assert (train_ids == 0).all()


PHOTOGRAPHS = photographs()


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_sample_is_what_segment_feeds_a_model_for_the_same_photograph(name):
    """The pixels that go into the JPEG encoder are the same; the encoder loses a little."""
    data = PHOTOGRAPHS[name]
    fed, (height, width) = model_input(data, (16, 24), MAX_PIXELS)
    members, *_ = sample(data, encoded(np.full((height, width), 5, np.uint8)), size=(16, 24))
    assert members["jpg"] == encode_photo(fed)
    stored = np.asarray(Image.open(io.BytesIO(members["jpg"]))).astype(int)
    assert np.abs(stored - fed).mean() < 12


@pytest.mark.parametrize("size", [(16, 24), (64, 64), (90, 70)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_photo_of_a_pair_is_what_segment_feeds_a_model_for_that_half(size, kind):
    pair = Image.new("RGB", (128, 64), (128, 64, 128))
    pair.paste(draw(64, 64), (0, 0))
    data = encode(pair, kind)
    half = decode_image(data, MAX_PIXELS).crop((0, 0, 64, 64))
    fed, _ = model_input(encode(half, "PNG"), size, MAX_PIXELS)
    members, *_ = sample(data, None, layout="pairs", labels=CITYSCAPES, size=size)
    assert members["jpg"] == encode_photo(fed)


def test_photos_of_16_bits_and_of_floats_look_as_they_do_to_segment():
    gray = np.tile(np.linspace(0, 255, 16, dtype=np.uint8), (16, 1))
    wanted = open_members(encoded(gray))
    forms = {
        "PNG": gray.astype(np.uint16) * 257,
        "TIFF": gray.astype(np.uint16) * 257,
        "floats": (gray / 255).astype(np.float32),
    }
    for kind, pixels in forms.items():
        data = encoded(pixels, kind.replace("floats", "TIFF"))
        found = open_members(data)
        np.testing.assert_allclose(found, wanted, atol=3, err_msg=kind)  # JPEG in between
        segmented = np.asarray(decode_image(data, 10**6))
        np.testing.assert_allclose(found, segmented, atol=3, err_msg=kind)


def open_members(image):
    ids = encoded(np.full((16, 16), 5, np.uint8))
    members, *_ = sample(image, ids, size=(16, 16))
    return np.asarray(Image.open(io.BytesIO(members["jpg"]))).astype(int)


def test_cityscapes_colors_are_exact():
    rgb = np.full((8, 8, 3), (150, 120, 90), np.uint8)  # a real tunnel, not learned
    rgb[0] = (128, 64, 128)
    name = "gtFine/train/x/a_gtFine_color.png"
    _, train_ids, _ = sample(photo(), encoded(rgb), layout="cityscapes", labels=CITYSCAPES, name=name)
    assert train_ids[:, 0].tolist() == [0] + [255] * 7


BROKEN_PNG = encoded(np.random.default_rng(0).integers(0, 9, (64, 64), dtype=np.uint8))[:-200]


@pytest.mark.parametrize(
    ("image", "label", "reason"),
    [
        (b"", encoded(IDS), "the object is empty"),
        (b"hello", encoded(IDS), "^not an image"),
        (
            encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), "JPEG")[:-99],
            encoded(IDS),
            "^the image is broken",
        ),
        (photo(), b"\x89PNG", "the label: not an image"),
        (photo(64, 64), BROKEN_PNG, "the label: the image is broken"),
        (photo(8, 9), encoded(IDS), "the photo is 9x8, but its label 8x8"),
        (photo(), encoded(np.full((8, 8), 7, np.uint8)), "ids that no class has: 7"),
        (photo(), encoded(np.full((8, 8), 300, np.uint16)), "ids that no class has: 300"),
        (photo(), encoded(np.zeros((8, 8), np.uint8)), "no labeled pixel"),
        (photo(), encoded(np.full((8, 8), 255, np.uint8)), "no labeled pixel"),
        (photo(), photo(), "colors that no class has"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_not_be_used_has_a_reason(image, label, reason):
    with pytest.raises(SampleError, match=reason) as caught:
        sample(image, label)
    assert "0x7f" not in str(caught.value)  # no addresses of objects: the reason is the same on every run


def test_pairs_must_be_twice_as_wide_as_high():
    with pytest.raises(SampleError, match="17x8: not twice as wide"):
        sample(photo(8, 17), None, layout="pairs", labels=CITYSCAPES)


def test_labels_that_cityscapes_withholds_are_told():
    options = PlanOptions(fingerprint="f", source="s", layout="cityscapes", image_size=(8, 8), labels=CITYSCAPES)
    planned = PlannedSample("a", "a_leftImg8bit.png", "m1", "a_gtFine_labelIds.png", "m2")
    for split, reason in {"test": "^no labeled pixel: Cityscapes keeps", "val": "^no labeled pixel$"}.items():
        with pytest.raises(SampleError, match=reason):
            make_sample(planned, split, options, photo(), encoded(np.full((8, 8), 3, np.uint8)))


def test_an_rgb_image_is_no_cityscapes_id_image():
    with pytest.raises(SampleError, match="no id image"):
        sample(photo(), photo(), layout="cityscapes", labels=CITYSCAPES, name="a_gtFine_labelIds.png")


def test_image_bombs_are_refused_before_they_are_decoded(monkeypatch):
    image = photo()
    monkeypatch.setattr(samples, "MAX_PIXELS", 63)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    with pytest.raises(SampleError, match="8x8 pixels: over 63"):
        sample(image, encoded(IDS))


THING = (Label("crack", (200, 30, 30), 5, 0),)
"""All that a user lists for a binary data set."""


def test_in_a_binary_set_all_that_is_listed_but_the_thing_is_background():
    ids = np.repeat([[0, 0, 5, 5, 77, 9, 255, 77]], 8, 0).astype(np.uint8)
    listed = (*THING, Label("asphalt", (90, 90, 90), 9), Label("paint", (9, 9, 9), 77), Label("void", (1, 1, 1), 255))
    _, train_ids, counts = sample(photo(), encoded(ids), labels=listed)
    assert train_ids[0].tolist() == [1, 1, 0, 0, 1, 1, 255, 1]
    assert counts.tolist() == [16, 40]
    assert sample(photo(), encoded(ids), labels=listed[:-1])[1].tolist() == train_ids.tolist()
    with pytest.raises(
        SampleError,
        match=r"ids that no class has: 77; list them in classes\.json, with train_id 255 if they are background",
    ):
        sample(photo(), encoded(ids), labels=listed[:2])


def test_masks_of_0_and_255_and_masks_of_one_bit_are_binary_sets_too():
    ids = np.repeat([[0, 0, 255, 255, 0, 0, 0, 255]], 8, 0).astype(np.uint8)
    white = (Label("crack", (255, 255, 255), 255, 0),)
    assert sample(photo(), encoded(ids), labels=white)[1][0].tolist() == [1, 1, 0, 0, 1, 1, 1, 0]
    one = (Label("crack", (255, 255, 255), 1, 0),)
    assert sample(photo(), encoded(ids > 0), labels=one)[1][0].tolist() == [1, 1, 0, 0, 1, 1, 1, 0]


def test_colors_of_a_binary_set():
    colors = np.repeat(COLORS[None], 8, 0)
    both = (*THING, Label("asphalt", (90, 90, 90), 9))
    assert sample(photo(), encoded(colors), labels=both)[1][0].tolist() == [1, 1, 0, 0, 0, 1, 1, 1]
    void = (*THING, Label("void", (90, 90, 90), 255))
    assert sample(photo(), encoded(colors), labels=void)[1][0].tolist() == [1, 1, 0, 0, 0, 255, 255, 255]
    assert sample(photo(), encoded(colors), labels=THING)[1][0].tolist() == [1, 1, 0, 0, 0, 255, 255, 255]
    palette = Image.fromarray(colors).convert("P", palette=Image.Palette.ADAPTIVE, colors=3)
    out = io.BytesIO()
    palette.save(out, "PNG")  # its indices 0-2 are no ids: the thing's 5 is not among them, its color is
    assert sample(photo(), out.getvalue(), labels=both)[1][0].tolist() == [1, 1, 0, 0, 0, 1, 1, 1]


def test_an_image_without_the_thing_teaches_background():
    assert sample(photo(), encoded(np.zeros((8, 8), np.uint8)), labels=THING)[2].tolist() == [0, 64]
    wide = (*THING, Label("asphalt", (90, 90, 90), 300))
    assert sample(photo(), encoded(np.full((8, 8), 300, np.uint16)), labels=wide)[2].tolist() == [0, 64]


def test_a_pair_of_images_is_scaled_alike_and_its_target_kept_exactly():
    target = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    options = PlanOptions(fingerprint="f", source="s", layout="images", image_size=(8, 8), labels=())
    planned = PlannedSample("a", "train/images/a.jpg", "m1", "train/targets/a.png", "m2")
    members, counts, _ = make_sample(planned, "train", options, photo(), encoded(target))
    assert counts.tolist() == []
    png = Image.open(io.BytesIO(members["png"]))
    assert png.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(png), target)
    gray, *_ = make_sample(planned, "train", options, photo(), encoded(target[:, :, 0]))
    assert Image.open(io.BytesIO(gray["png"])).mode == "RGB"
    with pytest.raises(SampleError, match="the photo is 8x9, but its target 8x8"):
        make_sample(planned, "train", options, photo(9, 8), encoded(target))
