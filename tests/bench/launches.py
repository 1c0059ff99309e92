"""Operations of a training step that a CPU dispatches: about what a GPU would launch, counted without one.

A foreach operation counts as one: on a GPU it is a few kernels.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.bench.measure import pack_scenes
from vitseg import dist
from vitseg.config import load_recipe
from vitseg.data.loader import Batches
from vitseg.model.segmenter import build_model
from vitseg.training.objectives.segmentation import Segmentation
from vitseg.training.step import Learner

GRAPH = 6
"""Launches of a replayed graph: three inputs are copied, seed and offset of the random numbers set; and the graph itself."""
_LAUNCH_NOTHING = ("empty", "_unsafe_view", "lift_fresh", "_local_scalar_dense")


class Dispatched(TorchDispatchMode):
    """Counts all operations, and those that compute something: neither views nor allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.launches = 0, 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation.namespace == "aten":
            self.all += 1
            views = operation.is_view or operation.overloadpacket.__name__.startswith(_LAUNCH_NOTHING)
            self.launches += not views
        return operation(*args, **(kwargs or {}))


def passes(preset: str, side: int = 256) -> int:
    """Return the operations of a forward and a backward pass, views included."""
    model = build_model(load_recipe(preset).model, (side, side), 19, 0)
    with Dispatched() as counted:
        model(torch.zeros(2, 3, side, side, dtype=torch.uint8)).sum().backward()
    return counted.all


def beside_the_graph(preset: str, folder: Path) -> int:
    """Return the launches of a step whose forward and backward pass are one graph."""
    shards, manifest = pack_scenes(folder, train=2, val=1, side=64)
    recipe = load_recipe(preset, overrides=["data.batch_size=2"])
    learner = Learner(
        Segmentation(Segmentation.build_model(recipe, manifest), recipe, manifest),
        dist.World(0, 1, torch.device("cpu")),
    )
    for group in learner.optimizers[0].param_groups:
        group["fused"] = True  # as on a GPU
    compute, inside = learner.compute_gradients, 0

    def gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
        nonlocal inside
        before = counted.launches
        outputs = compute(*inputs)
        inside += counted.launches - before
        return outputs

    learner.compute_gradients = gradients
    batch = next(Batches(shards, manifest, "train", batch_size=2).epoch(0))
    for step in range(2):  # the first one creates the optimizers' state
        inside = 0
        with Dispatched() as counted:
            learner.take_step(batch, step=step, learning_rate=1e-3, time_used=0.0)
    return counted.launches - inside + GRAPH
