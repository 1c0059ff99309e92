"""The values of a gray or palette label → train ids, decided by the values that occur.

A reading is complete if every value has a meaning in the list of classes: see `label_image`, whose rules for one channel
and for palettes are here.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np

from vitseg.data.color_labels import WHITE, almost_colors, exact_colors
from vitseg.errors import SampleError
from vitseg.labels import IGNORE_INDEX, Label, background_of, foreground_class, label_train_ids

MAX_UNIFORM = 0.002
"""Share of a label's pixels above which a single value that no class has is an area, not the smoothed edge of one."""
_MAX_EDGE, _MAX_EDGES = 0.005, 0.1
"""Shares of a label's pixels that a value of smoothed edges, and all of these, take at most."""
_NAMED = 5

_SMOOTHED = "its edges are smoothed: each of their pixels takes the nearer of black and white"
_ONLY_0_AND_255 = "it has only 0, and 255, which is ignored: if that is a class, give it the id 255"
_LIKE_TRAIN_IDS = "it has 255 and else train ids only: these may stand in place of the label ids that are expected"


@dataclass(frozen=True)
class Reading:
    """Train ids, uint8 (V,), of the V values that occur, and which of them have a meaning, bool (V,)."""

    train_ids: np.ndarray
    known: np.ndarray
    remarks: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every value has a meaning."""
        return bool(self.known.all())

    def differs(self, other: "Reading") -> bool:
        """Return whether another reading gives a value that both know another train id."""
        return bool((self.train_ids != other.train_ids)[self.known & other.known].any())


def read_ids(values: np.ndarray, labels: tuple[Label, ...], *, void: bool = True) -> Reading:
    """Read values, int (V,), as ids; `void`: 255 has the meaning that it is ignored, where it is no label's id."""
    ids, train_ids = _id_table(labels, void)
    at = np.searchsorted(ids, values).clip(max=len(ids) - 1)
    known = ids[at] == values
    return Reading(np.where(known, train_ids[at], np.uint8(IGNORE_INDEX)), known)


def read_colors(rgb: np.ndarray, labels: tuple[Label, ...]) -> Reading:
    """Read colors, uint8 (V, 3), as those of classes."""
    return Reading(*exact_colors(rgb, labels))


def read_gray(
    values: np.ndarray, shares: np.ndarray, labels: tuple[Label, ...], *, bits: int, one_channel: bool, only_ids: bool
) -> Reading | None:
    """Read the values of a gray label; None: several channels, complete neither as ids nor as colors: read them as colors.

    Args:
        values: those that occur, int (V,), ascending; of less than 8 bits, spread over 0–255 as decoders do.
        shares: their shares of the pixels, (V,).
        labels: the list of classes.
        bits: a pixel's bits as stored.
        one_channel: False if colors were stored that are all gray.
        only_ids: gray is never a class's color.

    Raises:
        SampleError: the label has ids that no class has, or says two things.
    """
    plain = one_channel and bits >= 8
    stored = values // (255 // (2**bits - 1)) if bits < 8 else values
    picture = _picture(values, labels)
    ids = read_ids(stored, labels)
    seen = [read_ids(picture, labels, void=False)]
    if not only_ids and 0 <= picture[0] <= picture[-1] <= 255:
        seen.append(read_colors(np.repeat(picture[:, None], 3, 1).astype(np.uint8), labels))
    explicit = seen if plain else [read_ids(stored, labels, void=False), *seen]
    complete = [one for one in explicit if one.is_complete]
    if plain and ids.is_complete:
        # All 0 needs no second opinion, for black is often the color of what does not count, unless the thing is on 0.
        doubtful = values[-1] > 0 or ((foreground := foreground_class(labels)) and foreground.id == 0)
        complete = [ids, *(one for one in complete if doubtful)]
    elif not complete and ids.is_complete:
        complete = [ids]
    if complete:
        reading = _agreed(complete, picture, labels)
        remarks = [_ONLY_0_AND_255] if _ignores_all_but_0(reading, picture, labels) else []
        remarks += [_LIKE_TRAIN_IDS] if only_ids and _like_train_ids(values, labels) else []
        return replace(reading, remarks=tuple(remarks))
    if smooth := _smooth(picture, shares, labels):
        return smooth
    if not one_channel and not only_ids:
        return None
    raise SampleError(_unknown_ids(stored[~ids.known], labels))


def read_palette(used: np.ndarray, colors: np.ndarray, labels: tuple[Label, ...]) -> Reading | None:
    """Read the indices of a palette label as ids; None: read it by its colors.

    Args:
        used: the indices that occur, int (V,), ascending.
        colors: the colors of these, uint8 (V, 3).
        labels: the list of classes.

    Raises:
        SampleError: it says one thing by its colors and another by its indices.
    """
    ids, shown = read_ids(used, labels), read_colors(colors, labels)
    gray = (colors == colors[:, :1]).all()
    if gray and not shown.is_complete and (values := read_ids(colors[:, 0].astype(np.int64), labels)).is_complete:
        shown = values
    if not ids.is_complete:
        return None
    telling = (colors != used[:, None]).any(1)  # entry 7 of a gray ramp is (7, 7, 7), whatever the indices mean
    meant, known = (shown.train_ids, shown.known) if shown.is_complete else almost_colors(colors, labels)
    says = known & telling
    if says.any() and not (meant != ids.train_ids)[says].any():
        return ids
    if says.any() and shown.is_complete:
        return None
    if says.any() or (shown.is_complete and shown.differs(ids)):
        raise SampleError(
            f"the label's palette shows colors of other classes than its indices {_listed(used)} mean: "
            "save it with the colors of classes.json, or as gray image of ids"
        )
    return ids


def _like_train_ids(values: np.ndarray, labels: tuple[Label, ...]) -> bool:
    """Return whether values are train ids or 255, which ids seldom are, although most classes have larger ids."""
    below = [label.train_id for label in labels if label.train_id != IGNORE_INDEX]
    return len(values) > 1 and values[-1] == IGNORE_INDEX and values[-2] <= max(below)


def _is_white(labels: tuple[Label, ...]) -> bool:
    """Return whether a binary data set shows its thing as white."""
    foreground = foreground_class(labels)
    return foreground is not None and (foreground.id == IGNORE_INDEX or foreground.color == WHITE)


def _picture(values: np.ndarray, labels: tuple[Label, ...]) -> np.ndarray:
    """Return the values as they look in 8 bits: of 16 bits that are 8 times 257, and of 0 and 1 in a binary data set."""
    if values[-1] > 255 and not (values % 257).any():
        return values // 257
    if foreground_class(labels) and values[0] >= 0 and values[-1] == 1:
        return values * 255
    return values


def _agreed(readings: list[Reading], values: np.ndarray, labels: tuple[Label, ...]) -> Reading:
    """Return the first of complete readings if they are all the same; in a binary data set, those that find the thing."""
    first, foreground = readings[0], foreground_class(labels)
    if any(
        first.differs(other)
        for other in readings[1:]
        if foreground is None or foreground.id == 0 or (other.train_ids == 0).any()
    ):
        raise SampleError(
            f"the label's values {_listed(values)} mean one thing as ids and another as what they show: "
            "give the class in classes.json the id that the labels have, or save the labels as colors"
        )
    return first


def _ignores_all_but_0(reading: Reading, values: np.ndarray, labels: tuple[Label, ...]) -> bool:
    """Return whether only 0 counts, and 255 does not although nobody lists it."""
    listed = any(label.id == IGNORE_INDEX for label in labels)
    return not listed and values.tolist() == [0, IGNORE_INDEX] and reading.train_ids[-1] == IGNORE_INDEX


def _smooth(values: np.ndarray, shares: np.ndarray, labels: tuple[Label, ...]) -> Reading | None:
    """Read black and white with smoothed edges in a data set whose only class is white: the nearer of the two."""
    if not _is_white(labels) or not 0 <= values[0] <= values[-1] <= 255:
        return None
    between = (values > 0) & (values < 255)
    if shares[between].max(initial=0) > _MAX_EDGE or shares[between].sum() > _MAX_EDGES:
        return None
    return Reading(np.where(values > 127, np.uint8(0), np.uint8(1)), np.ones(len(values), bool), (_SMOOTHED,))


def _unknown_ids(values: np.ndarray, labels: tuple[Label, ...]) -> str:
    if _is_white(labels):
        advice = "save it with 0 and 255 alone"
    else:
        what = "are background" if foreground_class(labels) else "should be ignored"
        smooth = ", or save it without smoothed edges" if len(values) > _NAMED else ""
        advice = f"list them in classes.json, with train_id 255 if they {what}{smooth}"
    return f"the label has ids that no class has: {_listed(values)}; {advice}"


def _listed(values: np.ndarray) -> str:
    return ", ".join(str(int(value)) for value in values[:_NAMED]) + (" …" if len(values) > _NAMED else "")


@functools.lru_cache(maxsize=8)
def _id_table(labels: tuple[Label, ...], void: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids that have a meaning, ascending, int64 (N,), and their train ids, uint8 (N,)."""
    meaning = {IGNORE_INDEX: IGNORE_INDEX} if void else {}
    if foreground := foreground_class(labels):
        meaning[background_of(foreground).id] = 1
    meaning |= {label.id: train_id for label, train_id in zip(labels, label_train_ids(labels), strict=True)}
    ids = sorted(meaning)
    return np.array(ids, np.int64), np.array([meaning[number] for number in ids], np.uint8)
