"""The objects of a generated street, built of polygons in meters: houses, trees, cars, persons, street lamps."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vitseg.synth.canvas import Canvas, Color, Light, noise

Sprite = tuple[Image.Image, Image.Image]
"""Leaves and their mask."""

WALLS = (
    (214, 200, 172), (200, 180, 150), (178, 112, 84), (156, 96, 76), (208, 208, 202), (172, 172, 168),
    (222, 190, 136), (194, 158, 138), (150, 142, 132), (230, 222, 206), (182, 164, 126), (134, 122, 114),
)  # fmt: skip
ROOFS = ((118, 68, 54), (92, 88, 88), (130, 96, 76))


def draw_building(
    canvas: Canvas, rng: np.random.Generator, side: float, x: float, z: tuple[float, float], height: float
) -> None:
    """Draw a house on the `side` (±1) of the street: facade at ±x over depths z, the wall facing us, and roof."""
    near, far = z
    face, back = side * x, side * (x + 11)
    middle, ridge = (face + back) / 2, height + rng.uniform(1.5, 4.0)
    wall = np.array(WALLS[rng.integers(len(WALLS))]) * rng.uniform(0.9, 1.1)
    trim = wall * rng.choice([0.72, 1.15])
    shop = wall * 0.5 + rng.uniform(30, 100, 3) * 0.5 if rng.random() < 0.6 else wall * 0.85
    sign = rng.uniform(40, 190, 3) * 0.4 + wall * 0.3
    floor, ground, wide = rng.uniform(2.9, 3.6), rng.uniform(3.4, 4.2), rng.uniform(2.4, 3.4)
    share, tall = rng.uniform(0.42, 0.66), rng.uniform(0.45, 0.6)

    def facade(along: tuple[float, float], length: float, lit: float, shops: bool) -> None:
        bays = max(2, round(length / wide))
        starts = np.linspace(length, 0, bays + 1)[1:]  # far to near
        levels = np.arange(ground, height - floor * 0.75, floor) + 0.28 * floor

        def quads(share: float, low: float | np.ndarray, high: float | np.ndarray, more: float = 0.0) -> np.ndarray:
            """The middle `share` of each bay and `more` meters on both sides, at one height or at several."""
            low_, high_ = np.atleast_1d(low), np.atleast_1d(high)
            corners = np.empty((len(low_), bays, 4, 3))
            for corner, (end, level) in enumerate(((0, low_), (0, high_), (1, high_), (1, low_))):
                at = starts + length / bays * (0.5 + (end - 0.5) * share) + (2 * end - 1) * more
                corners[:, :, corner, 0] = face + at * along[0]
                corners[:, :, corner, 1] = level[:, None]
                corners[:, :, corner, 2] = near + at * along[1]
            return corners.reshape(-1, 4, 3)

        canvas.faces(quads(1, -0.3, height), wall * rng.normal(1, 0.012, (bays, 1)), lit, "building")
        eaves, story = height - 0.5, ground - 0.3
        for low, high, tone in ((eaves, height, 1.1), (eaves - 0.3, eaves, 0.78), (story, ground, 1.08)):
            canvas.faces(quads(1, low, high), wall * tone, lit)
        if len(levels) and (near < 100 or not shops):
            tops, count = levels + tall * floor, (len(levels) * bays, 1)
            canvas.faces(quads(share, levels - 0.15, tops + 0.12, 0.12), trim, lit)
            glass = rng.uniform(30, 80, count) * np.array([0.85, 1.0, 1.15])
            warm = rng.random(count) < canvas.light.windows
            glass = np.where(warm, np.array([300.0, 236, 140]) * rng.uniform(0.7, 1, count), glass)
            mirror = np.where(warm, glass, glass * 0.5 + canvas.light.haze * rng.uniform(0.1, 0.5, count))
            canvas.faces(quads(share, levels, tops), glass, 0.5)
            canvas.faces(quads(share, (levels + tops) / 2, tops), mirror, 0.5)
            if near < 40:
                canvas.faces(quads(0, levels, tops, 0.05), trim, lit)
        if shops:
            canvas.faces(quads(1, -0.3, ground - 0.3), shop, lit * 0.8)
            for low, dark, bright in ((0.5, 25, 80), (1.7, 50, 130)):
                panes = rng.uniform(dark, bright, (bays, 1)) * np.array([0.97, 1.0, 1.0])
                canvas.faces(quads(0.82, low, ground - 1.1), panes, 0.5)
            canvas.faces(quads(0.9, ground - 1.0, ground - 0.45), sign, lit)

    sunny = 0.9 if side != canvas.light.side else 0.12
    slope = [(face, height, near), (middle, ridge, near), (middle, ridge, far), (face, height, far)]
    canvas.faces(slope, ROOFS[rng.integers(3)], sunny, "building")
    gable = [(face, height, near), (middle, ridge, near), (back, height, near)]
    canvas.faces(gable, wall, 0.35, "building")
    facade((side, 0.0), 11.0, 0.35, False)
    facade((0.0, 1.0), far - near, sunny, True)


def leaf_sprite(rng: np.random.Generator, light: Light, size: int) -> Sprite:
    """Return a crown of leaves and its mask, both size × size, lit from above and from the sun's side."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    shift = rng.integers(0, 512, 2)
    cell = 150 / size
    down, across = (np.arange(size) * cell + shift[0])[:, None], (np.arange(size) * cell + shift[1])[None]
    coarse, fine = noise(down, across), noise(down * 3.1, across * 3.1)
    inside = 1 - x * x * rng.uniform(1.0, 1.5) - y * y * rng.uniform(1.0, 1.3) + 0.18 * coarse + 0.03 * fine > 0.12
    bumps = noise(down, across) - noise(down + 6, across + 4 * light.side)
    shade = np.clip(0.42 - 0.28 * y + 0.16 * x * light.side + 0.30 * bumps + 0.10 * fine, 0.05, 1.1)[..., None]
    dark = np.array([30, 44, 20], np.float32) * rng.uniform(0.7, 1.2)
    bright = np.array([(104, 138, 52), (128, 150, 60), (88, 124, 62), (150, 140, 56)][rng.integers(4)], np.float32)
    ambient, sun = light.ambient.astype(np.float32), light.sun.astype(np.float32)
    leaves = (dark + (bright - dark) * shade) * (ambient + 0.8 * sun * np.minimum(shade, 1))
    mask = Image.fromarray((inside * 255).astype(np.uint8))
    return Image.fromarray(np.clip(leaves, 0, 255).astype(np.uint8)), mask


def draw_crown(
    canvas: Canvas, rng: np.random.Generator, sprite: Sprite, at: tuple[float, float, float], radii: tuple[float, float]
) -> None:
    """Draw leaves around a world point, with radii across and up in meters."""
    (x, y, z), (wide, tall) = at, radii
    (left, top), (right, bottom) = canvas.camera.project([(x - wide, y + tall, z), (x + wide, y - tall, z)])
    canvas.paste(*sprite, (left, top, right, bottom), z, "vegetation")


def draw_tree(canvas: Canvas, rng: np.random.Generator, sprites: list[Sprite], x: float, z: float) -> None:
    """Draw a street tree: a trunk, and a crown of a few clumps of leaves."""
    trunk, radius, side = rng.uniform(2.0, 3.0), rng.uniform(1.5, 2.5), canvas.light.side
    for left, right, tone in ((-0.17, 0.17, 0.6), (-0.05, 0.15, 1.0)):
        edge = np.array([left, left * 0.8, right * 0.8, right]) * side + x
        outline = np.stack([edge, [0, trunk + 1, trunk + 1, 0], np.full(4, z)], -1)
        canvas.faces(outline, np.array([92, 76, 60]) * tone, 0.4, "vegetation")
    for across, up, size in ((-0.5, 0.7, 0.75), (0.55, 0.8, 0.7), (0.0, 1.0, 1.0))[0 if z < 45 else 2 :]:
        at = (x + across * radius, trunk + up * radius, z)
        draw_crown(canvas, rng, sprites[rng.integers(len(sprites))], at, (radius * size, radius * size))


def _stand(outline: np.ndarray, z: float) -> np.ndarray:
    """Return an outline (M, 2) as points (M, 3) at depth z, facing us."""
    points = np.full((len(outline), 3), z)
    points[:, :2] = outline
    return points


PAINTS = (
    (225, 226, 228), (170, 174, 180), (110, 116, 124), (36, 38, 42), (36, 62, 132), (122, 26, 32),
    (206, 210, 214), (36, 84, 78), (112, 148, 182), (64, 92, 150),
)  # fmt: skip
BODIES = (  # outlines from the side, rear bumper over the roof to front bumper: (meters along, meters up)
    ((0, 0.28), (0, 0.62), (0.08, 0.98), (0.5, 1.42), (2.2, 1.46), (3.0, 1.0), (3.85, 0.78), (3.95, 0.28)),
    ((0, 0.28), (0, 0.66), (0.05, 0.96), (1.0, 1.38), (2.5, 1.41), (3.3, 0.98), (4.35, 0.76), (4.45, 0.28)),
    ((0, 0.32), (0, 0.76), (0.08, 1.10), (0.4, 1.66), (2.7, 1.70), (3.4, 1.12), (4.3, 0.95), (4.4, 0.32)),
    ((0, 0.32), (0, 0.76), (0.05, 1.15), (0.2, 1.98), (3.2, 2.00), (4.1, 1.15), (4.6, 0.95), (4.7, 0.32)),
)


def draw_car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, away: bool) -> None:
    """Draw a car with its near end at (x, z): seen from behind where it drives `away`, else from the front."""
    body = np.array(BODIES[rng.integers(len(BODIES))])
    length, belt, roof = body[-1, 0], max(body[2, 1], body[5, 1]), body[:, 1].max()
    if not away:
        body = (np.array([length, 0]) - body * (1, -1))[::-1]
    paint = np.array(PAINTS[rng.integers(len(PAINTS))]) * rng.uniform(0.85, 1.1)
    glass = np.array([30, 36, 42]) + canvas.light.haze * 0.08
    half = np.array([0.85, 0.90, 0.90, 0.66, 0.66, 0.90, 0.90, 0.85])
    side = -1.0 if canvas.camera.project([[x, 0, z + 2]])[0, 0] > canvas.camera.center else 1.0  # the flank we see
    lit = 0.75 if side == canvas.light.side else 0.2

    def strip(k: int, wide: float = 1.0, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """The skin between outline points k and k + 1, across the car: all of it, or a part."""
        outline = np.column_stack([half * wide, body[:, 1], body[:, 0]])
        near, far = (outline[k] + (outline[k + 1] - outline[k]) * share for share in (low, high))
        return np.array([x, 0, z]) + np.array([near * (-1, 1, 1), near, far, far * (-1, 1, 1)])

    def flank(points: np.ndarray, out: float = 0.9) -> np.ndarray:
        lean = 0.24 * np.clip((points[:, 1] - belt) / (roof - belt), 0, 1)
        return np.stack([x + side * (out - lean), points[:, 1], z + points[:, 0]], -1)

    def front(left: float, right: float, low: float, high: float, behind: float = 0.0) -> np.ndarray:
        return _stand(np.array([(x + left, low), (x + right, low), (x + right, high), (x + left, high)]), z + behind)

    canvas.faces(front(-0.8, 0.8, 0.08, 0.4, 0.3), (16, 16, 18), 0.0, "car")
    for tyre in (-0.7, 0.7):
        canvas.faces(front(tyre - 0.12, tyre + 0.12, 0, 0.5, 0.3), (26, 26, 28), 0.1, "car")
    for k in (6, 5, 4, 3):  # far to near: the cabin covers what lies behind it
        canvas.faces(strip(k), glass if k == 4 else paint, 0.9, "car")
    canvas.faces(flank(body[[0, 1, 2, 5, 6, 7]]), paint, lit, "car")
    canvas.faces(flank(np.minimum(body[[0, 1, 6, 7]], [99, 0.5])), paint * 0.6, lit)
    canvas.faces(flank(body[2:6]), paint, lit, "car")
    middle = body[2:6].mean(0)
    canvas.faces(flank(middle + (body[2:6] - middle) * (0.88, 0.72)), glass, lit)
    pillar = np.array([(-0.12, -0.2), (-0.12, 0.22), (0, 0.22), (0, -0.2)])
    canvas.faces(flank(middle + pillar), paint, lit)
    turn = np.linspace(0, 2 * np.pi, 14)[:-1]
    circle = np.stack([np.cos(turn), np.sin(turn)], -1)
    for u in (0.78, length - 0.8):
        for radius, tone in ((0.39, 12), (0.33, 34), (0.2, 140), (0.07, 60))[: 4 if z < 30 else 1]:
            wheel = np.maximum(circle * radius + np.array([u, 0.33]), 0)
            canvas.faces(flank(wheel), (tone, tone, tone + 3), lit, "car" if radius > 0.3 else None)
    for k, bright in ((2, 1.0), (1, 1.0 if away else 1.15), (0, 0.92)):
        canvas.faces(strip(k), paint * bright, 0.9 if k == 1 and not away else 0.45, "car")
    canvas.faces(strip(2, 0.88, 0.1, 0.92), glass, 0.4)
    canvas.faces(strip(2, 0.88, 0.5, 0.92), glass + canvas.light.haze * 0.22, 0.4)
    canvas.faces(strip(0, 0.96, 0.0, 0.45), paint * 0.5, 0.4)
    lamp, low = ((190, 24, 22), body[1, 1] + 0.02) if away else ((300, 300, 285), body[1, 1] - 0.22)
    for left in (-0.84, 0.54):
        canvas.faces(front(left, left + 0.30, low, low + 0.18), lamp, 0.5)
    if not away:
        canvas.faces(front(-0.45, 0.45, low - 0.04, low + 0.16), (24, 24, 28), 0.2)
    canvas.faces(front(-0.26, 0.26, 0.46, 0.57), (225, 225, 215), 0.5)


_HALF_TURN = np.linspace(np.pi / 2, 3 * np.pi / 2, 6)


def _limb(start: tuple[float, float], end: tuple[float, float], thick: tuple[float, float]) -> np.ndarray:
    """Return the outline (M, 2) of a rounded bar between two points with a radius at each."""
    along = math.atan2(end[1] - start[1], end[0] - start[0])
    turn = along + _HALF_TURN
    outline = np.empty((2 * len(turn), 2))
    outline[: len(turn), 0], outline[: len(turn), 1] = np.cos(turn), np.sin(turn)
    outline[len(turn) :] = outline[: len(turn)] * -thick[1] + end
    outline[: len(turn)] = outline[: len(turn)] * thick[0] + start
    return outline


CLOTHES = (  # brighter than those of most people, so that a small model can distinguish them from cars
    (206, 54, 44), (228, 122, 40), (234, 190, 66), (200, 62, 122), (150, 44, 92), (238, 140, 110),
    (122, 62, 150), (186, 84, 40), (220, 80, 80), (160, 30, 48), (74, 62, 90), (206, 192, 176), (92, 84, 60),
)  # fmt: skip


def draw_person(canvas: Canvas, rng: np.random.Generator, x: float, z: float, height: float) -> None:
    """Draw somebody who walks or stands at (x, z), from the front, from behind or turned a little."""
    scale, turned = height / 1.75, rng.uniform(0.95, 1.2)
    stride, swing, side = rng.uniform(-0.2, 0.2), rng.uniform(-0.12, 0.12), canvas.light.side
    top, trousers = (np.array(CLOTHES[rng.integers(len(CLOTHES))]) * rng.uniform(0.8, 1.2) for _ in range(2))
    trousers = trousers * 0.3 + np.array([26, 26, 42])
    skin = np.array([(226, 182, 150), (198, 148, 112), (140, 96, 70), (96, 64, 48)][rng.integers(4)])
    hair = np.array([(40, 30, 24), (92, 66, 42), (170, 140, 90), (120, 116, 112)][rng.integers(4)])

    def part(outline: np.ndarray | Sequence[tuple[float, float]], color: Color, lit: float = 0.5) -> None:
        flat = np.asarray(outline) * (turned * scale, scale) + np.array([x, 0])
        canvas.faces(_stand(flat, z), color, lit, "person")

    for foot, tone in ((-1, 0.8), (1, 1.0)):
        knee, ankle = (foot * (0.10 + stride * 0.5), 0.47), (foot * (0.10 + stride), 0.07)
        part(_limb((foot * 0.09, 0.86), knee, (0.11, 0.085)), trousers * tone)
        part(_limb(knee, ankle, (0.085, 0.06)), trousers * tone)
        part(_limb(ankle, (ankle[0] + 0.05, 0.05), (0.06, 0.05)), (30, 28, 28))
    hem = rng.choice([0.80, 0.80, 0.55])
    shape = [(-0.20, hem), (-0.17, 1.08), (-0.24, 1.36), (-0.14, 1.46), (0.14, 1.46), (0.24, 1.36), (0.17, 1.08)]
    part([*shape, (0.20, hem)], top, 0.6)
    shadow = ((0.03, hem), (0.05, 1.44), (0.14, 1.46), (0.24, 1.36), (0.2, hem))
    part([(-side * across, up) for across, up in shadow], top * 0.72)
    for arm in (-1, 1):
        elbow, tone = (arm * 0.28 + swing * 0.5, 1.10), 1.0 if arm == side else 0.7
        part(_limb((arm * 0.22, 1.38), elbow, (0.075, 0.06)), top * tone)
        part(_limb(elbow, (arm * 0.24 + swing * 1.5, 0.86), (0.06, 0.045)), top * tone)
        part(_limb((arm * 0.24 + swing * 1.5, 0.86), (arm * 0.24 + swing * 1.6, 0.80), (0.045, 0.04)), skin)
    part(_limb((0, 1.44), (0, 1.52), (0.06, 0.06)), skin * 0.8)
    part(_limb((0, 1.57), (0, 1.64), (0.10, 0.11)), hair if rng.random() < 0.4 else skin)
    part(_limb((-0.04, 1.69), (0.04, 1.69), (0.075, 0.075)), hair)
    if rng.random() < 0.4:
        bag = rng.uniform(30, 150, 3)
        part(_limb((side * 0.25, 0.98), (side * 0.27, 0.80), (0.10, 0.13)), bag)


METALS = ((70, 76, 78), (52, 58, 56), (92, 96, 98), (48, 48, 52))


def draw_lamp(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a street lamp at (x, z) whose arm reaches over the road."""
    inward, height = -math.copysign(1.0, x), rng.uniform(4.6, 7.0)
    # at least 4 pixels of a picture 256 wide: thinner ones are lost on patches
    radius = max(rng.uniform(0.13, 0.17), 0.0090 * canvas.camera.width * z / canvas.camera.focal)
    metal = np.array(METALS[rng.integers(len(METALS))])

    def bar(outline: np.ndarray, tone: float) -> None:
        canvas.faces(_stand(outline, z), metal * tone, 0.5, "pole")

    reach, top = x + inward * rng.uniform(1.2, 2.2), height + 0.35
    bar(_limb((x, height - 0.1), (reach, top), (radius * 0.9, radius * 0.8)), 0.9)
    bar(_limb((reach, top), (reach + inward * 0.6, top + 0.05), (radius, radius * 0.8)), 0.7)
    for left, right, tone in ((-1.0, 1.0, 0.55), (-0.35, 1.0, 0.95), (0.25, 0.7, 1.4)):
        edge = np.array([left, right, right * 0.85, left * 0.85]) * radius * canvas.light.side + x
        bar(np.stack([edge, [0, 0, height, height]], -1), tone)
    foot = np.array([-1, -1, 1, 1]) * radius * 1.25 + x
    bar(np.stack([foot, [0, 0.6, 0.6, 0]], -1), 0.7)
