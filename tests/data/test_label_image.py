"""What a label image says: every form in which programs write the same mask, and what no form can say."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vitseg.data.label_image import nearest, read_label
from vitseg.data.label_orientation import decode_label
from vitseg.errors import SampleError
from vitseg.labels import CITYSCAPES, Label

THREE = (Label("ground", (0, 0, 0), 0, 0), Label("a", (255, 0, 0), 1, 1), Label("b", (0, 255, 0), 2, 2))
COLORS = np.array([label.color for label in THREE], np.uint8)
TWO = (Label("ground", (0, 0, 0), 0, 0), Label("crack", (255, 255, 255), 1, 1))
WHITE_255 = (Label("crack", (255, 255, 255), 255, 0),)
WHITE_1 = (Label("crack", (255, 255, 255), 1, 0),)
RED_1 = (Label("crack", (255, 0, 0), 1, 0),)
BLACK_0 = (Label("crack", (0, 0, 0), 0, 0),)

IDS = np.zeros((64, 64), np.uint8)
IDS[8:24], IDS[40:48, 5:] = 1, 2
THING = np.zeros((64, 64), np.uint8)
THING[16:40, 16:40] = 1
BINARY = 1 - THING
"""Train ids: the thing is 0, background 1."""


def image(pixels, mode=None):
    picture = Image.fromarray(pixels)
    return picture.convert(mode) if mode else picture


def with_palette(indices, colors):
    picture = Image.fromarray(indices)
    picture.putpalette(np.array(colors, np.uint8).tobytes())
    return picture


def saved(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


PHOTO = saved(Image.new("RGB", (1, 1)))


def read_bytes(data, labels, holds="either", size=(64, 64), photo=PHOTO, stored=(64, 64)):
    label, file, _ = decode_label(data, photo, stored, 10**7)
    return read_label(label, file, labels, size, holds)


def read(picture, labels, *, kind="PNG", holds="either", size=(64, 64), **options):
    return read_bytes(saved(picture, kind, **options), labels, holds, size, stored=(picture.height, picture.width))


def png(values, bits):
    """Write values, uint8 (H, W), as a gray PNG of fewer bits, which Pillow can't."""
    packed = np.packbits(np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(len(values), -1), axis=1)
    lines = zlib.compress(np.pad(packed, ((0, 0), (1, 0))).tobytes())
    head = struct.pack(">IIBBBBB", *values.shape[::-1], bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", lines), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def tiff(values, bits):
    """Write values, uint8 (H, W), as a gray TIFF of fewer bits."""
    packed = np.packbits(np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(len(values), -1), axis=1)
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, height),
            (279, packed.size)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed.tobytes()


def quantized(picture, colors):
    """As pngquant and the like write it: in the order of their own."""
    return picture.quantize(colors)


RGB = image(COLORS[IDS])
FORMS = {
    "gray": image(IDS),
    "16 bits": image(IDS.astype(np.uint16)),
    "32 bits": (image(IDS.astype(np.int32)), "TIFF"),
    "floats": (image(IDS.astype(np.float32)), "TIFF"),
    "gray as RGB": image(IDS, "RGB"),
    "gray as RGBA": image(IDS, "RGBA"),
    "gray as LA": image(IDS, "LA"),
    "colors": RGB,
    "colors with alpha": RGB.convert("RGBA"),
    "colors, 8 entries": quantized(RGB, 8),
    "palette in order": with_palette(IDS, COLORS),
    "palette of another program": with_palette(IDS, [(0, 0, 0), (128, 0, 0), (0, 128, 0)]),
    "gray ramp": with_palette(IDS, [(value, value, value) for value in range(256)]),
    "gray, quantized": quantized(image(IDS, "RGB"), 3),
    "reversed palette": with_palette(2 - IDS, COLORS[::-1]),
    "shifted palette": with_palette(IDS + 7, [(1, 2, 3)] * 7 + COLORS.tolist()),
    "colors as lossless WebP": (RGB, "WEBP", {"lossless": True}),
    "GIF": (RGB, "GIF"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_mask_is_read_alike(form):
    picture, kind, options = (*FORMS[form], {})[:3] if isinstance(FORMS[form], tuple) else (FORMS[form], "PNG", {})
    found = read(picture, THREE, kind=kind, **options)
    np.testing.assert_array_equal(found.train_ids, IDS)
    assert found.unknown_pixels == 0
    assert all("was read by the colors" in remark for remark in found.remarks)
    assert bool(found.remarks) == (form in ("reversed palette", "colors, 8 entries", "GIF", "gray, quantized"))


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 2**32 - 1), st.booleans())
def test_a_palette_in_any_order_says_what_its_colors_say(order, seed, gray_ids):
    """Whatever the order, no mask is read otherwise than it looks: it is right, or refused."""
    rng = np.random.default_rng(seed)
    colors = [(0, 0, 0), (40, 0, 0), (0, 40, 9), (9, 90, 200), (255, 255, 255), (70, 70, 70)]
    labels = tuple(Label(str(at), color, at, at) for at, color in enumerate(colors))
    truth = rng.choice(rng.choice(6, rng.integers(1, 7), replace=False), (16, 16)).astype(np.uint8)
    shown = [(at, at, at) for at in range(6)] if gray_ids else colors
    palette = np.empty((6, 3), np.uint8)
    palette[list(order)] = shown
    found = read(with_palette(np.array(order, np.uint8)[truth], palette), labels, size=(16, 16))
    np.testing.assert_array_equal(found.train_ids, truth)


def test_a_palette_that_contradicts_its_indices_in_part_is_refused():
    half = [(0, 255, 0), (128, 0, 0), (0, 0, 0)]  # one class's color at another's index, and a foreign one
    with pytest.raises(SampleError, match="palette shows colors of other classes than its indices 0, 1, 2 mean"):
        read(with_palette(IDS, half), THREE)


def test_a_palette_whose_colors_are_nearly_those_of_other_classes_is_refused():
    """Programs that make palettes change colors a little."""
    with pytest.raises(SampleError, match="palette shows colors of other classes"):
        read(with_palette(2 - IDS, [(1, 253, 0), (252, 2, 1), (1, 0, 0)]), THREE)
    near = with_palette(IDS, [(1, 0, 0), (252, 2, 1), (1, 253, 0)])
    np.testing.assert_array_equal(read(near, THREE).train_ids, IDS)


def test_one_black_entry_may_be_any_class():
    labels = (Label("soil", (90, 60, 30), 0, 0), Label("void", (0, 0, 0), 5, 1))
    with pytest.raises(SampleError, match="palette shows colors of other classes"):
        read(with_palette(IDS * 0, [(0, 0, 0)]), labels)
    gray = read(image(IDS * 0), labels)  # without a palette these are ids
    assert (gray.train_ids == 0).all()


BINARY_FORMS = {
    "0 and 255": image(THING * 255),
    "0 and 1": image(THING),
    "one bit": image(THING * 255, "1"),
    "0 and 65535": image(THING.astype(np.uint16) * 65535),
    "RGB": image(THING * 255, "RGB"),
    "LA": image(THING * 255, "LA"),
    "floats 0 and 255": (image(THING.astype(np.float32) * 255), "TIFF"),
    "floats 0 and 1": (image(THING.astype(np.float32)), "TIFF"),
    "white first": with_palette(1 - THING, [(255, 255, 255), (0, 0, 0)]),
    "black first": with_palette(THING, [(0, 0, 0), (255, 255, 255)]),
    "quantized": quantized(image(THING * 255, "RGB"), 2),
    "JPEG": (image(THING * 255), "JPEG"),
    "JPEG in color": (image(THING * 255, "RGB"), "JPEG"),
}


@pytest.mark.parametrize(
    "labels", [WHITE_255, (Label("crack", (255, 0, 0), 255, 0),), WHITE_1], ids=["255", "red 255", "1"]
)
@pytest.mark.parametrize("form", BINARY_FORMS)
def test_every_form_of_a_binary_mask_is_read_alike(form, labels):
    picture, kind = BINARY_FORMS[form] if isinstance(BINARY_FORMS[form], tuple) else (BINARY_FORMS[form], "PNG")
    if labels is WHITE_1 and form in ("0 and 255", "floats 0 and 255"):
        with pytest.raises(SampleError, match="0, 255 mean one thing as ids and another as what they show"):
            read(picture, labels, kind=kind)
        return
    np.testing.assert_array_equal(read(picture, labels, kind=kind).train_ids, BINARY)


def test_a_binary_set_of_0_and_1_ignores_255():
    ids = THING.copy()
    ids[0] = 255
    for labels in (WHITE_1, RED_1):
        assert (read(image(ids), labels).train_ids[0] == 255).all()
        np.testing.assert_array_equal(read(image(ids), labels).train_ids[1:], BINARY[1:])
    (remark,) = read(image(THING * 255), RED_1).remarks
    assert "it has only 0, and 255, which is ignored: if that is a class, give it the id 255" in remark
    assert read(image(THING * 255), THREE).remarks == (remark,)  # no class of these is white
    assert not read(image(THING * 255), (*THREE, Label("void", (9, 9, 9), 255))).remarks
    assert not read(image(ids), RED_1).remarks


def test_a_thing_on_0_is_not_its_background():
    np.testing.assert_array_equal(read(image(1 - THING), BLACK_0).train_ids, BINARY)
    np.testing.assert_array_equal(read(image((1 - THING) * 255, "1"), BLACK_0).train_ids, BINARY)
    np.testing.assert_array_equal(read(image((1 - THING) * 255, "RGB"), BLACK_0).train_ids, BINARY)
    with pytest.raises(SampleError, match="one thing as ids and another"):
        read(image((1 - THING) * 255), BLACK_0)
    with pytest.raises(SampleError, match="one thing as ids and another"):
        read(image(THING * 0), (Label("crack", (255, 255, 255), 0, 0),))


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (image(np.minimum(THING * 255, 254)), "ids that no class has: 254; save it with 0 and 255 alone"),
        (image(THING * 128), "ids that no class has: 128"),
        (image(THING.astype(np.uint16) * 300), "ids that no class has: 300"),
        (image(THING.astype(np.float32) * 0.5), "floats that are no whole numbers"),
        (image(np.full((64, 64), np.nan, np.float32)), "floats that are no whole numbers"),
    ],
    ids=["254", "128", "300", "half", "nan"],
)
def test_a_value_that_nobody_listed_is_not_background(picture, reason):
    with pytest.raises(SampleError, match=reason):
        read(picture, WHITE_255, kind="TIFF")


def test_smoothed_edges_are_the_nearer_of_black_and_white_and_told():
    y, x = np.mgrid[:256, :256]
    distance = np.hypot(y - 128, x - 128)
    smooth = np.clip(100 - distance, -0.5, 0.5) * 255 + 127.5
    found = read(image(smooth.astype(np.uint8)), WHITE_255, size=(256, 256))
    clear = abs(distance - 100) > 0.01
    np.testing.assert_array_equal(found.train_ids[clear], (distance > 100)[clear])
    assert (found.unknown_pixels, found.unknown) == (0, {})
    assert found.remarks == ("its edges are smoothed: each of their pixels takes the nearer of black and white",)
    blurred = np.clip(100 - np.hypot(y - 128, x - 128), -100, 100) * 1.27 + 127
    with pytest.raises(SampleError, match="ids that no class has"):
        read(image(blurred.astype(np.uint8)), WHITE_255, size=(256, 256))


def test_white_may_be_ignored_or_a_class_s_color():
    for form in (image(THING * 255), with_palette(THING * 255, [(value, value, value) for value in range(256)])):
        with pytest.raises(SampleError, match="0, 255 mean one thing as ids and another"):
            read(form, TWO)
    ids = THING.copy()
    ids[0] = 255
    assert (read(image(ids), TWO).train_ids[0] == 255).all()
    np.testing.assert_array_equal(read(image(THING * 255, "1"), TWO).train_ids, THING)
    np.testing.assert_array_equal(read(image(THING * 255, "RGB"), TWO).train_ids, THING)


def test_gray_values_that_are_ids_and_colors_of_others_are_refused():
    labels = (Label("x", (50, 50, 50), 100, 0), Label("y", (100, 100, 100), 50, 1))
    for picture in (image(THING * 50 + 50), image(THING * 50 + 50, "RGB"), image(THING * 0 + 50)):
        with pytest.raises(SampleError, match="mean one thing as ids and another as what they show"):
            read(picture, labels)


def test_ids_may_be_larger_than_a_byte():
    labels = (Label("a", (9, 9, 9), 1000, 0), Label("b", (0, 9, 9), 40_000, 1), Label("c", (9, 0, 0), -1, 2))
    values = np.array([1000, 40_000], np.uint16)[THING]
    np.testing.assert_array_equal(read(image(values), labels).train_ids, THING)
    with pytest.raises(SampleError, match="ids that no class has: 1001"):
        read(image(values | 1), labels)


@pytest.mark.parametrize("write", [png, tiff])
@pytest.mark.parametrize("bits", [2, 4])
def test_two_and_four_bits_are_ids_or_gray(bits, write):
    """Decoders spread them over 0-255; ids are what is stored."""
    np.testing.assert_array_equal(read_bytes(write(IDS, bits), THREE).train_ids, IDS)
    spread = 255 // (2**bits - 1)
    gray = [Label(str(at), (at * spread,) * 3, 100 + at, at) for at in range(3)]
    np.testing.assert_array_equal(read_bytes(write(IDS, bits), tuple(gray)).train_ids, IDS)


@pytest.mark.parametrize("write", [png, tiff])
def test_bits_are_kept_in_mind_where_a_label_is_turned(write):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = saved(Image.new("RGB", (64, 32)), "JPEG", exif=exif)
    values = IDS[:32] * (IDS[:32] < 2)
    found = read_bytes(write(values, 4), THREE, size=(64, 32), photo=photo, stored=(64, 32))
    np.testing.assert_array_equal(np.rot90(found.train_ids), values)
    with pytest.raises(SampleError, match="0, 17 mean one thing as ids and another as what they show"):
        read_bytes(write(values, 4), (*THREE, Label("c", (0, 0, 255), 17, 3)), photo=photo, stored=(64, 32))


def test_colors_that_no_class_has_are_ignored_counted_and_told():
    off = COLORS.copy()
    off[2] = (0, 254, 0)
    found = read(image(off[IDS]), THREE)
    area = int((IDS == 2).sum())
    assert (found.train_ids[IDS == 2] == 255).all()
    np.testing.assert_array_equal(found.train_ids[IDS != 2], IDS[IDS != 2])
    assert (found.unknown_pixels, found.unknown) == (area, {"color (0, 254, 0)": area})
    assert found.remarks == ("it has areas of a color that is no class's, which are ignored; 'b' has (0, 255, 0)",)
    dot = COLORS[IDS]
    dot[0, 0] = 7
    assert (read(image(dot), THREE).unknown_pixels, read(image(dot), THREE).remarks) == (1, ())


def test_small_spots_of_foreign_colors_are_counted_alone():
    """Smoothed edges have some pixels of many colors: a line for each would hide all other warnings."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:20, 0] = 90, 0, 0
    pixels[:20, 1] = 160, 0, 0
    found = read(image(pixels), THREE, size=(32, 32))
    assert (found.unknown_pixels, found.remarks) == (40, ())
    pixels[:, 2:6] = 120, 0, 0
    pixels[:, 8:12] = 0, 120, 0
    pixels[:, 14:20] = 120, 120, 0
    assert read(image(pixels), THREE, size=(32, 32)).remarks == (
        "it has areas of a color that is no class's, which are ignored",
    )


@pytest.mark.parametrize("form", ["gray", "palette of another program"])
def test_a_list_whose_colors_are_all_the_same_is_for_ids(form):
    labels = tuple(Label(label.name, (0, 0, 0), label.id, label.train_id) for label in THREE)
    np.testing.assert_array_equal(read(FORMS[form], labels).train_ids, IDS)
    with pytest.raises(SampleError, match=r"two classes have the color \(0, 0, 0\)"):
        read(RGB, labels)


def test_black_that_is_the_thing_s_color_and_the_background_s_tells_nothing():
    labels = (Label("hole", (0, 0, 0), 7, 0), Label("void", (0, 0, 0), 9))
    (remark,) = read(image(THING * 255, "RGB"), labels).remarks
    assert "it has only 0, and 255, which is ignored" in remark
    with pytest.raises(SampleError, match=r"two classes have the color \(0, 0, 0\)"):
        read(image(np.dstack([THING * 255, THING * 255, THING])), labels)


def test_a_palette_s_colors_that_win_over_ids_are_told():
    labels = (Label("ground", (0, 0, 0), 0, 0), Label("person", (0, 128, 0), 1, 1), Label("car", (128, 0, 0), 2, 2))
    found = read(with_palette(THING, [(0, 0, 0), (128, 0, 0), (0, 128, 0)]), labels)
    np.testing.assert_array_equal(found.train_ids, THING * 2)
    (remark,) = found.remarks
    assert "its indices are ids of other classes than its palette's colors" in remark


@pytest.mark.parametrize("name", [b"tRNS", b"acTL", b"IDAT"])
def test_the_names_of_chunks_within_texts_are_none(name):
    texts = PngInfo()
    texts.add_text("note", name.decode() + "\1" * 400)
    np.testing.assert_array_equal(read(with_palette(IDS, COLORS), THREE, pnginfo=texts).train_ids, IDS)


def test_a_color_under_transparent_pixels_has_no_share():
    """Whichever opaque pixel comes first, and however few the opaque ones are."""
    pixels = np.dstack([COLORS[IDS], np.where(np.arange(64) < 20, 255, 0) + IDS * 0]).astype(np.uint8)
    pixels[0, 0, :3] = 70, 0, 0  # at an edge
    found = read(image(pixels), THREE)
    assert found.unknown == {"transparent": 64 * 44, "color (70, 0, 0)": 1}
    assert found.unknown_pixels == 64 * 44 + 1
    np.testing.assert_array_equal(found.train_ids[1:, :20], IDS[1:, :20])
    assert found.remarks == ("it has transparent pixels, which are ignored",)


@pytest.mark.parametrize(
    ("kind", "options", "name"), [("TIFF", {"compression": "jpeg"}, "JPEG in TIFF"), ("JPEG", {}, "JPEG")]
)
def test_ids_of_one_channel_do_not_survive_what_changes_values(kind, options, name):
    """Not even large ones, of which some are near the colors of classes."""
    labels = tuple(Label(str(at), (at * 4, 0, 90), at, at) for at in range(61))
    with pytest.raises(SampleError, match=f"the label is gray, as no class's color is, and ids do not survive {name}"):
        read(image(IDS * 30), labels, kind=kind, **options)


def test_gray_classes_are_read_from_a_gray_jpeg():
    labels = tuple(Label(str(at), (at * 120,) * 3, at, at) for at in range(3))
    found = read(image(IDS * 120), labels, kind="JPEG", quality=95)
    assert (found.train_ids == IDS).mean() > 0.95


def test_a_lossless_webp_with_a_color_profile_is_lossless():
    found = read(RGB, THREE, kind="WEBP", lossless=True, icc_profile=bytes(500))
    np.testing.assert_array_equal(found.train_ids, IDS)
    assert not found.remarks


def test_a_color_of_two_classes_tells_nothing_but_their_ids_do():
    labels = (*THREE[:2], Label("b", (255, 0, 0), 2, 2))
    for picture in (image(IDS), with_palette(IDS, [label.color for label in labels])):
        np.testing.assert_array_equal(read(picture, labels).train_ids, IDS)
    for kind in ("PNG", "JPEG"):
        with pytest.raises(SampleError, match=r"two classes have the color \(255, 0, 0\): give each its own"):
            read(image(COLORS[np.minimum(IDS, 1)]), labels, kind=kind)


def test_a_color_that_a_class_shares_with_what_does_not_count_is_the_class_s_and_told():
    labels = (Label("void", (0, 0, 0), 9), *THREE)
    found = read(RGB, labels)
    np.testing.assert_array_equal(found.train_ids, IDS)
    assert found.remarks == (
        "'ground' and 'void', which does not count, have the color (0, 0, 0): it is taken for 'ground'",
    )
    assert not read(image(IDS), labels).remarks
    assert not read(RGB, labels, holds="colors").remarks  # the layout has it so


def test_ids_in_one_of_three_channels_are_told():
    (first, *_) = read(image(np.dstack([IDS, IDS * 0, IDS * 0])), THREE).remarks
    assert first.endswith("which are ignored; if these are ids, save them with one channel")


def test_colors_in_another_order_of_channels_are_refused():
    with pytest.raises(SampleError, match="in the order blue, green, red: save it as RGB"):
        read(image(COLORS[IDS][..., ::-1].copy()), THREE)


def test_a_picture_is_no_label():
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG"):
        with pytest.raises(SampleError, match="no class has"):
            read(image(photo), CITYSCAPES, kind=kind)


def test_transparent_pixels_are_ignored_whatever_is_under_them():
    rgba = np.dstack([COLORS[IDS], np.where(IDS == 1, 0, 255).astype(np.uint8)])
    hidden = rgba.copy()
    hidden[IDS == 1, :3] = 77
    for pixels in (rgba, hidden):
        found = read(image(pixels), THREE)
        np.testing.assert_array_equal(found.train_ids, np.where(IDS == 1, 255, IDS))
        assert found.unknown == {"transparent": int((IDS == 1).sum())}
        assert found.remarks == ("it has transparent pixels, which are ignored",)
    rgba[..., 3] = 0
    with pytest.raises(SampleError, match="all pixels of the label are transparent"):
        read(image(rgba), THREE)


def test_the_transparent_entry_of_a_palette_of_ids_is_still_an_id():
    np.testing.assert_array_equal(read(with_palette(IDS, COLORS), THREE, transparency=0).train_ids, IDS)
    turned = read(with_palette(2 - IDS, COLORS[::-1]), THREE, transparency=2)
    np.testing.assert_array_equal(turned.train_ids, np.where(IDS == 0, 255, IDS))


@pytest.mark.parametrize("quality", [95, 75, 50])
def test_a_jpeg_takes_the_nearest_colors_and_says_so(quality):
    found = read(RGB, THREE, kind="JPEG", quality=quality)
    wrong = (found.train_ids != IDS) & (found.train_ids != 255)
    assert wrong.mean() < 0.03
    assert found.unknown_pixels == (found.train_ids == 255).sum() > 0
    assert "JPEG has changed its colors" in found.remarks[0]


@pytest.mark.parametrize(
    ("pixels", "labels"), [(IDS, THREE), (THING, WHITE_255), (THING, TWO), (THING * 33, CITYSCAPES)]
)
def test_ids_do_not_survive_jpeg(pixels, labels):
    with pytest.raises(SampleError, match="nearly black, and ids do not survive JPEG: save it as PNG"):
        read(image(pixels), labels, kind="JPEG")


def test_a_jpeg_in_another_color_is_not_all_background():
    red = np.dstack([THING * 255, THING * 0, THING * 0])
    found = read(image(red), WHITE_255, kind="JPEG", subsampling=0)
    assert (found.train_ids[20:36, 20:36] == 255).all()
    assert found.unknown_pixels > 400
    assert "large parts of it are far from every class's color, and ignored" in found.remarks[1]


def test_a_jpeg_without_the_thing_is_all_background():
    assert (read(image(THING * 0), WHITE_255, kind="JPEG").train_ids == 1).all()


def test_16_bits_of_several_channels_are_not_taken_for_black():
    with pytest.raises(SampleError, match="black in the upper 8 of 16 bits"):
        read_bytes(imagecodecs.png_encode(np.dstack([IDS.astype(np.uint16)] * 3)), THREE)


def test_colors_between_the_kept_pixels_still_make_it_a_color_label():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[::2, ::2] = 255, 0, 0  # none of these is under the center of a pixel of the small image
    labels = (Label("a", (255, 0, 0), 0, 0), Label("ground", (0, 0, 0), 1, 1))
    assert (read(image(pixels), labels, size=(32, 32)).train_ids == 1).all()


CITY_IDS = np.array([7, 11, 23], np.uint8)[IDS]
CITY_TRAIN_IDS = np.array([0, 2, 10], np.uint8)[IDS]
PALETTE = np.array([label.color for label in CITYSCAPES[:34]], np.uint8)


def test_ids_of_cityscapes_may_be_stored_in_every_form():
    for picture in (
        image(CITY_IDS), image(CITY_IDS, "RGB"), image(CITY_IDS, "LA"), image(CITY_IDS.astype(np.uint16)),
        with_palette(CITY_IDS, PALETTE), with_palette(CITY_IDS, np.random.default_rng(0).integers(1, 255, (256, 3))),
        quantized(image(CITY_IDS, "RGB"), 3), with_palette(CITY_TRAIN_IDS, PALETTE[[7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23]]),
    ):  # fmt: skip
        np.testing.assert_array_equal(read(picture, CITYSCAPES, holds="ids").train_ids, CITY_TRAIN_IDS)
    np.testing.assert_array_equal(read(image(PALETTE[CITY_IDS]), CITYSCAPES, holds="colors").train_ids, CITY_TRAIN_IDS)
    with pytest.raises(SampleError, match="no id image: it holds colors"):
        read(image(PALETTE[CITY_IDS]), CITYSCAPES, holds="ids")
    with pytest.raises(SampleError, match="no id image: JPEG changes ids"):
        read(image(CITY_IDS), CITYSCAPES, holds="ids", kind="JPEG")


def test_train_ids_and_255_in_place_of_label_ids_are_told():
    ids = np.where(IDS == 1, 255, CITY_TRAIN_IDS).astype(np.uint8)
    (remark,) = read(image(ids), CITYSCAPES, holds="ids").remarks
    assert "it has 255 and else train ids only" in remark
    assert not read(image(np.where(IDS == 1, 255, CITY_IDS).astype(np.uint8)), CITYSCAPES, holds="ids").remarks
    assert not read(image(ids), CITYSCAPES).remarks


def test_resized_labels_hold_no_new_values():
    ids = np.random.default_rng(0).choice(np.array([1, 50, 200], np.uint8), (37, 53))
    assert set(np.unique(nearest(ids, (16, 16)))) <= {1, 50, 200}
    assert (nearest(nearest(ids, (74, 106)), (37, 53)) == ids).all()
    assert nearest(np.arange(9).reshape(3, 3), (1, 1)).item() == 4
