"""Random changes of photographs and their labels together, in training: scale and crop, and colors.

They act on a whole batch of tensors, on any device. The random numbers of a sample are a function of (seed, step, its row
in the *global* batch) alone: so a batch depends neither on the number of ranks nor on where a job was resumed. The
loader mirrors, while it decodes.

A pixel's center lies at half-integer coordinates, for photo and label alike: pixel i covers [i, i + 1). The label of
an output pixel is that of the source pixel in which its center falls, so labels are never blended.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vitseg.device_copy import to_device
from vitseg.labels import IGNORE_INDEX
from vitseg.recipe import AugmentRecipe

_TEMPERATURE = 0.01
_STREAM = 3  # beside the streams of `order`, which are keyed by epoch
_SCALE, _Y, _X, _RARE, _CLASS, _PIXEL, _BRIGHTNESS, _CONTRAST, _SATURATION, _DRAWS = range(10)


def augment(
    images: Tensor,
    labels: Tensor,
    recipe: AugmentRecipe,
    pixels_per_class: Sequence[int],
    *,
    seed: int,
    step: int,
    rows: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Change a batch at random, but not its shapes, types and device; without augmentation return the same tensors.

    Args:
        images: photographs uint8 (B, 3, H, W).
        labels: train ids uint8 (B, H, W), or target images uint8 (B, 3, H, W), which are resampled as the photos are
            but keep their colors.
        recipe: what to change, and how much.
        pixels_per_class: labeled pixels of each class in the whole split: rare classes attract crops.
        seed: of the run.
        step: optimizer steps before this one.
        rows: of the global batch, one for each of these samples.
    """
    moved = recipe.scale != (1.0, 1.0)
    if not moved and not recipe.color:
        return images, labels
    draws = np.stack([_draws(seed, step, row) for row in rows])
    factors = 1 + recipe.color * (2 * draws[:, _BRIGHTNESS:_DRAWS] - 1)
    crops = _plan_crops(draws, recipe.scale, fills_frame=labels.ndim == 4, size=(images.shape[2], images.shape[3]))
    # What is known before anybody looks at the images goes to their device by a single copy.
    seeks_rare = recipe.rare and labels.ndim == 3
    attraction = class_weights(pixels_per_class) if seeks_rare else np.empty(0)
    drawn, factor, weights, *crop = _upload((draws, factors, attraction, *crops), images.device)
    pixels = _jitter(images, factor) if recipe.color else images.float()
    if moved:
        focus = _rare_pixels(labels, weights, drawn, recipe.rare) if seeks_rare else None
        source = _source(_Crops(*crop), drawn, focus, images.shape[2])
        pixels = _resample(pixels, source)
        labels = _nearest(labels, source) if labels.ndim == 3 else _to_bytes(_resample(labels.float(), source))
    return _to_bytes(pixels), labels


def class_weights(pixels_per_class: Sequence[int]) -> np.ndarray:
    """Return how much each class attracts crops: softmax((1 - f) / T) of its share f of pixels, float64 (K,), sum 1.

    Rare class sampling of DAFormer, with its T = 0.01 (https://arxiv.org/abs/2111.14887, section 3.3): below a
    hundredth of the pixels classes attract about equally, and the most frequent ones hardly at all.
    """
    pixels = np.asarray(pixels_per_class, np.float64)
    logits = -pixels / max(1.0, pixels.sum()) / _TEMPERATURE
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _draws(seed: int, step: int, row: int) -> np.ndarray:
    """Return the random numbers of one sample, float64 in [0, 1 - 2⁻³²]: raw PCG64, which never changes (see `order`)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(step, row, _STREAM))
    return (np.random.PCG64(sequence).random_raw(_DRAWS) >> np.uint64(32)) * 2.0**-32


class _Crops(NamedTuple):
    """Where crops may lie, float64, as far as labels have no say; row before column, or all rows before all columns.

    Each has its `sides` (B, 2) in source pixels, starts between `lowest` and `highest` (B, 2), and reads at `offsets`
    (B, H + W) from there, in an image with the sides `frame` (H + W,).
    """

    sides: Tensor
    lowest: Tensor
    highest: Tensor
    offsets: Tensor
    frame: Tensor


class _Source(NamedTuple):
    """From where each output row and column comes, source coordinates float64 (B, H + W), and where there are pixels.

    `grid` is (B, H, W, 2) as `F.grid_sample` takes it, `inside` bool (B, H, W).
    """

    places: Tensor
    grid: Tensor
    inside: Tensor


def _plan_crops(
    draws: np.ndarray, scales: tuple[float, float], *, fills_frame: bool, size: tuple[int, int]
) -> tuple[np.ndarray, ...]:
    """Scale images of `size` (H, W), and return the `_Crops` of that size.

    A crop, of `size` / scale source pixels, lies anywhere inside the image; if it is larger, the image lies anywhere inside
    the crop. That can't be where an image must fill its frame, as a target image: it has no value that is ignored.
    """
    low, high = scales
    # As likely twice as large as half as large. One number at a time: a vectorized power may round otherwise at
    # the end of a batch than in its middle.
    scale = np.array([[low * (high / low) ** power] for power in draws[:, _SCALE].tolist()])
    if fills_frame:
        scale = scale.clip(min=1)
    sides = 1 / scale * np.array(size)
    room = np.array(size) - sides
    centers = np.concatenate([np.arange(length) + 0.5 for length in size])
    frame = np.repeat(np.array(size, np.float64), size)
    return sides, room.clip(max=0), room.clip(min=0), centers / scale, frame


def _upload(tables: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Return tables float64 on a device, by a single copy."""
    flat = to_device(torch.from_numpy(np.concatenate([table.ravel() for table in tables])), device)
    parts = flat.split([table.size for table in tables])
    return [part.view(table.shape) for part, table in zip(parts, tables, strict=True)]


def _jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, then contrast, then saturation of uint8 (B, 3, H, W), by factors (B, 3); float32, 0–255."""
    brightness, contrast, saturation = factors.float()[:, :, None, None, None].unbind(1)
    # Sums of integers are exact: they can't depend on how many images lie side by side.
    means = images.sum(dim=(2, 3), keepdim=True, dtype=torch.int64).float() / (images.shape[2] * images.shape[3])
    pixels = (images.float() * brightness).clamp(0, 255)
    gray = _luma(means) * brightness
    pixels = (gray + (pixels - gray) * contrast).clamp(0, 255)
    gray = _luma(pixels)
    return (gray + (pixels - gray) * saturation).clamp(0, 255)


def _luma(pixels: Tensor) -> Tensor:
    """Return how bright pixels (B, 3, …) are to the eye, (B, 1, …): ITU-R BT.601, as in torchvision's ColorJitter."""
    red, green, blue = pixels.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _rare_pixels(labels: Tensor, weights: Tensor, draws: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Choose for some images a class that is there, the rarer the likelier, and one of its pixels.

    Return row and column (B, 2), and whether there is one (B, 1): not where none was to be chosen, or nothing is labeled.
    `weights` are those of the classes (K,).
    """
    batch, _, width = labels.shape
    flat = labels.flatten(1).long()
    # Not torch.bincount, which waits for a GPU to tell the largest id.
    counts = flat.new_zeros(batch, 256).scatter_add_(1, flat, flat.new_ones(1, 1).expand_as(flat))[:, : len(weights)]
    heights = (weights * (counts > 0)).cumsum(1)
    chosen = (draws[:, _CLASS, None] * heights[:, -1:] >= heights).sum(1, keepdim=True).clamp(max=len(weights) - 1)
    number = (draws[:, _PIXEL, None] * counts.gather(1, chosen)).long()  # 0 – n-1 of the n pixels of that class
    place = torch.searchsorted((flat == chosen).cumsum(1), number + 1)
    found = (draws[:, _RARE, None] < share) & (heights[:, -1:] > 0)
    return torch.cat([place // width, place % width], 1), found


def _source(crops: _Crops, draws: Tensor, focus: tuple[Tensor, Tensor] | None, height: int) -> _Source:
    """Place the crops; if there is a pixel in focus, it is in."""
    lowest, highest = crops.lowest, crops.highest
    if focus is not None:
        pixel, found = focus
        # All of the pixel, so that an output pixel's center falls into it.
        lowest = torch.where(found, torch.maximum(lowest, pixel + 1 - crops.sides), lowest)
        highest = torch.where(found, torch.minimum(highest, pixel), highest)
    start = lowest + draws[:, _Y : _X + 1] * (highest - lowest)
    width = len(crops.frame) - height
    places = torch.cat([start[:, :1].expand(-1, height), start[:, 1:].expand(-1, width)], 1) + crops.offsets
    across = (2 * places / crops.frame - 1).float()
    down, right = across[:, :height, None], across[:, None, height:]
    covered = (places >= 0) & (places < crops.frame)
    return _Source(
        places,
        torch.stack([right.expand(-1, height, -1), down.expand(-1, -1, width)], dim=-1),
        covered[:, :height, None] & covered[:, None, height:],
    )


def _resample(pixels: Tensor, source: _Source) -> Tensor:
    """Read images float32 (B, 3, H, W) bilinearly; their own mean where there are none.

    Where a photo does not fill its frame its label is 255, and its mean stays what it is without the frame. Down to a scale
    of a half every source pixel still counts.
    """
    read = F.grid_sample(pixels, source.grid, padding_mode="border", align_corners=False)
    return read.where(source.inside[:, None], _mean(pixels))


def _mean(pixels: Tensor) -> Tensor:
    """Return the mean of each image (B, 3, H, W), (B, 1, 1, 1): of whole numbers, so that it is exact in any batch."""
    total = pixels.round().to(torch.int64).sum(dim=(1, 2, 3), keepdim=True)
    return total.float() / pixels[0].numel()


def _nearest(labels: Tensor, source: _Source) -> Tensor:
    """Read train ids (B, H, W) at their nearest pixels; 255 where there are none."""
    height, width = labels.shape[1:]
    image = torch.arange(len(labels), device=labels.device)[:, None, None]
    place = source.places.long()
    row, column = place[:, :height, None].clamp(0, height - 1), place[:, None, height:].clamp(0, width - 1)
    return labels[image, row, column].where(source.inside, IGNORE_INDEX)


def _to_bytes(pixels: Tensor) -> Tensor:
    return pixels.round().to(torch.uint8)
