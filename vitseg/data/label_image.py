"""A stored label image → train ids: what its pixels say is decided by what it holds.

A label can be read by its *ids*, the values of its pixels, or by the *colors* that it shows. A reading is complete if every
value that occurs has a meaning in the list of classes. Which one counts:

- One channel: ids. If these are not complete: what the values show as a picture.
- Several channels, or less than 8 bits: the complete reading, by colors or (gray) by ids. Without one: colors; pixels of
  others are ignored and counted.
- A palette: ids where the palette agrees or says nothing; colors where it shows classes' colors in another order.
- JPEG and the like: the nearest color, for ids do not survive.
- 16 bits that are 8 bits times 257, one bit, and in a binary data set 0 and 1, are the same picture as 0 to 255.

Where two complete readings differ, or none is left, the label can't be used, and the reason says so.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from PIL import Image

from vitseg.data.color_labels import ALMOST, exact_colors, near_share, nearest_colors, packed_colors, unpacked_color
from vitseg.data.label_file import LabelFile, palette_colors
from vitseg.data.label_values import MAX_UNIFORM, Reading, read_gray, read_ids, read_palette
from vitseg.errors import SampleError
from vitseg.images.decode import broken_images, to_rgb
from vitseg.labels import IGNORE_INDEX, Label, foreground_class, shared_colors

Holds = Literal["ids", "colors", "either"]
"""What the layout says of a label file."""

MAX_UNKNOWN = 0.5
"""Share of pixels with a color outside the list of classes above which an image is no label of this data set."""
MIN_NEAR = 0.5
"""Share of a lossy label's pixels that lie near a class's color at least; of a photograph, a tenth do."""
_NEARLY_BLACK = 40  # the largest value of a lossy label that shows nothing
_BY_COLORS = "its indices are ids of other classes than its palette's colors: it was read by the colors"
FAR_COLORS = "colors far from every class's"
_MAX_FAR = 0.05  # share of a lossy label's pixels that edges are
_AREA = 64  # pixels of a foreign color that are told, and a twentieth of a small label
_KEPT = 16  # unknown values of one label that are counted by name


@dataclass(frozen=True)
class LabelPixels:
    """Train ids, uint8 (H, W); pixels of what no class has, in all and by name; and what may be wrong with the label."""

    train_ids: np.ndarray
    unknown_pixels: int = 0
    unknown: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Distinct:
    """The values that occur, ascending, int64 (V,), and how often (V,); pixels (H, W) hold the places (V,) of theirs."""

    values: np.ndarray
    counts: np.ndarray
    places: np.ndarray
    pixels: np.ndarray


def read_label(
    image: Image.Image, file: LabelFile, labels: tuple[Label, ...], size: tuple[int, int], holds: Holds = "either"
) -> LabelPixels:
    """Read a label at `size` (height, width).

    Args:
        image: the label, decoded in the mode that it is stored in.
        file: what its file says.
        labels: the list of classes.
        size: height and width of the result.
        holds: `ids` or `colors` where the layout says so.

    Raises:
        SampleError: it holds what no class has, or says two things.
    """
    if not file.one_channel and image.mode not in ("LA", "P", "PA", "RGB", "RGBA"):
        with broken_images():
            image = to_rgb(image)
    pixels = nearest(np.asarray(image), size)
    if image.mode in ("P", "PA"):
        return _read_palette(
            pixels if image.mode == "P" else pixels[..., 0], palette_colors(image), file, labels, holds
        )
    if image.mode in ("LA", "RGBA"):
        values = pixels[..., 0] if image.mode == "LA" else pixels[..., :3]
        return _read_opaque(values, pixels[..., -1] == 0, file, labels, holds)
    if image.mode == "RGB" and _is_gray(pixels) and not _is_gray(np.asarray(image)):
        holds = "colors"  # the only colors are in pixels that the smaller image lacks
    return _read_pixels(_whole(pixels), file, labels, holds)


def nearest(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, …) to `size` (height, width): each pixel takes the one under its center, unmixed."""
    rows, columns = (
        ((np.arange(wanted) + 0.5) * given / wanted).astype(np.intp)
        for wanted, given in zip(size, pixels.shape[:2], strict=True)
    )
    return pixels.take(rows, axis=0).take(columns, axis=1)  # rows first: they lie together in memory


def _read_palette(
    indices: np.ndarray, colors: np.ndarray, file: LabelFile, labels: tuple[Label, ...], holds: Holds
) -> LabelPixels:
    """Read indices, uint8 (H, W), of a palette of colors, uint8 (256, 3)."""
    clear = np.zeros(256, bool)
    clear[: len(file.clear)] = np.frombuffer(file.clear, np.uint8) == 0
    if holds == "colors":
        return _read_opaque(colors[indices], clear[indices], file, labels, holds)
    values = _distinct(indices)
    used = values.values
    if (colors[used] == used[:, None]).all() and (len(used) > 1 or _is_ramp(colors)):  # the same as a gray image
        return _read_pixels(indices, replace(file, one_channel=True), labels, holds)
    if reading := read_palette(used, colors[used], labels):
        return _placed(reading, values)
    found = _read_opaque(colors[indices], clear[indices], file, labels, "either")
    return replace(found, remarks=(_BY_COLORS, *found.remarks)) if read_ids(used, labels).is_complete else found


def _read_opaque(
    pixels: np.ndarray, clear: np.ndarray, file: LabelFile, labels: tuple[Label, ...], holds: Holds
) -> LabelPixels:
    """Read pixels of which some, bool (H, W), are transparent: they are ignored, and what is under them means nothing."""
    if not clear.any():
        return _read_pixels(pixels, file, labels, holds)
    if clear.all():
        raise SampleError("all pixels of the label are transparent: save it without transparency")
    found, count = _read_pixels(pixels[~clear][None], file, labels, holds), int(clear.sum())
    train_ids = np.full(clear.shape, IGNORE_INDEX, np.uint8)
    train_ids[~clear] = found.train_ids[0]
    return LabelPixels(
        train_ids,
        found.unknown_pixels + count,
        {"transparent": count, **found.unknown},
        ("it has transparent pixels, which are ignored", *found.remarks),
    )


def _read_pixels(pixels: np.ndarray, file: LabelFile, labels: tuple[Label, ...], holds: Holds) -> LabelPixels:
    """Read gray pixels, whole numbers (H, W), or colors, uint8 (H, W, 3)."""
    if file.bits == 16 and not file.one_channel and not pixels.any():
        raise SampleError("the label is black in the upper 8 of 16 bits: save ids with one channel, or with 8 bits")
    if file.lossy:
        return _read_lossy(_rgb(pixels), file, labels, holds)
    if holds != "colors" and (pixels.ndim == 2 or _is_gray(pixels)):
        values = pixels if pixels.ndim == 2 else pixels[..., 0]
        found = _distinct(values)
        reading = read_gray(
            found.values, found.counts / values.size, labels,
            bits=file.bits, one_channel=file.one_channel, only_ids=holds == "ids",
        )  # fmt: skip
        if reading:
            return _placed(reading, found)
    if holds == "ids":
        raise SampleError("the label is no id image: it holds colors")
    rgb = _rgb(pixels)
    colors = _read_colors(rgb, labels)
    return colors if holds == "colors" else replace(colors, remarks=(*colors.remarks, *_doubtful(rgb, labels)))


def _read_colors(rgb: np.ndarray, labels: tuple[Label, ...]) -> LabelPixels:
    """Read colors of a lossless label: only the classes' own colors count."""
    train_ids, known = exact_colors(rgb, labels)
    if known.all():
        return LabelPixels(train_ids)
    codes, counts = np.unique(packed_colors(rgb[~known]), return_counts=True)
    _refuse_shared({color for color in shared_colors(labels) if packed_colors(np.array(color, np.uint8)) in codes})
    order = np.argsort(-counts, kind="stable")[:_KEPT]
    foreign = {unpacked_color(int(codes[at])): int(counts[at]) for at in order}
    if exact_colors(rgb[..., ::-1], labels)[1].all():
        raise SampleError("the label's colors are those of classes in the order blue, green, red: save it as RGB")
    share = 1 - float(known.mean())
    if share > MAX_UNKNOWN:
        raise SampleError(
            f"{share:.0%} of the label's pixels have colors that no class has, most of them {next(iter(foreign))}"
        )
    least = max(MAX_UNIFORM * known.size, min(_AREA, known.size / 20))
    areas = [color for color, count in foreign.items() if count >= least]
    hint = next(filter(None, (_almost(color, labels) for color in areas)), "")
    remark = f"it has areas of a color that is no class's, which are ignored{hint}"  # the same of many labels
    unknown = {f"color {color}": count for color, count in foreign.items()}
    return LabelPixels(train_ids, int(counts.sum()), unknown, (remark,) if areas else ())


def _read_lossy(rgb: np.ndarray, file: LabelFile, labels: tuple[Label, ...], holds: Holds) -> LabelPixels:
    """Read a label that went through JPEG, or the like."""
    if holds == "ids":
        raise SampleError(f"the label is no id image: {file.lossy} changes ids; save it as PNG")
    _refuse_shared(shared_colors(labels))
    if 0 < rgb.max() < _NEARLY_BLACK:
        raise SampleError(f"the label is nearly black, and ids do not survive {file.lossy}: save it as PNG")
    if file.one_channel and not _shown_in_gray(labels):
        raise SampleError(
            f"the label is gray, as no class's color is, and ids do not survive {file.lossy}: save it as PNG"
        )
    if near_share(rgb, labels) < MIN_NEAR:
        raise SampleError(
            f"most of the label's pixels have colors that no class has, not even nearly: save it as PNG, not {file.lossy}"
        )
    train_ids, far = nearest_colors(rgb, labels)
    remarks = [
        f"{file.lossy} has changed its colors, so each pixel takes the nearest class's, or none: PNG would be exact"
    ]
    if far > _MAX_FAR * train_ids.size:
        remarks.append("large parts of it are far from every class's color, and ignored")
    return LabelPixels(train_ids, far, {FAR_COLORS: far} if far else {}, tuple(remarks))


def _shown_in_gray(labels: tuple[Label, ...]) -> bool:
    """Return whether a gray image can show the classes by their colors."""
    learned = (label.color for label in labels if label.train_id != IGNORE_INDEX)
    return foreground_class(labels) is not None or all(len(set(color)) == 1 for color in learned)


def _refuse_shared(colors: Set[tuple[int, int, int]]) -> None:
    if colors:
        raise SampleError(f"two classes have the color {min(colors)}: give each its own in classes.json, or save ids")


def _doubtful(rgb: np.ndarray, labels: tuple[Label, ...]) -> Iterator[str]:
    """Yield a line for each color that a class shares with a label that doesn't count."""
    classes = {label.color: label.name for label in labels if label.train_id != IGNORE_INDEX}
    for label in labels:
        if label.train_id == IGNORE_INDEX and label.color in classes and (rgb == label.color).all(-1).any():
            name = classes[label.color]
            yield f"{name!r} and {label.name!r}, which does not count, have the color {label.color}: it is taken for {name!r}"


def _almost(color: tuple[int, ...], labels: tuple[Label, ...]) -> str:
    """Return what a foreign color may be: nearly a class's, or an id in one of three channels."""
    if np.count_nonzero(color) == 1 and max(color) in {label.id for label in labels}:
        return "; if these are ids, save them with one channel"
    for label in labels:
        if max(abs(one - other) for one, other in zip(color, label.color, strict=True)) <= ALMOST:
            return f"; {label.name!r} has {label.color}"
    return ""


def _placed(reading: Reading, values: _Distinct) -> LabelPixels:
    """Give every pixel the train id of its value."""
    table = np.zeros(values.places[-1] + 1, np.uint8)
    table[values.places] = reading.train_ids
    unknown = Counter({f"value {values.values[at]}": int(values.counts[at]) for at in np.flatnonzero(~reading.known)})
    return LabelPixels(table[values.pixels], unknown.total(), dict(unknown.most_common(_KEPT)), reading.remarks)


def _distinct(pixels: np.ndarray) -> _Distinct:
    if pixels.dtype == np.uint8:  # nearly always: counting is quicker than sorting, and wide integers than bytes
        pixels = pixels.astype(np.intp)
        counts = np.bincount(pixels.ravel())
        values = np.flatnonzero(counts)
        return _Distinct(values, counts[values], values, pixels)
    values, index, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    return _Distinct(values.astype(np.int64), counts, np.arange(len(values)), index.reshape(pixels.shape))


def _whole(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as whole numbers: floats must be such; one bit is 0 or 255."""
    if pixels.dtype == bool:
        return pixels * np.uint8(255)
    if pixels.dtype.kind != "f":
        return pixels
    with np.errstate(invalid="ignore"):
        whole = pixels.astype(np.int64)
    if (whole != pixels).any():
        raise SampleError("the label has floats that are no whole numbers, so no ids")
    return whole


def _is_gray(rgb: np.ndarray) -> bool:
    return bool((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all())


def _is_ramp(colors: np.ndarray) -> bool:
    return bool((colors[1:16] == np.arange(1, 16)[:, None]).all())


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """Return colors, uint8 (H, W, 3), of these or of gray values."""
    if pixels.ndim == 3:
        return pixels
    values = pixels // 257 if pixels.size and pixels.max() > 255 else pixels
    return np.repeat(values.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
