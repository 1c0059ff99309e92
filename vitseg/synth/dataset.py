"""Generated data sets, of any size: street scenes in the official Cityscapes layout, and photographs without labels.

Layout: https://github.com/mcordts/cityscapesScripts#dataset-structure
"""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from vitseg.errors import UsageError
from vitseg.labels import CITYSCAPES, palette
from vitseg.storage import Store, open_store
from vitseg.synth.scene import check_size, draw_scene

CITIES = {"train": ("ahornfeld", "brunnental", "eschenbruck", "lindenhof"), "val": ("marienau", "seehausen")}
FRAME = 19
"""Cityscapes labels the 20th frame of each sequence."""

_PHOTO_SIZES = ((512, 256), (640, 360), (480, 320))  # width, height
_PHOTO_FORMATS = (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"))
_PHOTO_STREAM = 0x70686F74  # keeps these scenes apart from the labeled ones of the same seed


def write_scenes(
    dest: str,
    *,
    train: int,
    val: int,
    size: tuple[int, int],
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write street scenes, photo with label ids and label colors, and return how many.

    Scene i of a split depends on nothing but (seed, split, i); equal arguments give equal bytes. `size` is (width, height)
    in pixels, `seed` 0 or more; `progress` is called with (scenes done, scenes in all).

    Raises:
        UsageError: a number is out of range, or `dest` can't be written to.
    """
    if min(train, val) < 0 or train + val == 0:
        raise UsageError(f"train={train}, val={val}: ask for at least one scene, and never for fewer than none")
    if seed < 0:
        raise UsageError(f"seed {seed}: use 0 or more")
    check_size(size)
    store = open_store(dest)
    jobs = [(split, index) for split, count in (("train", train), ("val", val)) for index in range(count)]
    with ThreadPoolExecutor(4) as pool:  # storage waits while another scene is drawn
        for done, _ in enumerate(pool.map(lambda job: _write_scene(store, job[0], job[1], size, seed), jobs), 1):
            if progress:
                progress(done, len(jobs))
    return len(jobs)


def _write_scene(store: Store, split: str, index: int, size: tuple[int, int], seed: int) -> None:
    photo, ids = draw_scene((seed, tuple(CITIES).index(split), index), size)
    known = tuple(label for label in CITYSCAPES if label.id >= 0)
    colors = palette(known, [label.id for label in known])
    city = CITIES[split][index % len(CITIES[split])]
    name = f"{split}/{city}/{city}_{index // len(CITIES[split]):06d}_{FRAME:06d}"
    # The photo comes last: where it is, its labels are.
    for key, pixels in (
        (f"gtFine/{name}_gtFine_labelIds.png", ids),
        (f"gtFine/{name}_gtFine_color.png", colors[ids]),
        (f"leftImg8bit/{name}_leftImg8bit.png", photo),
    ):
        _write(store, key, pixels, "PNG", compress_level=4)


def write_photographs(dest: str, *, count: int, seed: int) -> int:
    """Write photographs of several sizes and formats as `camera-{0,1}/{index}.{jpg,png,webp}`; return their number."""
    store = open_store(dest)
    for index in range(count):
        photo, _ = draw_scene((_PHOTO_STREAM, seed, index), _PHOTO_SIZES[index % len(_PHOTO_SIZES)])
        suffix, kind = _PHOTO_FORMATS[index % len(_PHOTO_FORMATS)]
        _write(store, f"camera-{index % 2}/{index:04d}.{suffix}", photo, kind, quality=92)
    return count


def _write(store: Store, key: str, pixels: np.ndarray, kind: str, **options: int) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    store.write(key, file.getvalue(), content_type=f"image/{kind.lower()}")
