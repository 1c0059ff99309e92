"""The losses, as sums and counts.

The sum over all ranks and all parts of a batch is divided once, by the count of all. So neither the result nor its
gradient depends on how a batch was cut. Pixels labeled 255 count nowhere.

    loss of a batch = sum over pixels of weight · error  /  sum over pixels of weight

A pixel's weight is 1, or that of its true class. Label smoothing keeps this form, with the same count. A Dice loss is
no sum over pixels: Dice of a batch is not the mean of its parts' Dice. So here each image has its own, which counts as
often as the image has (weighted) pixels, and these terms add up like all others.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vitseg.labels import IGNORE_INDEX
from vitseg.recipe import LossRecipe

_PLAIN = LossRecipe()


def segmentation_loss(
    output: Tensor,
    labels: Tensor,
    palette: Tensor,
    target: str,
    recipe: LossRecipe = _PLAIN,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compare a network's output with its labels, in float32 (in float64 where the output is).

    Args:
        output: (B, K, H, W) logits for `classes`, or (B, 1, H, W), the one logit of a binary model: then the loss is
            binary cross-entropy, for class 1 counts as a logit of 0. (B, 3, H, W) colors in 0–1 for `rgb`.
        labels: train ids (B, H, W), 0 to K-1, or 255 = ignored; or, for `rgb` alone, images uint8 (B, 3, H, W).
        palette: colors of train ids, 0–255, at least (K, 3); used where `rgb` meets train ids.
        target: `classes`: cross-entropy; `rgb`: mean error over the three channels.
        recipe: the error of `rgb`; label smoothing and Dice for `classes`.
        weights: of the classes, (K,), for `classes`; None: 1 each.

    Returns:
        The loss summed over pixels, and what divides it: their number, int64, or the sum of their weights. (0, 0)
        where all are ignored.
    """
    output = output if output.dtype == torch.float64 else output.float()
    count = loss_count(labels, weights)
    if target == "classes":
        logits = class_logits(output)
        weights = None if weights is None else weights.to(logits)
        each = F.cross_entropy(
            # One row a pixel: no copy where the output is channels_last, as the model's is.
            logits.movedim(1, -1).flatten(0, -2),
            labels.flatten().long(),
            weight=weights,
            ignore_index=IGNORE_INDEX,
            label_smoothing=recipe.label_smoothing,
            reduction="none",  # with "sum", CUDA adds up millions of rows in a single block
        )
        total = each.sum()
        return (total + recipe.dice * _dice_loss(logits, labels, weights) if recipe.dice else total), count
    error = output - target_colors(labels, palette, output.dtype)
    error = (error.square() if recipe.rgb == "squared" else error.abs()).mean(dim=1)
    return error.where(valid_mask(labels), 0).sum(), count


def valid_mask(labels: Tensor) -> Tensor:
    """Return which pixels count, bool (B, H, W): those that are not 255; of images (B, 3, H, W) all."""
    return labels[:, 0] >= 0 if labels.ndim == 4 else labels != IGNORE_INDEX


def loss_count(labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return what divides the loss of these labels: the number of valid pixels, or the sum of their weights."""
    counts = valid_mask(labels) if weights is None else _pixel_weights(labels, weights.to(labels.device))
    return counts.sum()


def target_colors(labels: Tensor, palette: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return color images (B, 3, H, W) in 0–1 for train ids (B, H, W), 255 in the first color; images as they are."""
    if labels.ndim == 4:
        return labels.to(dtype) / 255
    colors = palette.to(labels.device, dtype) / 255
    return colors[labels.long().where(valid_mask(labels), 0)].movedim(-1, 1)


def class_logits(output: Tensor) -> Tensor:
    """Return one logit a class, (B, K, H, W): for the one logit z of a binary model z and 0, as σ(z) = softmax(z, 0)."""
    return output if output.shape[1] > 1 else torch.cat([output, torch.zeros_like(output)], dim=1)


def balanced_weights(pixels_per_class: Sequence[int]) -> Tensor:
    """Return a weight a class, float32 (K,): one over the root of its share of pixels, 1 in the mean of those present.

    A class without pixels weighs 0: nothing can be learned about it.
    """
    pixels = torch.tensor(pixels_per_class, dtype=torch.float64)
    weights = (pixels / pixels.sum().clamp(min=1)).rsqrt().where(pixels > 0, 0)
    return (weights * (pixels > 0).sum().clamp(min=1) / weights.sum().clamp(min=1e-12)).float()


def _pixel_weights(labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weight of each pixel's true class, (B, H, W); 0 where it is ignored."""
    valid = labels != IGNORE_INDEX
    return weights[labels.long().where(valid, 0)].where(valid, 0)


def _dice_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the sum over images of 1 - the mean soft Dice of the classes in its truth, times the image's count.

    Soft Dice of a class: 2 Σ p·t / (Σ p + Σ t) over the image's valid pixels, with probabilities p and truth t.
    """
    valid = labels != IGNORE_INDEX
    # One row a pixel, as the logits are in memory, and masks of bool: copies of this size are all that the loss costs.
    probabilities = logits.movedim(1, -1).flatten(1, 2).softmax(-1)  # (B, H·W, K)
    ids = torch.arange(logits.shape[1], dtype=labels.dtype, device=labels.device)
    truth = labels.flatten(1)[..., None] == ids
    sizes = truth.sum(1)  # (B, K)
    present = sizes > 0
    overlap = (probabilities * truth).sum(1)
    dice = 2 * overlap / ((probabilities * valid.flatten(1)[..., None]).sum(1) + sizes).where(present, 1)
    loss = 1 - dice.where(present, 0).sum(1) / present.sum(1).clamp(min=1)
    counts = valid.to(logits) if weights is None else _pixel_weights(labels, weights)
    return (loss * counts.sum((1, 2))).sum()
