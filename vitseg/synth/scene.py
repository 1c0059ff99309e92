"""One street scene in one-point perspective: objects are placed at random, then drawn from far to near.

Photo and label ids come from the same polygons on a finer grid; the photo is averaged down, the ids are picked, never
blended.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from vitseg.errors import UsageError
from vitseg.synth import objects
from vitseg.synth.canvas import IDS, SUNNY, Camera, Canvas, Light, Street, develop, paint_ground, paint_sky

Seed = np.random.Generator | int | Sequence[int]
Item = tuple[float, Callable[[Canvas, np.random.Generator], None]]
"""Depth in meters, and what draws there."""


def check_size(size: tuple[int, int]) -> None:
    """Refuse a size (width, height) that no scene can have."""
    if not (32 <= size[0] <= 4096 and 16 <= size[1] <= 4096):
        raise UsageError(f"size {size[0]}x{size[1]}: width is 32-4096 pixels, height 16-4096")


def draw_scene(seed: Seed, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw one street: photo uint8 (H, W, 3) and label ids uint8 (H, W) for size (W, H) in pixels; see `check_size`."""
    check_size(size)
    rng = np.random.default_rng(seed)
    fine = 3 if size[0] * size[1] <= 1024 * 512 else 1  # odd: the middle of a pixel is a pixel of the fine grid
    width, height = size[0] * fine, size[1] * fine
    street, light = _plan_street(rng), _choose_light(rng)
    camera = Camera(
        width, height, focal=width * rng.uniform(0.95, 1.08), center=width * rng.uniform(0.46, 0.54),
        horizon=height * rng.uniform(0.44, 0.50), eye=rng.uniform(1.4, 1.9),
        shift=street.road * rng.uniform(0.1, 0.4), bend=rng.uniform(-0.001, 0.001),
    )  # fmt: skip
    plan = _Arrangement(street, light, [objects.leaf_sprite(rng, light, max(24, width // 5)) for _ in range(3)])
    plan.furnish(rng)
    photo = np.empty((height, width, 3), np.uint8)
    ids = np.full((height, width), IDS["sky"], np.uint8)
    paint_sky(photo, rng, camera, light)
    paint_ground(photo, ids, rng, camera, street, light, plan.shadows)
    canvas = Canvas(Image.fromarray(photo), Image.fromarray(ids), camera, light)
    for _, draw in sorted(plan.items, key=lambda item: -item[0]):
        draw(canvas, rng)
    drawing, drawn = canvas.finish()
    ids = np.asarray(drawn)[fine // 2 :: fine, fine // 2 :: fine].copy()
    return develop(drawing.reduce(fine), ids, rng), ids


def _plan_street(rng: np.random.Generator) -> Street:
    road = rng.uniform(3.8, 4.8)
    crossing, zebra = (0.0, 0.0), 0.0
    if rng.random() < 0.35:
        start = rng.uniform(13, 24)
        crossing, zebra = (start, start + rng.uniform(7, 10)), start - 4.5
    elif rng.random() < 0.4:
        zebra = rng.uniform(7, 16)
    facades = {side: road + rng.uniform(4.0, 5.6) for side in (-1, 1)}
    return Street(road, facades, crossing, zebra, bool(rng.random() < 0.85), bool(rng.random() < 0.35))


def _choose_light(rng: np.random.Generator) -> Light:
    """Choose a time of day and weather: sun, sky light, haze, its density a meter, share of lit windows."""
    sun, ambient, haze, density, windows = (
        ((0.54, 0.50, 0.44), (0.54, 0.56, 0.62), (200, 216, 234), 0.004, 0.0),  # noon
        ((0.46, 0.43, 0.38), (0.58, 0.59, 0.62), (218, 220, 220), 0.007, 0.0),  # hazy
        ((0.10, 0.10, 0.10), (0.84, 0.85, 0.88), (212, 216, 220), 0.009, 0.1),  # overcast
        ((0.60, 0.46, 0.30), (0.50, 0.48, 0.51), (240, 214, 180), 0.005, 0.12),  # evening
    )[rng.choice(4, p=(0.35, 0.25, 0.25, 0.15))]
    exposure = rng.uniform(0.9, 1.15)
    return Light(
        np.array(sun) * exposure, np.array(ambient) * exposure, np.array(haze) * rng.uniform(0.94, 1.04),
        density * rng.uniform(0.7, 1.3), float(rng.choice([-1.0, 1.0])), windows,
    )  # fmt: skip


class _Arrangement:
    """What stands in a street: drawings with their depths in meters, and the shadows they cast on the ground."""

    def __init__(self, street: Street, light: Light, sprites: list[objects.Sprite]) -> None:
        self.street, self.light, self.sprites = street, light, sprites
        self.items: list[Item] = []
        self.shadows: list[np.ndarray] = []

    def furnish(self, rng: np.random.Generator) -> None:
        """Place everything."""
        for x in np.arange(-80, 81, 10.0):
            tall = rng.uniform(3, 6)
            self._crown(rng, x + rng.uniform(-3, 3), tall * 0.8, rng.uniform(141, 149), rng.uniform(6, 9), tall)
        self._add(139, objects.draw_building, 1, rng.uniform(-9, -2), (135, 139), rng.uniform(9, 16))
        for side in (-1, 1):
            self._plots(rng, side)
            self._pavement(rng, side)
            self._traffic(rng, side)
        for _ in range(rng.integers(1, 5)):
            z = (self.street.zebra or rng.uniform(8, 14)) + rng.uniform(0.5, 3)
            self._person(rng, rng.uniform(-0.7, 0.7) * self.street.road, z)

    def _add(self, depth: float, draw: Callable[..., None], *args: object) -> None:
        self.items.append((depth, lambda canvas, rng: draw(canvas, rng, *args)))

    def _shadow(self, x: float, z: float, wide: float, long: float, tall: float) -> None:
        foot = np.array([(x - wide, 0, z), (x + wide, 0, z), (x + wide, 0, z + long), (x - wide, 0, z + long)])
        self.shadows.append(foot)
        if self.light.sun[0] > SUNNY:
            reach = foot + np.array([-self.light.side * 0.9 * tall, 0, 0.25 * tall])
            self.shadows.append(reach)
            self.shadows.extend(np.stack([foot[i], foot[i - 1], reach[i - 1], reach[i]]) for i in range(4))

    def _crown(self, rng: np.random.Generator, x: float, y: float, z: float, wide: float, tall: float) -> None:
        self._add(z, objects.draw_crown, self.sprites[rng.integers(len(self.sprites))], (x, y, z), (wide, tall))

    def _person(self, rng: np.random.Generator, x: float, z: float) -> None:
        self._add(z, objects.draw_person, x, z, 1.2 if rng.random() < 0.1 else rng.uniform(1.6, 1.9))
        self._shadow(x, z, 0.2, 0.2, 1.7)

    def _plots(self, rng: np.random.Generator, side: int) -> None:
        """Line one side with houses, some gaps, and some gardens behind a hedge."""
        z, x = 1.0, self.street.facades[side]
        while z < 130:
            if self.street.crossed(z):
                z = self.street.crossing[1] + 1
            end, height = z + rng.uniform(9, 20), rng.uniform(7, 19)
            if z < self.street.crossing[0]:
                end = min(end, self.street.crossing[0] - 1)
            if rng.random() < 0.2:
                height = 4.0
                for at in np.arange(z, end, max(2.5, z / 10)):
                    self._crown(rng, side * (x + 3.5), 3.4, at, 2.6, rng.uniform(2.4, 3.6))
                    self._crown(rng, side * (x + 0.9), 0.55, at - 0.1, 1.4, 0.8)
            else:
                self._add(end, objects.draw_building, side, x, (z, end), height)
            if side == self.light.side and self.light.sun[0] > SUNNY:
                reach, behind = x - 0.5 * height, x + 9
                self.shadows.append(
                    np.array([(side * p, 0, q) for p, q in ((behind, z), (reach, z), (reach, end), (behind, end))])
                )
            z = end if rng.random() < 0.8 else end + rng.uniform(1.5, 4)

    def _pavement(self, rng: np.random.Generator, side: int) -> None:
        """Put trees, lamps and persons along one side."""
        edge, crossed = self.street.road + 0.7, self.street.crossed
        if rng.random() < 0.6:
            for z in np.arange(rng.uniform(8, 14), 90, rng.uniform(8, 13)):
                if not crossed(z):
                    self._add(z, objects.draw_tree, self.sprites, side * (edge + 0.4), z)
                    self._shadow(side * (edge + 0.4), z, 0.2, 0.3, 2.5)
        for z in np.arange(rng.uniform(7, 11), 26, rng.uniform(6, 9)):
            if not crossed(z):
                self._add(z, objects.draw_lamp, side * edge, z)
                self._shadow(side * edge, z, 0.12, 0.2, 6.0)
        for _ in range(rng.integers(3, 7)):
            self._person(rng, side * (self.street.road + rng.uniform(0.8, 2.4)), rng.uniform(8, 16))

    def _traffic(self, rng: np.random.Generator, side: int) -> None:
        """Put parked cars along one kerb, and drive others on the lane beside it."""
        full = 0.6 if rng.random() < 0.5 else 0.0
        parked = np.arange(rng.uniform(6, 12), 45, 6.2)
        places = [(self.street.road - 1.15, z) for z in parked if rng.random() < full]
        driven = np.arange(rng.uniform(8, 18), 60, rng.uniform(12, 25))
        places += [(self.street.road * 0.36, z) for z in driven]
        for x, z in places:
            if x < 0.5 * self.street.road or not (self.street.crossed(z - 1) or self.street.crossed(z + 5)):
                self._add(z, objects.draw_car, side * x, z, side > 0)
                self._shadow(side * x, z, 0.95, 4.2, 1.2)
