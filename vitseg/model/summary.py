"""Layers, parameters and FLOPs of a network, measured on torch's meta device: without memory or computation."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vitseg.architecture import Architecture
from vitseg.model.segmenter import Segmenter

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Row:
    """One module with parameters of its own."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    """For one image."""
    parameters: int
    """Its own, without those of modules inside it, so the rows add up to the network's."""


@dataclass(frozen=True)
class Summary:
    """A network in numbers."""

    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    flops_per_image: int
    """Floating point operations of a forward pass; a multiplication and an addition are two."""
    frozen_flops: int
    """Those of what does not learn, before the first block that does."""
    tokens: int
    convolutions: int
    """Number of convolution modules of any kind; 0 by design."""


def summarize(arch: Architecture, image_size: tuple[int, int], classes: int) -> Summary:
    """Return the numbers of an architecture's network for images of (H, W) pixels.

    Raises:
        UsageError: see `Segmenter`.
    """
    with torch.device("meta"):
        model = Segmenter(arch, image_size, classes).eval().to("meta")
        image = torch.empty(1, 3, *image_size)
        # With targets, the spiral decoder computes all patches in one pass instead of N: nearly the same FLOPs.
        targets = [torch.empty(1, model.channels, *image_size)] if model.teacher_forcing else []
    rows: list[Row] = []
    for name, module in model.named_modules():
        if own := sum(parameter.numel() for parameter in module.parameters(recurse=False)):
            module.register_forward_hook(partial(_record, rows, name, own))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(image, *targets)
    parameters = list(model.parameters())
    return Summary(
        rows=tuple(rows),
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        flops_per_image=counter.get_total_flops(),
        frozen_flops=_frozen_flops(model, counter),
        tokens=model.grid[0] * model.grid[1],
        convolutions=count_convolutions(model),
    )


def _frozen_flops(model: Segmenter, counter: FlopCounterMode) -> int:
    if model.encoder.learning is None:
        return 0
    counts = {name: sum(each.values()) for name, each in counter.get_flop_counts().items()}
    encoder, learning = f"{type(model).__name__}.encoder", set(model.encoder.learning)
    blocks = [f"{encoder}.blocks.{number}" for number, block in enumerate(model.encoder.blocks) if block in learning]
    return counts[encoder] - sum(counts[block] for block in blocks)


def count_convolutions(model: nn.Module) -> int:
    """Return the number of convolution modules in a network, including transposed and lazy ones."""
    return sum(isinstance(module, _CONVOLUTIONS) for module in model.modules())


def _record(rows: list[Row], name: str, own: int, module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
    rows.append(Row(name, type(module).__name__, tuple(output.shape[1:]), own))
