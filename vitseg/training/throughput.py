"""FLOP/s of a training, against what its devices reach at large matrix products, which they do best.

The share is the "model FLOP/s utilization" of https://arxiv.org/abs/2204.02311, appendix B: only the network's own FLOP
count. But it is a share of a rate measured where the job runs, not of a data sheet's.
"""

from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from vitseg import dist
from vitseg.model.masked_autoencoder import MaskedAutoencoder, visible_patches
from vitseg.model.summary import summarize
from vitseg.precision import autocast_type
from vitseg.recipe import Recipe

_FORWARD_AND_BACKWARD = 3
"""Times the forward pass: backward does each matrix product once for the weights, once for what comes before them."""
_SIDE = {"cpu": 1024, "cuda": 8192}
"""Of the square matrices: large enough that a larger one is no faster."""


@dataclass(frozen=True)
class Throughput:
    """FLOP of an image in training, and FLOP/s of matrix products on the devices of all ranks together."""

    flops_per_image: int
    matrix_rate: float

    def limits(self) -> dict[str, float]:
        """Return `matrix_tflops`, the rate of matrix products, 10¹² FLOP/s, and `gflop_per_image`, 10⁹ FLOP."""
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


def matrix_rate(device: torch.device, precision: str = "auto", seconds: float = 0.3) -> float:
    """Return the median FLOP/s of large matrix products in a recipe's `run.precision`.

    Random numbers come from a generator of its own: those of a training that goes on must not depend on it.
    """
    side, dtype = _SIDE[device.type], autocast_type(precision, device)
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator, device=device, dtype=dtype) for _ in range(2))
    product = {"torch": torch, "left": left, "right": right, "out": torch.empty_like(left)}
    timer = Timer("torch.mm(left, right, out=out)", globals=product, num_threads=torch.get_num_threads())
    return 2 * side**3 / timer.blocked_autorange(min_run_time=seconds).median


def training_flops(recipe: Recipe, image_size: tuple[int, int], classes: int, *, features: bool = False) -> int:
    """Return the FLOP of one image (H, W) in a training step of a segmenter with so many classes.

    What does not learn has no backward pass, and with `features` that are kept no forward pass either.
    """
    summary = summarize(recipe.model, image_size, classes)
    learning = _FORWARD_AND_BACKWARD * (summary.flops_per_image - summary.frozen_flops)
    return learning + (0 if features else summary.frozen_flops)


def masked_flops(recipe: Recipe, image_size: tuple[int, int]) -> int:
    """Return the FLOP of one photograph (H, W) in a step of pretraining; the encoder sees only visible patches."""
    with torch.device("meta"):
        model = MaskedAutoencoder(recipe.model, image_size, recipe.masked).eval()
        photo = torch.empty(1, 3, *image_size)
    seen = visible_patches([""], model.patches, recipe.masked.ratio, seed=0, step=0).to("meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(photo, seen)
    return _FORWARD_AND_BACKWARD * counter.get_total_flops()
