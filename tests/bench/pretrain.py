"""What pretraining on one's own photographs is worth: `small` after masked pretraining on them, and from scratch.

Both see equally many labeled images. BENCH_SOURCE names a source of real photographs, BENCH_IMAGES how many
labeled images each sees (ten times the photographs or more: then they are augmented), BENCH_PRETRAIN how many the
pretraining sees, and BENCH_SEEDS how many seeds. By default: generated scenes, four passes and twenty.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.bench.measure import Figure, log
from tests.bench.networks import TrainerWithoutCheckpoints, train_network
from tests.bench.quality import shards_of
from vitseg import dist
from vitseg.config import load_recipe
from vitseg.data.manifest import read_manifest
from vitseg.storage import open_store
from vitseg.training.logger import TrainingLogger
from vitseg.training.objectives.masked_patches import MaskedPatches
from vitseg.training.worker import batches_of


class Progress(TrainingLogger):
    """Reports the progress of a pretraining."""

    def log_epoch(self, row: dict[str, float]) -> None:
        if "val/loss" in row:
            log(f"pretraining, epoch {row['epoch']}: loss {row['train/loss']:.4f}, validation {row['val/loss']:.4f}")


def figures(folder: Path) -> Iterator[Figure]:
    shards = shards_of(folder, os.environ.get("BENCH_SOURCE", ""))
    images, looked = int(os.environ.get("BENCH_IMAGES", "768")), int(os.environ.get("BENCH_PRETRAIN", "3840"))
    ratios = []
    for seed in range(seeds := int(os.environ.get("BENCH_SEEDS", "2"))):
        start = pretrain(shards, seed, looked)
        scores = []
        for name, init in (("small", None), ("small-pretrained", start)):
            train_network(shards, name, seed, images, folder, init=init)
            scores.append(json.loads((folder / f"{name}-{seed}.json").read_text())["final"]["miou"])
        log(f"seed {seed}: mIoU from scratch {scores[0]:.4f}, pretrained {scores[1]:.4f}")
        ratios.append(scores[1] / scores[0])
    yield Figure(
        "quality: validation mIoU of small after masked pretraining / from scratch, equal labeled images",
        round(statistics.median(ratios), 4), goal=1.0, better="higher", rounds=seeds,
    )  # fmt: skip


def pretrain(shards: str, seed: int, images: int) -> dict[str, torch.Tensor]:
    """Return the encoder that a masked autoencoder learned from about `images` training photographs."""
    manifest = read_manifest(shards)
    epochs = max(1, round(images / manifest.splits["train"].samples))
    settings = [f"run.epochs={epochs}", f"run.evaluate_epochs={-(-epochs // 8)}", f"run.seed={seed}"]
    recipe, world = load_recipe("small", overrides=settings), dist.start()
    model = MaskedPatches.build_model(recipe, manifest).to(world.device)
    data, validation = batches_of(shards, manifest, recipe, world)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as nothing:
        TrainerWithoutCheckpoints(
            MaskedPatches(model, recipe, manifest), world, data, validation, open_store(nothing), Progress()
        ).run()
    log(f"pretraining: {epochs} epochs in {(time.perf_counter() - started) / 60:.2f} min")
    return {name: tensor.cpu() for name, tensor in model.encoder_bundle().tensors.items()}
