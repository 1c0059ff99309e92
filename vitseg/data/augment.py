"""Random changes of photographs and their labels together, in training: scale and crop, and colors.

They act on a whole batch of tensors, on any device. The random numbers of a sample are a function of (seed, step, its row
in the *global* batch) alone: so a batch depends neither on the number of ranks nor on where a job was resumed. The
loader mirrors, while it decodes.

A pixel's center lies at half-integer coordinates, for photo and label alike: pixel i covers [i, i + 1). The label of
an output pixel is that of the source pixel in which its center falls, so labels are never blended.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

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
    drawn = np.stack([_draws(seed, step, row) for row in rows])
    draws = torch.from_numpy(drawn).to(images.device)
    pixels = images.float()
    if recipe.color:
        pixels = _jitter(images, 1 + recipe.color * (2 * draws[:, _BRIGHTNESS:_DRAWS] - 1))
    if moved:
        low, high = recipe.scale
        # As likely twice as large as half as large. One number at a time: a vectorized power may round otherwise at
        # the end of a batch than in its middle.
        scale = draws.new_tensor([low * (high / low) ** power for power in drawn[:, _SCALE].tolist()])
        if labels.ndim == 4:
            scale = scale.clamp(min=1)  # a target image has no value that is ignored
        seeks_rare = recipe.rare and labels.ndim == 3
        focus = _rare_pixels(labels, pixels_per_class, draws, recipe.rare) if seeks_rare else None
        y, x = _sources(scale, draws, focus, (images.shape[2], images.shape[3]))
        pixels = _resample(pixels, y, x)
        labels = _nearest(labels, y, x) if labels.ndim == 3 else _to_bytes(_resample(labels.float(), y, x))
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


def _rare_pixels(labels: Tensor, pixels_per_class: Sequence[int], draws: Tensor, share: float) -> Tensor:
    """Choose for some images a class that is there, the rarer the likelier, and one of its pixels: row and column (B, 2).

    They are -1 where the crop may lie anywhere: not chosen, or nothing labeled.
    """
    batch, _, width = labels.shape
    weights = torch.from_numpy(class_weights(pixels_per_class)).to(labels.device)
    flat = labels.flatten(1).long()
    first = 256 * torch.arange(batch, device=labels.device)[:, None]
    counts = torch.bincount((flat + first).flatten(), minlength=256 * batch).view(batch, 256)[:, : len(weights)]
    heights = (weights * (counts > 0)).cumsum(1)
    chosen = (draws[:, _CLASS, None] * heights[:, -1:] >= heights).sum(1, keepdim=True).clamp(max=len(weights) - 1)
    number = (draws[:, _PIXEL, None] * counts.gather(1, chosen)).long()  # 0 – n-1 of the n pixels of that class
    place = torch.searchsorted((flat == chosen).cumsum(1), number + 1)
    found = (draws[:, _RARE, None] < share) & (heights[:, -1:] > 0)
    return torch.cat([place // width, place % width], 1).where(found, -1)


def _sources(scale: Tensor, draws: Tensor, focus: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return from where each output row and column comes: source coordinates float64 (B, H) and (B, W).

    The crop, of `size` / scale source pixels, lies anywhere inside the image; if it is larger, the image lies anywhere
    inside the crop; if there is a pixel in focus, it is in.
    """
    axes = []
    for axis, (length, drawn) in enumerate(zip(size, (_Y, _X), strict=True)):
        crop = length / scale
        low, high = (length - crop).clamp(max=0), (length - crop).clamp(min=0)
        if focus is not None:
            pixel = focus[:, axis]
            # All of the pixel, so that an output pixel's center falls into it.
            low = torch.where(pixel < 0, low, torch.maximum(low, pixel + 1 - crop))
            high = torch.where(pixel < 0, high, torch.minimum(high, pixel.double()))
        start = low + draws[:, drawn] * (high - low)
        centers = torch.arange(length, dtype=torch.float64, device=scale.device) + 0.5
        axes.append(start[:, None] + centers / scale[:, None])
    return axes[0], axes[1]


def _resample(pixels: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Read images float32 (B, 3, H, W) at the grid of y (B, H) and x (B, W), bilinearly; their own mean where there are none.

    Where a photo does not fill its frame its label is 255, and its mean stays what it is without the frame. Down to a scale
    of a half every source pixel still counts.
    """
    height, width = pixels.shape[2:]
    across = (2 * x / width - 1).float()[:, None, :].expand(-1, height, -1)
    down = (2 * y / height - 1).float()[:, :, None].expand(-1, -1, width)
    read = F.grid_sample(pixels, torch.stack([across, down], dim=-1), padding_mode="border", align_corners=False)
    return read.where(_inside(y, x, (height, width))[:, None], _mean(pixels))


def _mean(pixels: Tensor) -> Tensor:
    """Return the mean of each image (B, 3, H, W), (B, 1, 1, 1): of whole numbers, so that it is exact in any batch."""
    total = pixels.round().to(torch.int64).sum(dim=(1, 2, 3), keepdim=True)
    return total.float() / pixels[0].numel()


def _nearest(labels: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Read train ids (B, H, W) at the grid of y (B, H) and x (B, W); 255 where there are none."""
    height, width = labels.shape[1:]
    image = torch.arange(len(labels), device=labels.device)[:, None, None]
    row, column = y.long().clamp(0, height - 1)[:, :, None], x.long().clamp(0, width - 1)[:, None, :]
    return labels[image, row, column].where(_inside(y, x, (height, width)), IGNORE_INDEX)


def _inside(y: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = ((at >= 0) & (at < length) for at, length in zip((y, x), size, strict=True))
    return rows[:, :, None] & columns[:, None, :]


def _to_bytes(pixels: Tensor) -> Tensor:
    return pixels.round().to(torch.uint8)
