import pytest
import torch
from torch.nn import functional as F

from vitseg.model.cubic_interpolation import _KEPT, B, C, CubicInterpolation, cubic_weights


def kernel(distance: float) -> float:
    """Equation 8 of the paper."""
    x = abs(distance)
    if x < 1:
        return ((12 - 9 * B - 6 * C) * x**3 + (-18 + 12 * B + 6 * C) * x**2 + (6 - 2 * B)) / 6
    return (
        ((-B - 6 * C) * x**3 + (6 * B + 30 * C) * x**2 + (-12 * B - 48 * C) * x + 8 * B + 24 * C) / 6 if x < 2 else 0.0
    )


@pytest.mark.parametrize("times", [2, 4, 7])
def test_pixels_are_weighted_by_the_kernel_of_the_paper(times):
    expected = [[kernel(cell - ((pixel + 0.5) / times - 0.5)) for cell in range(-2, 7)] for pixel in range(5 * times)]
    assert torch.allclose(cubic_weights(5, times), torch.tensor(expected), atol=1e-6)
    assert torch.allclose(cubic_weights(5, times).sum(1), torch.ones(1), atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (5, 2), (3, _KEPT + 1)])
def test_each_direction_is_interpolated_alike_at_any_size(rows, columns):
    cells = torch.rand(2, 3, rows, columns).contiguous(memory_format=torch.channels_last)
    padded = F.pad(cells, (2, 2, 2, 2), mode="replicate")
    expected = torch.einsum("py,qx,bcyx->bcpq", cubic_weights(rows, 4), cubic_weights(columns, 4), padded)
    made = CubicInterpolation(4)(cells)
    assert torch.allclose(made, expected, atol=1e-5)
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_a_cell_of_one_pixel_stays_as_it_is():
    cells = torch.rand(1, 3, 4, 5)
    assert torch.equal(CubicInterpolation(1)(cells), cells)


def test_logits_stay_exact_in_bfloat16():
    cells = torch.rand(1, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        made = CubicInterpolation(2)(cells)
    assert made.dtype is torch.float32
    assert torch.equal(made, CubicInterpolation(2)(cells))


def line_shares(pixels: torch.Tensor) -> torch.Tensor:
    """Return how often the sign changes after each of a cell's four lines, over the mean of all."""
    share = (pixels.sign().diff(dim=-1) != 0).double().mean((0, 1, 2))
    return torch.stack([share[line::4].mean() for line in range(4)]) / share.mean()


def test_classes_change_at_each_line_of_a_cell_about_as_often():
    """Bilinear interpolation makes them gather where cells meet, away from the centers of cells."""
    noise = torch.randn(1, 1, 220, 220, generator=torch.Generator().manual_seed(0))
    smooth = F.avg_pool2d(noise, 9, stride=1)
    cells = (smooth / smooth.std()).tanh()  # surer of two classes away from where they meet
    assert line_shares(F.interpolate(cells, scale_factor=4, mode="bilinear")).min() < 0.75
    shares = line_shares(CubicInterpolation(4)(cells))
    assert shares.min() > 0.9
    assert shares.max() < 1.1
