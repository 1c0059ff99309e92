"""How a generated street becomes a picture: camera, light, canvas, sky, ground and the effects of a lens.

World coordinates are meters: x across the street from its middle, y up from the ground, z ahead of the camera.
Colors are albedos in 0–255; `Light` turns them into what a camera sees. Everything is drawn twice with the same
geometry: in color, and as label ids.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from vitseg.labels import CITYSCAPES

IDS = {label.name: label.id for label in CITYSCAPES}
NEAR = 0.8
"""Meters; what is nearer to the camera is drawn as if it were this far away."""

Corners = np.ndarray | Sequence[Sequence[float]]
Color = np.ndarray | Sequence[float]
SUNNY = 0.2
"""Suns weaker than this cast no shadows."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above a street that bends; lengths on the picture are pixels of the drawing."""

    width: int
    height: int
    focal: float
    center: float
    horizon: float
    eye: float
    """Meters above the ground."""
    shift: float
    """Meters to the right of the middle of the street."""
    bend: float
    """The street's middle lies at x = bend · z² as seen from its start, 1/meters."""

    def project(self, points: Corners) -> np.ndarray:
        """Return pixel positions (..., 2) of world points (..., 3)."""
        world = np.asarray(points, np.float64)
        z = np.maximum(world[..., 2], NEAR)
        pixels = np.empty((*z.shape, 2))
        pixels[..., 0] = self.center + self.focal * (world[..., 0] - self.shift + self.bend * z * z) / z
        pixels[..., 1] = self.horizon + self.focal * (self.eye - world[..., 1]) / z
        return pixels


@dataclass(frozen=True)
class Light:
    """Sun, sky light and haze of one moment, as factors on albedo or colors (3,) in 0–255."""

    sun: np.ndarray
    ambient: np.ndarray
    haze: np.ndarray
    density: float
    """Share of haze a meter of air adds."""
    side: float
    """+1: the sun stands on the right, -1: on the left."""
    windows: float
    """Share of windows that are lit from inside."""

    def shade(self, albedo: Color, lit: float | np.ndarray, depth: float | np.ndarray) -> np.ndarray:
        """Return the seen color (..., 3) of surfaces lit by a share `lit` of the sun, `depth` meters away."""
        lit_, air = np.asarray(lit)[..., None], 1 - np.exp(-self.density * np.asarray(depth))[..., None]
        seen = np.asarray(albedo, np.float64) * (self.ambient + lit_ * self.sun)
        return np.clip(seen + air * (self.haze - seen), 0, 255)


@dataclass(frozen=True)
class Street:
    """The plan of a street, in meters."""

    road: float
    """Half the width of the road."""
    facades: dict[int, float]
    """How far from the middle houses stand on the left (-1) and on the right (+1)."""
    crossing: tuple[float, float]
    """Depths between which another road crosses; (0, 0) where none does."""
    zebra: float
    """Depth where a zebra crossing begins; 0 where there is none."""
    center_line: bool
    edge_lines: bool

    def crossed(self, z: float) -> bool:
        """Return whether a crossing road leaves no room for objects at depth z."""
        return self.crossing[0] - 1 <= z <= self.crossing[1] + 1


@lru_cache(maxsize=1)
def noise_tile(size: int = 512) -> np.ndarray:
    """Return fractal noise float32 (size, size), mean 0 and deviation 1, that repeats without seams."""
    white = np.random.default_rng(7).standard_normal((size, size))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(white) / frequency
    spectrum[0, 0] = 0.0
    tile = np.fft.irfft2(spectrum, (size, size))
    return (tile / tile.std()).astype(np.float32)


def noise(down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return the noise at any positions, in cells of the tile; the two arrays are broadcast."""
    tile = noise_tile()
    last = len(tile) - 1
    return tile[down.astype(np.int32) & last, across.astype(np.int32) & last]


class Canvas:
    """The photo and its label ids while a scene is drawn, far things first."""

    def __init__(self, photo: Image.Image, ids: Image.Image, camera: Camera, light: Light) -> None:
        self._photo, self._ids, self.camera, self.light = photo, ids, camera, light
        self._waiting: list[tuple[np.ndarray, np.ndarray, int | None]] = []

    def faces(self, corners: Corners, albedo: Color, lit: float | np.ndarray = 0.5, label: str | None = None) -> None:
        """Fill world polygons (N, K, 3), or one (K, 3), shaded by their distance; without a label the ids stay."""
        points = np.asarray(corners, np.float64)
        points = points[None] if points.ndim == 2 else points
        paint = np.empty((len(points), 4))
        paint[:, :3], paint[:, 3] = albedo, lit
        self._waiting.append((points, paint, IDS[label] if label else None))

    def paste(
        self, sprite: Image.Image, mask: Image.Image, box: tuple[float, float, float, float], depth: float, label: str
    ) -> None:
        """Lay a picture with a two-valued mask of equal size over the box (left, top, right, bottom) in pixels."""
        left, top, right, bottom = max(0, int(box[0])), max(0, int(box[1])), int(box[2]), int(box[3])
        size = (min(self.camera.width, right) - left, min(self.camera.height, bottom) - top)
        if min(size) <= 0:
            return
        self._flush()
        across, down = sprite.width / (box[2] - box[0]), sprite.height / (box[3] - box[1])
        part = (max(0.0, (left - box[0]) * across), max(0.0, (top - box[1]) * down))
        source = (*part, min(sprite.width, part[0] + size[0] * across), min(sprite.height, part[1] + size[1] * down))
        smooth = Image.Resampling.BILINEAR if across < 1 else Image.Resampling.NEAREST
        seen = sprite.resize(size, smooth, box=source)
        air = 1 - math.exp(-self.light.density * depth)
        if air > 0.05:
            haze = tuple(int(value) for value in self.light.haze)
            seen = Image.blend(seen, Image.new("RGB", size, haze), air)
        inside = mask.resize(size, Image.Resampling.NEAREST, box=source)
        self._photo.paste(seen, (left, top), inside)
        self._ids.paste(IDS[label], (left, top, left + size[0], top + size[1]), inside)

    def finish(self) -> tuple[Image.Image, Image.Image]:
        """Return the photo and the ids."""
        self._flush()
        return self._photo, self._ids

    def _flush(self) -> None:
        """Project and shade all that waits at once, which is what makes drawing fast, then fill it in order."""
        if not self._waiting:
            return
        points = np.concatenate([corners.reshape(-1, 3) for corners, _, _ in self._waiting])
        paints = np.concatenate([paint for _, paint, _ in self._waiting])
        groups = [(len(corners), corners.shape[1], label) for corners, _, label in self._waiting]
        self._waiting.clear()
        sizes = np.repeat([corners for _, corners, _ in groups], [count for count, _, _ in groups])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        depth = np.maximum(np.add.reduceat(points[:, 2], starts[:-1]) / sizes, NEAR)
        colors = self.light.shade(paints[:, :3], paints[:, 3], depth).astype(int).tolist()
        pixels = self.camera.project(points)
        low, high = (reduce.reduceat(pixels, starts[:-1]) for reduce in (np.minimum, np.maximum))
        inside = np.all((high > 0) & (low < (self.camera.width, self.camera.height)), axis=1).tolist()
        outlines, ends = pixels.ravel().tolist(), (2 * starts).tolist()
        labels = [label for count, _, label in groups for _ in range(count)]
        paint, mark = ImageDraw.Draw(self._photo).polygon, ImageDraw.Draw(self._ids).polygon
        for index, (label, seen) in enumerate(zip(labels, inside, strict=True)):
            if seen:
                outline = outlines[ends[index] : ends[index + 1]]
                paint(outline, fill=tuple(colors[index]))
                if label is not None:
                    mark(outline, fill=label)


def paint_sky(photo: np.ndarray, rng: np.random.Generator, camera: Camera, light: Light) -> None:
    """Fill `photo` (H, W, 3) with a sky that is paler towards the horizon, with clouds in perspective."""
    rows, columns = int(camera.horizon / 3) + 2, camera.width // 3 + 1  # it is smooth: a third of the pixels will do
    up = np.linspace(1, 0, rows, dtype=np.float32)[:, None]
    zenith = np.array((150, 158, 168) if light.sun[0] < SUNNY else (78, 130, 200), np.float32) * rng.uniform(0.9, 1.1)
    sky = light.haze + (zenith - light.haze) * (up**0.8)[..., None]
    flat = 1 / (up + 0.2)
    down = flat * 40 + rng.integers(512)
    across = (np.arange(columns) / columns - 0.5) * 60 * flat + rng.integers(512, 1024)
    cloud = np.clip(noise(down, across) * 0.45 + rng.uniform(-0.35, 0.35), 0, 0.9)[..., None]
    tone = light.haze * (1.04 + 0.04 * noise(down + 5, across + 4 * light.side)[..., None])
    small = Image.fromarray(np.clip(sky + cloud * (tone - sky), 0, 255).astype(np.uint8))
    small = small.filter(ImageFilter.GaussianBlur(camera.width / 500))
    photo[:] = light.haze
    photo[: rows * 3] = np.asarray(small.resize((camera.width, rows * 3), Image.Resampling.BILINEAR))[: len(photo)]


def paint_ground(
    photo: np.ndarray, ids: np.ndarray, rng: np.random.Generator, camera: Camera, street: Street, light: Light,
    shadows: list[np.ndarray],
) -> None:  # fmt: skip
    """Paint road, markings, kerbs and pavements below the horizon, with shadows (N, 3) on them; set their ids."""
    top = min(int(camera.horizon) + 1, camera.height - 1)
    z = camera.focal * camera.eye / (np.arange(top, camera.height, dtype=np.float32)[:, None] + 0.5 - camera.horizon)
    x = (np.arange(camera.width, dtype=np.float32)[None] + 0.5 - camera.center) * (z / camera.focal)
    x += camera.shift - camera.bend * z * z
    out = np.abs(x)
    crossing = (z > street.crossing[0]) & (z < street.crossing[1])
    on_road = (out < street.road) | crossing
    ids[top:] = np.where(on_road, IDS["road"], IDS["sidewalk"])

    grain, patch = (noise(z * a, (x + 200) * b) for a, b in ((40.0, 40.0), (13.0, 21.0)))
    pixel = 1.5 * z / camera.focal
    line = np.maximum(0.07, pixel)
    paint = (out < line) & (z - 8 * np.floor(z / 8) < 4.5) & street.center_line
    paint |= (np.abs(out - (street.road - 2.3)) < line * 0.8) & street.edge_lines
    paint &= ~crossing & (z < 70)
    if street.zebra:
        paint &= (z < street.zebra - 1) | (z > street.zebra + 4.5)
        bars = (x - 1.1 * np.floor(x / 1.1) < 0.55) & (out < street.road - 0.3)
        paint |= (z > street.zebra) & (z < street.zebra + 3.5) & bars
    asphalt = rng.uniform(82, 108) * (1 + 0.045 * grain + 0.07 * patch)
    asphalt *= 1 - 0.10 * np.exp(-(((out - street.road * 0.36) / 0.9) ** 2))  # where wheels have run
    asphalt *= np.where((out > street.road - 0.3) & ~crossing, np.float32(0.8), np.float32(1.0))
    asphalt = np.where(paint, 196 + 10 * grain, asphalt)
    tile = rng.uniform(0.5, 1.0)
    joint = np.maximum(0.03, pixel * 0.4)
    seams = (x - tile * np.floor(x / tile) < joint) | (z - tile * np.floor(z / tile) < joint)
    slabs = rng.uniform(158, 194) * (1 + 0.035 * grain + 0.045 * patch)
    slabs *= 1 - 0.25 * seams * np.clip(1.2 - z / 14, 0, 1)
    slabs = np.where(out < street.road + 0.22, 190 + 6 * grain, slabs)

    mask = Image.new("L", (camera.width, camera.height - top))
    for polygon in shadows:
        ImageDraw.Draw(mask).polygon((camera.project(polygon) - (0, top)).ravel().tolist(), fill=255)
    sunny = light.sun[0] > SUNNY
    soft = mask.filter(ImageFilter.BoxBlur(camera.width / (500 if sunny else 120)))
    lit = 1 - np.asarray(soft, np.float32) / 255
    gray = np.where(on_road, asphalt, slabs)
    air = 1 - np.exp(-light.density * z)
    slab_hue = ((1.10, 1.0, 0.88), (1.06, 1.0, 0.92))[rng.integers(2)]
    for channel, (road, slab) in enumerate(zip((0.98, 1.0, 1.03), slab_hue, strict=True)):
        ambient, sun, haze = (float(part[channel]) for part in (light.ambient, light.sun, light.haze))
        seen = gray * np.where(on_road, np.float32(road), np.float32(slab))
        seen *= (0.8 + 0.2 * lit if sunny else 0.5 + 0.5 * lit) * ambient + sun * lit
        photo[top:, :, channel] = np.clip(seen + air * (haze - seen), 0, 255)


TEXTURE = {"building": 0.022, "vegetation": 0.14, "sidewalk": 0.015, "person": 0.04, "car": 0.012, "pole": 0.02}


def develop(drawing: Image.Image, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn the drawing into a photo, uint8 (H, W, 3): texture, glow, vignette, white balance, blur, sensor noise."""
    width, height = drawing.size
    scale = width / 256
    glow = np.asarray(drawing.filter(ImageFilter.BoxBlur(6 * scale)), np.float32)
    strength = np.zeros(256, np.float32)
    for name, amount in TEXTURE.items():
        strength[IDS[name]] = amount
    down, across = np.arange(height)[:, None] + rng.integers(512), np.arange(width)[None] + rng.integers(512)
    grain = noise(down * 7, across * 7) + noise(down * 2 / scale, across * 2 / scale)
    photo = np.asarray(drawing, np.float32) * (1 + strength[ids] * grain)[..., None]
    photo = photo * 0.94 + glow * 0.08
    from_middle = np.linspace(-0.5, 0.5, height)[:, None] ** 2 + np.linspace(-0.5, 0.5, width)[None] ** 2
    photo *= (1 - rng.uniform(0.15, 0.4) * from_middle.astype(np.float32))[..., None]
    photo *= rng.normal(1, 0.02, 3).astype(np.float32)
    photo = 128 + (photo - 128) * rng.uniform(1.0, 1.18) + rng.uniform(-4, 10)
    sharp = Image.fromarray(np.clip(photo, 0, 255).astype(np.uint8))
    blurred = np.asarray(sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.45) * max(1, scale / 4))), np.float32)
    speckle = rng.standard_normal((height, width, 3), np.float32) * rng.uniform(1.5, 3.5)
    return np.clip(blurred + speckle, 0, 255).astype(np.uint8)
