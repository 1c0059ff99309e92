"""The losses, as sums and counts of valid pixels.

Whoever adds them up, over ranks and over the parts of a batch, divides once, by the count of all: then the result
does not depend on how a batch was cut. Pixels labelled 255 count nowhere.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vitseg.labels import IGNORE_INDEX


def segmentation_loss(output: Tensor, labels: Tensor, palette: Tensor, target: str) -> tuple[Tensor, Tensor]:
    """Compare a network's output with train ids, in float32.

    Args:
        output: (B, K, H, W) logits for `classes`; (B, 3, H, W) colours in 0–1 for `rgb`.
        labels: train ids (B, H, W), 0 to K-1, or 255 = ignored.
        palette: colours of train ids, 0–255, at least (K, 3); used by `rgb` only.
        target: `classes`: cross-entropy; `rgb`: mean absolute error over the three channels, the paper's loss.

    Returns:
        The loss summed over valid pixels (float32), and their number (int64); (0, 0) where all are ignored.
    """
    valid = labels != IGNORE_INDEX
    if target == "classes":
        # One row a pixel: no copy where the output is channels_last, as the model's is.
        logits = output.float().movedim(1, -1).flatten(0, -2)
        total = F.cross_entropy(logits, labels.flatten().long(), ignore_index=IGNORE_INDEX, reduction="sum")
        return total, valid.sum()
    colors = palette.to(output.device, torch.float32) / 255
    wanted = colors[labels.long().where(valid, 0)].movedim(-1, 1)
    error = (output.float() - wanted).abs().mean(dim=1)
    return error.where(valid, 0).sum(), valid.sum()
