from collections import Counter
from functools import lru_cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vitseg.labels import CITYSCAPES
from vitseg.synth.scene import draw_scene

SIZE = (64, 32)
NAMES = {label.id: label.name for label in CITYSCAPES}


@lru_cache
def scenes(count: int = 24, size: tuple[int, int] = (256, 128)) -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_scene((5, index), size) for index in range(count)]


def shares(ids: np.ndarray) -> dict[str, float]:
    return {NAMES[int(value)]: float((ids == value).mean()) for value in np.unique(ids)}


def test_draw_scene_takes_a_seed_or_a_generator() -> None:
    from_seed, from_generator = draw_scene(3, SIZE), draw_scene(np.random.default_rng(3), SIZE)
    assert all(np.array_equal(one, two) for one, two in zip(from_seed, from_generator, strict=True))


@settings(max_examples=12, deadline=None)
@given(st.integers(32, 150), st.integers(16, 150), st.integers(0, 2**32))
def test_any_size_is_honored(width: int, height: int, seed: int) -> None:
    photo, ids = draw_scene(seed, (width, height))
    assert (photo.shape, photo.dtype) == ((height, width, 3), np.uint8)
    assert (ids.shape, ids.dtype) == ((height, width), np.uint8)
    assert {"road", "sky"} <= {NAMES[int(value)] for value in np.unique(ids)} or height < 32


def test_a_big_scene_is_the_small_one_with_more_pixels() -> None:
    _, small = draw_scene(4, (128, 64))
    photo, big = draw_scene(4, (1280, 640))
    assert photo.shape == (640, 1280, 3)
    assert abs(shares(small)["road"] - shares(big)["road"]) < 0.1
    assert abs(shares(small)["sky"] - shares(big)["sky"]) < 0.1


def test_streets_hold_what_streets_hold() -> None:
    found = [shares(ids) for _, ids in scenes()]
    for one in found:
        assert one["road"] > 0.08
        assert one["sky"] > 0.005
    seen = Counter(name for one in found for name, share in one.items() if share > 0.001)
    for name in ("building", "vegetation", "sidewalk", "pole", "person", "car"):
        assert seen[name] >= 0.8 * len(found), name
    assert len(seen) == 8


def test_no_class_is_rare_and_none_fills_the_picture() -> None:
    whole = shares(np.stack([ids for _, ids in scenes()]))
    assert min(whole.values()) > 0.015, whole
    assert max(whole.values()) < 0.45, whole


def test_poles_are_thick_enough_to_learn() -> None:
    pole = next(label.id for label in CITYSCAPES if label.name == "pole")
    runs = []
    for _, ids in scenes():
        for row in (ids == pole)[40:60]:
            edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
            runs.extend(edges[1::2] - edges[::2])
    assert np.quantile(runs, 0.1) >= 4


def test_things_stand_on_the_ground_and_the_sky_is_above() -> None:
    heights = {}
    for name in ("sky", "building", "car", "road"):
        value = next(label.id for label in CITYSCAPES if label.name == name)
        heights[name] = np.mean([np.nonzero(ids == value)[0].mean() for _, ids in scenes() if (ids == value).any()])
    assert heights["sky"] < heights["building"] < heights["car"] < heights["road"]


def test_borders_of_labels_lie_on_edges_of_the_photo() -> None:
    """The photo changes across a border of labels far more than across a line some pixels beside it."""
    on_border, beside = [], []
    for photo, ids in scenes():
        step = np.abs(np.diff(photo.astype(int), axis=1)).sum(-1)
        border = np.diff(ids.astype(int), axis=1) != 0
        on_border.append(step[border].mean())
        for shift in (-4, 4):
            beside.append(step[np.roll(border, shift, 1) & ~border].mean())
    assert np.mean(on_border) > 1.6 * np.mean(beside)
