"""How much a training computes, against what its devices reach at the one thing they do best: large matrix products.

The share is the "model FLOP/s utilization" of https://arxiv.org/abs/2204.02311, appendix B: only what the network itself
asks for counts. But it is of a rate that was measured where the job runs, not of a data sheet's.
"""

import statistics
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitseg import dist
from vitseg.model.masked_autoencoder import MaskedAutoencoder, visible_patches
from vitseg.model.summary import summarize
from vitseg.recipe import Recipe
from vitseg.training.precision import autocast_type

_FORWARD_AND_BACKWARD = 3
"""Times the forward pass: backward does each matrix product once for the weights, once for what comes before them."""
_SECONDS = 0.3
_SIDE = {"cpu": 1024, "cuda": 8192}
"""Of the square matrices: large enough that a larger one is no faster."""


@dataclass(frozen=True)
class Throughput:
    """What an image costs in training, FLOP, and the matrix products of all ranks' devices together, FLOP/s."""

    flops_per_image: int
    matrix_rate: float

    def limits(self) -> dict[str, float]:
        """Return `matrix_tflops`, what the devices reach, 10¹² FLOP a second, and `gflop_per_image`, 10⁹ FLOP."""
        return {"matrix_tflops": self.matrix_rate / 1e12, "gflop_per_image": self.flops_per_image / 1e9}

    def values(self, images_per_second: float) -> dict[str, float]:
        """Return `tflops`, 10¹² FLOP a second, and `flops_utilization`, the share of the matrix products' rate."""
        rate = self.flops_per_image * images_per_second
        return {"tflops": rate / 1e12, "flops_utilization": rate / self.matrix_rate}


def measure_throughput(flops_per_image: int, precision: str, world: dist.World) -> Throughput:
    """Measure the devices of all ranks at the same time, for ranks on one CPU share its cores; every rank must call it."""
    dist.barrier()
    rate = torch.tensor([matrix_rate(world.device, precision)], dtype=torch.float64, device=world.device)
    return Throughput(flops_per_image, dist.sum_over_ranks(rate).item())


def matrix_rate(device: torch.device, precision: str = "auto", seconds: float = _SECONDS) -> float:
    """Return the median FLOP/s of large matrix products in a recipe's `run.precision`.

    Random numbers come from a generator of its own: those of a training that goes on must not depend on it.
    """
    side = _SIDE[device.type]
    dtype = autocast_type(precision, device)
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    rates = []
    end = None
    while end is None or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right, out=product)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rates.append(2 * side**3 / (time.perf_counter() - start))
        end = end or time.perf_counter() + seconds  # the first one loads the library, and doesn't count
    return statistics.median(rates[1:] or rates)


def training_flops(recipe: Recipe, image_size: tuple[int, int], classes: int) -> int:
    """Return the FLOP of one image (H, W) in a step of a segmenter with so many channels of classes."""
    return _FORWARD_AND_BACKWARD * summarize(recipe.model, image_size, classes).flops_per_image


def masked_flops(recipe: Recipe, image_size: tuple[int, int]) -> int:
    """Return the FLOP of one photograph (H, W) in a step of pretraining, whose encoder sees a part of it."""
    with torch.device("meta"):
        model = MaskedAutoencoder(recipe.model, image_size, recipe.masked).eval()
        photo = torch.empty(1, 3, *image_size)
    seen = visible_patches([""], model.patches, recipe.masked.ratio, seed=0, step=0).to("meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(photo, seen)
    return _FORWARD_AND_BACKWARD * counter.get_total_flops()
