"""Logits of cells, the finer patches of a decoder, to logits of pixels, by a cubic kernel that nothing has learned.

Bilinear interpolation has kinks at the centers of cells, and there classes seldom change: changes gather halfway between,
which is where cells meet, and show the grid of cells. The cubic kernels of Mitchell and Netravali
(https://doi.org/10.1145/54852.378514) have none. Theirs is B = C = 1/3; with the values here, found by trying on trained
networks, classes change about as often at each of a cell's lines, and masks are as accurate.

Shapes: images of y×x cells, with a number of channels.
"""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

B, C = 0.5, 0.4
REACH = 2
"""A pixel is interpolated from cells whose centers are less than so many cells away, in each direction."""
_KEPT = 64  # weights for so many cells are computed once; for more, each time: little beside so many pixels


class CubicInterpolation(nn.Module):
    """Interpolate (images, channels, y, x), `channels_last`, to (images, channels, y·times, x·times); borders are repeated."""

    weights: Tensor

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.register_buffer("weights", cubic_weights(_KEPT, times), persistent=False)

    def forward(self, cells: Tensor) -> Tensor:
        """Return logits of pixels, `channels_last`; also with autocast, all is computed in the type of those of cells."""
        if self.times == 1:
            return cells
        images, channels, rows, columns = cells.shape
        padded = F.pad(cells, (REACH, REACH, REACH, REACH), mode="replicate").movedim(1, -1).flatten(2)
        with contextlib.nullcontext() if cells.is_meta else torch.autocast(cells.device.type, enabled=False):
            lines = torch.bmm(self._weights(rows).to(cells).expand(images, -1, -1), padded)
            lines = lines.view(images * rows * self.times, columns + 2 * REACH, channels)
            pixels = torch.bmm(self._weights(columns).to(cells).expand(lines.shape[0], -1, -1), lines)
        return pixels.view(images, rows * self.times, columns * self.times, channels).movedim(-1, 1)

    def _weights(self, count: int) -> Tensor:
        if not isinstance(count, int) or count > _KEPT:  # an export for any size has no numbers here yet
            return cubic_weights(count, self.times, self.weights.device)
        return self.weights if count == _KEPT else self.weights[: count * self.times, : count + 2 * REACH]


def cubic_weights(count: int, times: int, device: torch.device | str = "cpu") -> Tensor:
    """Return how much each of `count` cells in a line, and of two beyond either end, counts for each pixel in the line.

    The shape is (count·times, count + 4); weights of a pixel add up to 1.
    """
    place = (torch.arange(count * times, device=device) + 0.5) / times - 0.5
    distance = (torch.arange(-REACH, count + REACH, device=device) - place[:, None]).abs()
    near = ((12 - 9 * B - 6 * C) * distance**3 + (12 * B + 6 * C - 18) * distance**2 + 6 - 2 * B) / 6
    beyond = (-distance + 2).clamp(min=0)  # cubic too, and 0 from two cells on
    far = ((B + 6 * C) * beyond**3 - 6 * C * beyond**2) / 6
    return torch.where(distance < 1, near, far)
