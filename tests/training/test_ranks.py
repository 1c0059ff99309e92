"""What ranks compute together: the same gradients and the same confusion matrix, however many they are."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from tests.training.conftest import AUGMENT, small_recipe
from vitseg import dist
from vitseg.data.manifest import read_manifest
from vitseg.evaluation import evaluate_batches
from vitseg.training.objectives.segmentation import Segmentation
from vitseg.training.step import Learner
from vitseg.training.worker import batches_of

STARTED = multiprocessing.get_context("forkserver")
STARTED.set_forkserver_preload(["tests.training.test_ranks"])  # torch is imported once, not by each rank


def work(shards: str, folder: str, rank: int, world_size: int, parts: int, graphed: bool) -> None:
    """Be a rank: leave the gradient of the first step, in float64, and the confusion matrix.

    `graphed`: add up gradients as beside a CUDA graph, all at once after the backward pass, and not by DDP.
    """
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {dist.MEETING_FILE: f"{folder}/meeting", "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    world = dist.start()
    manifest = read_manifest(shards)
    batch = 9 if world_size == 3 else 8
    settings = [f"optimizer.accumulate={parts}", f"data.batch_size={batch}", "optimizer.clip_norm=0.0"]
    recipe = small_recipe(*settings, *AUGMENT)
    model = Segmentation.build_model(recipe, manifest).double()
    torch.nn.init.normal_(model.decoder.head.weight, std=0.1)  # or the untrained model says nearly nothing
    objective = Segmentation(model, recipe, manifest)
    data, validation = batches_of(shards, manifest, recipe, world)
    learner = Learner(objective, world)
    learner.optimizers = []  # so that the gradient stays
    learner.graphed = graphed
    if graphed and rank:
        torch.nn.init.zeros_(model.decoder.head.weight)  # ranks start from what rank 0 has
    learner.connect()
    learner.take_step(next(data.epoch(0)), step=0, learning_rate=0.0, time_used=0.0)
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    confusion = evaluate_batches(model, validation.epoch(0), objective.criterion).confusion
    torch.save((gradient, confusion), f"{folder}/rank-{rank}")
    dist.stop()
    os._exit(0)  # see the end of `vitseg.training.worker`


def answers(
    shards: str, folder: Path, world_size: int, parts: int, graphed: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what all ranks found, which must be the same."""
    folder.mkdir()
    ranks = [
        STARTED.Process(target=work, args=(shards, str(folder), rank, world_size, parts, graphed))
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    found = [torch.load(folder / f"rank-{rank}", weights_only=True) for rank in range(world_size)]
    for gradient, confusion in found[1:]:
        torch.testing.assert_close(gradient, found[0][0], rtol=0, atol=1e-12)
        assert torch.equal(confusion, found[0][1])
    return found[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_gradients_and_confusion_matrix_do_not_depend_on_ranks_and_parts(shards: str, tmp_path: Path) -> None:
    gradient, confusion = answers(shards, tmp_path / "1x1", 1, 1)
    assert gradient.abs().max() > 1e-3
    assert confusion.count_nonzero() > 20
    found = {}
    for world_size, parts in ((1, 2), (2, 1), (3, 1)):
        other, counted = found[world_size] = answers(shards, tmp_path / f"{world_size}x{parts}", world_size, parts)
        assert torch.equal(counted, confusion), world_size
        if world_size != 3:  # which can't share 8 images
            torch.testing.assert_close(other, gradient, rtol=0, atol=1e-6)
    # Beside a CUDA graph gradients are added up all at once: to the same bits, as halves and doubles are exact.
    assert torch.equal(answers(shards, tmp_path / "graphed", 2, 1, graphed=True)[0], found[2][0])
