"""Odd masks: a picture of labels as a file, by many schemes, and whether its content tells what it means."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from tests.odd.class_lists import ClassList, target_of
from tests.odd.containers import GRAY, PALETTE, RGB, RGBA, chunk, png, tiff
from tests.odd.photographs import exif, saved, stored


@dataclass(frozen=True)
class OddMask:
    """A mask file and its truth: train ids (H, W). `clear`: content tells it; `loose`: pixels that may also count for nothing."""

    what: str
    extension: str
    data: bytes
    target: np.ndarray
    clear: bool = True
    checked: bool = True
    """Whether a wrong pixel is a fault: no reader can notice some damage."""
    loose: np.ndarray | None = None


def draw_mask(r: random.Random, classes: ClassList, picture: np.ndarray, scheme: str | None = None) -> OddMask | None:
    """Make a mask of a picture of rows; None where the scheme doesn't suit, or where it could as well mean another picture."""
    ids = np.array([classes.id(int(row)) for row in picture.ravel()]).reshape(picture.shape)
    colors = np.array([classes.color(int(row)) for row in picture.ravel()], np.uint8).reshape(*picture.shape, 3)
    target = target_of(picture, classes)
    scheme = scheme or r.choice(sorted(SCHEMES))
    made = SCHEMES[scheme](r, classes, ids, colors, target)
    if made is None:
        return None
    extension, data, clear, loose = made
    return OddMask(scheme, extension, data, target, clear, loose=loose)


def draw_turned(
    r: random.Random, classes: ClassList, picture: np.ndarray, scheme: str | None, turn: int
) -> OddMask | None:
    """Make a mask whose pixels lie as a camera with EXIF orientation `turn` stores them, and which says so where it can."""
    mask = draw_mask(r, classes, stored(picture, turn), scheme)
    if mask is None or mask.extension != "png":
        return None
    said = r.random() < 0.5
    data = mask.data[:33] + chunk(b"eXIf", exif(turn, r)) + mask.data[33:] if said else mask.data
    back = {6: 8, 8: 6}.get(turn, turn)
    loose = None if mask.loose is None else stored(mask.loose, back)
    return replace(mask, data=data, target=stored(mask.target, back), loose=loose, clear=mask.clear and said)


Made = tuple[str, bytes, bool, np.ndarray | None] | None


def _lossless(r: random.Random, pixels: np.ndarray) -> tuple[str, bytes]:
    """Save uint8 pixels in a container that keeps them."""
    if pixels.ndim == 2:
        return r.choice([
            lambda: ("png", saved(pixels, "PNG")), lambda: ("png", png(pixels, GRAY, interlaced=True)),
            lambda: ("tif", tiff(pixels, deflate=r.random() < 0.5, order=r.choice("<>"))), lambda: ("bmp", saved(pixels, "BMP")),
            lambda: ("pgm", saved(pixels, "PPM")),
        ])()  # fmt: skip
    return r.choice([
        lambda: ("png", saved(pixels, "PNG")), lambda: ("png", png(pixels, RGB, idat=50)),
        lambda: ("tiff", tiff(pixels, strip=5, planar=r.random() < 0.3)), lambda: ("bmp", saved(pixels, "BMP")),
        lambda: ("webp", saved(pixels, "WEBP", lossless=True)), lambda: ("ppm", saved(pixels, "PPM")),
    ])()  # fmt: skip


def _palette_png(indices: np.ndarray, palette: np.ndarray) -> bytes:
    return png(indices.astype(np.uint8), PALETTE, palette=palette)


def other_reading(values: np.ndarray, classes: ClassList, target: np.ndarray) -> bool:
    """Return whether all values, ids (H, W) or colors (H, W, 3), are of the list, but name other classes than the truth."""
    known = {
        (classes.id(row) if values.ndim == 2 else classes.color(row)): classes.train_id(row)
        for row in range(len(classes.rows))
    }
    flat = [int(v) for v in values.ravel()] if values.ndim == 2 else [tuple(map(int, v)) for v in values.reshape(-1, 3)]
    if classes.binary:
        known.setdefault(0 if values.ndim == 2 else (0, 0, 0), 1)
    if not set(flat) <= known.keys():
        return False
    return [known[value] for value in flat] != target.ravel().tolist()


def _fits(ids: np.ndarray) -> bool:
    return int(ids.max()) <= 255


def _ids(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    return (*_lossless(r, ids.astype(np.uint8)), True, None) if _fits(ids) else None


def _wide_ids(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    return r.choice([
        lambda: ("png", png(ids, GRAY, 16), True, None),
        lambda: ("tif", tiff(ids.astype(np.uint16), 16, order=r.choice("<>"), deflate=r.random() < 0.5), True, None),
        lambda: ("tif", tiff(ids.astype(np.int32), 32, order=r.choice("<>")), True, None),
        lambda: ("tiff", tiff(ids.astype(np.float32), 32), True, None),
    ])()  # fmt: skip


def _ids_in_channels(
    r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray
) -> Made:
    if not _fits(ids):
        return None
    gray = np.repeat(ids.astype(np.uint8)[..., None], 3, 2)
    if other_reading(gray, classes, target):
        return None
    kind = r.choice(["RGB", "LA", "RGBA"])
    if kind == "RGB":
        return (*_lossless(r, gray), True, None)
    return "png", saved(Image.fromarray(ids.astype(np.uint8)).convert(kind), "PNG"), True, None


def _ids_with_palette(
    r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray
) -> Made:
    """Ids under their own colors, under colors of nothing, or under gray."""
    if not _fits(ids):
        return None
    palette = np.zeros((256, 3), np.uint8)
    kind = r.choice(["own", "foreign", "gray"])
    if kind == "own":
        for row in range(len(classes.rows)):
            palette[classes.id(row) & 255] = classes.color(row)
    elif kind == "gray":
        palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
    else:
        palette[:, 0], palette[:, 1], palette[:, 2] = np.arange(256) ^ 0x15, 201, 77
    shown = palette[ids]
    if kind != "own" and any((shown == classes.color(row)).all(-1).any() for row in range(len(classes.rows))):
        return None
    if kind == "own" and not classes.colors_clear:
        return None
    gif = r.random() < 0.2
    if gif and kind == "own":
        return "gif", _gif(ids.astype(np.uint8), palette), True, None
    return "png", _palette_png(ids, palette), True, None


def _gif(indices: np.ndarray, palette: np.ndarray) -> bytes:
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    return saved(image, "GIF", optimize=False)


def _colors(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    if r.random() < 0.7:
        return (*_lossless(r, colors), classes.colors_clear, None)
    alpha = np.where(target == 255, r.choice([0, 255]), seen := r.choice([255, 255, 128, 0])).astype(np.uint8)
    return "png", png(np.concatenate([colors, alpha[..., None]], 2), RGBA), classes.colors_clear and seen > 0, None


def _quantized(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """The colors as a palette in an order of its own, as pngquant and others make it."""
    used = np.unique(colors.reshape(-1, 3), axis=0)
    palette = used[np.random.default_rng(r.getrandbits(32)).permutation(len(used))]
    spare = r.randrange(4)
    places = {tuple(map(int, color)): place + spare for place, color in enumerate(palette)}
    padding = np.array([r.choice([(0, 0, 0), (3, 50, 99), classes.color(0)]) for _ in range(spare)], np.uint8).reshape(
        -1, 3
    )
    palette = np.concatenate([padding, palette])
    found = np.array([places[tuple(map(int, color))] for color in colors.reshape(-1, 3)]).reshape(ids.shape)
    if not classes.colors_clear:
        return "png", _palette_png(found, palette), False, None
    if r.random() < 0.2:
        return "gif", _gif(found.astype(np.uint8), np.resize(palette, (256, 3))), True, None
    return "png", _palette_png(found, palette), True, None


def _bgr(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    turned = np.ascontiguousarray(colors[..., ::-1])
    if (turned == colors).all() or other_reading(turned, classes, target):
        return None
    return (*_lossless(r, turned), False, None)


def _off_by_one(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """One class in a color that is not quite its own."""
    row = r.choice(range(len(classes.rows)))
    wrong = (colors == classes.color(row)).all(-1)
    if not wrong.any():
        return None
    near = colors.astype(int)
    near[wrong, r.randrange(3)] += 1 if classes.color(row)[0] < 128 else -1
    near = near.clip(0, 255).astype(np.uint8)
    return (
        (*_lossless(r, near), False, None)
        if (near != colors).any() and not other_reading(near, classes, target)
        else None
    )


def _smeared(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """Colors whose edges are mixed, as programs draw them that smooth."""
    height, width = ids.shape
    large = Image.fromarray(colors).resize((width * 2 + 1, height * 2 + 1), Image.Resampling.NEAREST)
    small = np.asarray(large.resize((width, height), Image.Resampling.BILINEAR))
    if other_reading(small, classes, target):
        return None
    return (*_lossless(r, small), False, (small != colors).any(-1))


def _jpeg(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """Colors, or 0 and 255, through JPEG: near the edges anything may come of them."""
    binary = classes.binary and r.random() < 0.7
    picture = np.where(target == 0, 255, 0).astype(np.uint8) if binary else colors
    if binary and classes.color(0) != (255, 255, 255) and classes.id(0) != 255:
        return None
    data = saved(picture, "JPEG", quality=r.choice([75, 95]))
    edge = np.zeros(ids.shape, bool)
    edge[1:] |= target[1:] != target[:-1]
    edge[:, 1:] |= target[:, 1:] != target[:, :-1]
    wide = edge.copy()
    for _ in range(3):
        grown = wide.copy()
        grown[1:] |= wide[:-1]
        grown[:-1] |= wide[1:]
        grown[:, 1:] |= wide[:, :-1]
        grown[:, :-1] |= wide[:, 1:]
        wide = grown
    return "jpg", data, False, wide


def _train_ids(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    if classes.binary or (ids == target).all() or other_reading(target, classes, target):
        return None
    return (*_lossless(r, target), False, None)


def _foreign(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """A few pixels with an id or a color that no class has."""
    spot = np.zeros(ids.shape, bool)
    spot[: max(1, ids.shape[0] // 4), : max(1, ids.shape[1] // 4)] = True
    if r.random() < 0.5:
        number = next(n for n in (251, 253, 199) if n not in {classes.id(row) for row in range(len(classes.rows))})
        return (*_lossless(r, np.where(spot, number, ids).astype(np.uint8)), False, None) if _fits(ids) else None
    return (*_lossless(r, np.where(spot[..., None], np.array([7, 99, 201], np.uint8), colors)), False, None)


def _instances(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """Cityscapes' instance ids: the class times a thousand, and a number."""
    if int(ids.max()) > 60 or int(ids.max()) == 0:
        return None
    return "png", png(ids * 1000 + (ids > 0) * r.randrange(3), GRAY, 16), False, None


def _two_values(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """Thing and background as two values that are not the id's: one bit, 0 and 1, 255, 254, 65,535, or white."""
    if not classes.binary:
        return None
    thing = target == 0
    both = bool(thing.any() and not thing.all())
    some = both and classes.id(0) in (1, 255)
    kind = r.choice(["1 bit", "1 bit", "0/1", "0/255", "0/254", "0/65535", "white", "red", "float", "palette"])
    value = {"0/1": 1, "0/255": 255, "0/254": 254}.get(kind)
    if value:
        return (*_lossless(r, np.where(thing, value, 0).astype(np.uint8)), both and value == classes.id(0), None)
    if kind == "1 bit":
        return r.choice([
            lambda: ("png", saved(Image.fromarray(thing), "PNG"), some, None),
            lambda: ("tif", saved(Image.fromarray(thing), "TIFF", compression=r.choice(["group4", "raw"])), some, None),
            lambda: ("bmp", saved(Image.fromarray(thing), "BMP"), some, None),
            lambda: ("png", png(thing.astype(int), PALETTE, 1, palette=np.array([[0, 0, 0], [255, 255, 255]])), some, None),
        ])()  # fmt: skip
    if kind == "0/65535":
        return "png", png(thing * 65_535, GRAY, 16), both and classes.id(0) == 255, None
    if kind == "float":
        return "tif", tiff(thing.astype(np.float32) * r.choice([1.0, 255.0]), 32), False, None
    shown = np.where(
        thing[..., None], np.array((255, 0, 0) if kind == "red" else (255, 255, 255), np.uint8), np.uint8(0)
    )
    if kind == "palette":
        swapped = np.array([[255, 255, 255], [0, 0, 0]])
        return "png", png((~thing).astype(int), PALETTE, r.choice([1, 8]), palette=swapped), False, None
    return (*_lossless(r, shown.astype(np.uint8)), False, None)


def _few_bits(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """Ids as gray of 2 or 4 bits, which most decoders stretch to 0 – 255; or such values, packed by a program that saves bytes."""
    bits = r.choice([bits for bits in (2, 4, 8) if int(ids.max()) < 1 << bits] or [8])
    step = 255 // ((1 << bits) - 1)
    if bits == 8 or other_reading(ids * step, classes, target):
        return None
    if r.random() < 0.5:
        return "png", png(ids, GRAY, bits), False, None
    return ("tif", tiff(ids.astype(np.uint8), 4), False, None) if bits == 4 else None


def _one_channel(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """Ids in the red channel, as simulators write them, or spread over red and green, as panoptic labels are."""
    made = np.zeros((*ids.shape, 3), np.uint8)
    made[..., 0], made[..., 1] = ids % 256, ids // 256
    if r.random() < 0.3:
        made = made[..., ::-1].copy()
    return None if other_reading(made, classes, target) else (*_lossless(r, made), False, None)


def _shifted(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """Ids that count from another start."""
    by = r.choice([1, -1, 100])
    moved = ids + by
    if moved.min() < 0 or moved.max() > 254 or classes.binary or other_reading(moved, classes, target):
        return None
    return (*_lossless(r, moved.astype(np.uint8)), False, None)


def _one_of_two(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """The second of two listed classes as 255, white or one bit."""
    if classes.what != "two" or {classes.id(row) for row in range(2)} == {0, 255}:
        return None
    second = ids != 0
    kind = r.choice(["255", "1 bit", "65535", "fax"])
    if kind == "255":
        return (*_lossless(r, np.where(second, 255, 0).astype(np.uint8)), False, None)
    if kind == "1 bit":
        return "png", saved(Image.fromarray(second), "PNG"), False, None
    if kind == "fax":
        return "tif", tiff((~second).astype(np.uint8), 1, photometric=0), False, None
    return "png", png(second * 65_535, GRAY, 16), False, None


def _ignored_edge(
    r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray
) -> Made:
    """A frame of 255, which never counts, listed or not: the truth changes with it."""
    if not _fits(ids) or 255 in {classes.id(row) for row in range(len(classes.rows))}:
        return None
    framed = ids.astype(np.uint8)
    for side in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        framed[side], target[side] = 255, 255
    return (*_lossless(r, framed), True, None)


def _pages(r: random.Random, classes: ClassList, ids: np.ndarray, colors: np.ndarray, target: np.ndarray) -> Made:
    """A page for each class, white where it is: the first page alone says nothing."""
    first, *rest = [Image.fromarray(np.where(ids == number, 255, 0).astype(np.uint8)) for number in np.unique(ids)]
    return ("tif", saved(first, "TIFF", save_all=True, append_images=rest), False, None) if rest else None


Scheme = Callable[[random.Random, ClassList, np.ndarray, np.ndarray, np.ndarray], Made]
SCHEMES: dict[str, Scheme] = {
    "ids": _ids, "wide ids": _wide_ids, "ids in channels": _ids_in_channels, "ids with palette": _ids_with_palette,
    "colors": _colors, "quantized": _quantized, "bgr": _bgr, "off by one": _off_by_one, "smeared": _smeared, "jpeg": _jpeg,
    "train ids": _train_ids, "foreign": _foreign, "instances": _instances, "two values": _two_values,
    "few bits": _few_bits, "one channel": _one_channel, "shifted": _shifted,
    "one of two": _one_of_two, "ignored edge": _ignored_edge, "pages": _pages,
}  # fmt: skip
