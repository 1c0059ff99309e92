"""The features of an encoder that does not learn: computed once, by all ranks together, before training begins.

A step of training is then one of the decoder alone. `vitseg.data.features` says how they are kept.
"""

import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from vitseg import dist
from vitseg.checkpoint import SCRATCH
from vitseg.data.features import MIRRORED, PHOTOS, Features
from vitseg.data.loader import Batches
from vitseg.data.manifest import Manifest, ShardInfo
from vitseg.data.shard_cache import limit_bytes
from vitseg.device_copy import to_device
from vitseg.errors import DataError, StoreFullError, UsageError
from vitseg.images.resize import resize_planes
from vitseg.model.segmenter import Segmenter
from vitseg.precision import autocast
from vitseg.recipe import RunRecipe
from vitseg.training.job import Job
from vitseg.training.objectives.base import Objective
from vitseg.training.objectives.segmentation import Segmentation
from vitseg.training.rank_reports import emit

_BATCH = 16
_POLL_S = 1.0
_REPORT_S = 15.0
_OF_DECODER = (
    "features_per_patch", "decoder_projection", "decoder_mlp_units", "decoder", "fine_patch", "fine_width", "fine_blocks",
    "spiral_blocks", "target", "dropout", "stochastic_depth", "encoder",
)  # fmt: skip
"""Keys of an architecture on which features do not depend."""


def kept_features(
    job: Job, objective: Objective, manifest: Manifest, world: dist.World, alive: Callable[[], None]
) -> Features | None:
    """Return the features of all photographs, computed where they are not there yet; every rank must call it.

    None: the encoder learns, or what it sees changes from step to step. `alive` is called after each batch.

    Raises:
        RankLostError: the ranks hold different encoders.
        UsageError: they would take more room than `VITSEG_CACHE_GB`.
        StoreFullError, AccessError, StorageError: they can't be written.
    """
    if not isinstance(objective, Segmentation) or objective.recipe.model.encoder != "frozen":
        return None
    say = (lambda text: emit("note", text=text)) if world.rank == 0 else lambda text: None
    if not objective.keeps_features:
        say(
            "features are computed in each step, for augment.scale and augment.color change what the encoder sees: "
            "--set augment.scale=[1.0,1.0] --set augment.color=0 has them computed once"
        )
        return None
    model = objective.model
    shape = (model.grid[0] * model.grid[1], model.encoder.width)
    digest = encoder_digest(model, job.recipe.run)
    # Else each rank would wait for files that the others never write.
    dist.check_equal(int(digest[:4], 16), "the weights of the frozen encoder")
    features = Features(job.shards, digest, shape)
    views = {"train": (PHOTOS, MIRRORED) if objective.recipe.data.flip else (PHOTOS,), "val": (PHOTOS,)}
    wanted = [(split, shard) for split in views for shard in manifest.splits[split].shards]

    def missing(split: str, shard: ShardInfo) -> list[str]:
        return features.missing(shard, views[split])

    left = [(split, shard) for split, shard in wanted if missing(split, shard)]
    images = {split: manifest.splits[split].samples for split in views}
    size = features.bytes(sum(len(views[split]) * count for split, count in images.items()))
    both = " and their mirror images" if MIRRORED in views["train"] else ""
    what = f"features of {images['train']} training photographs{both} and {images['val']} of validation, {_size(size)}"
    if not left:
        say(f"{what}: found in {features.folder}")
        return features
    if size > limit_bytes():
        raise UsageError(
            f"{what}, would be more than VITSEG_CACHE_GB={limit_bytes() / 1e9:g}: raise it, or take "
            "fewer depths: --set model.depths=1"
        )
    say(f"{what}: computed once, and kept in {features.folder}")
    start = last = time.monotonic()
    share = [which for which in wanted[world.rank :: world.world_size] if missing(*which)]
    todo = sum(shard.samples for _, shard in share)
    done = 0
    for split, shard in share:
        for count in _compute(features, objective, job.shards, manifest, split, shard, missing(split, shard)):
            done += count
            alive()
            if time.monotonic() > last + _REPORT_S:
                last = time.monotonic()
                say(f"features: {done / todo:.0%}, {(last - start) * (todo / done - 1):.0f} s left")
    features.find()
    while any(missing(*which) for which in wanted):  # of which other ranks have the rest
        alive()
        time.sleep(_POLL_S)
        features.find()
    say(f"features computed in {time.monotonic() - start:.1f} s")
    return features


def encoder_digest(model: Segmenter, run: RunRecipe) -> str:
    """Return 16 hex digits that change with whatever changes the tokens of a photograph.

    Of the precision, what the recipe says counts: jobs that leave it to a measurement share features, however it ended.
    """
    numbers = {key: value for key, value in dataclasses.asdict(model.architecture).items() if key not in _OF_DECODER}
    values = [numbers, model.image_size, run.precision, run.deterministic]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    weights = {**model.encoder.state_dict(), "mean": model.mean, "std": model.std}
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _compute(
    features: Features, objective: Segmentation, shards: str, manifest: Manifest, split: str, shard: ShardInfo,
    views: list[str],
) -> Iterator[int]:  # fmt: skip
    """Compute and write the features of a shard; yield the number of photographs after each batch.

    Batches are those of the shard alone, so that a token's last bits do not depend on who computes it.
    """
    part = replace(manifest.splits[split], samples=shard.samples, shards=(shard,))
    alone = replace(manifest, splits={split: part})
    batches = Batches(shards, alone, split, batch_size=_BATCH, shuffle=False, drop_last=False)
    scratch = os.environ.get(SCRATCH)  # the launcher clears it: a rank that is killed can't
    with tempfile.TemporaryDirectory(prefix="vitseg-features-", dir=scratch) as folder, ExitStack() as stack:
        files = {view: stack.enter_context(Path(folder, view).open("wb")) for view in views}
        for batch in batches.epoch(0):
            for view, file in files.items():
                tokens = _encode(objective, batch.images.flip(-1) if view == MIRRORED else batch.images)
                try:
                    file.write(tokens.numpy().data)
                except OSError as error:
                    where = scratch or tempfile.gettempdir()
                    raise StoreFullError(
                        f"{where} has no room for features ({error}): set TMPDIR to a larger disk"
                    ) from error
            yield len(batch.images)
        for view, file in files.items():
            file.close()
            features.write(shard, view, Path(folder, view))


@torch.no_grad()
def _encode(objective: Segmentation, images: torch.Tensor) -> torch.Tensor:
    """Return the tokens float16 (B, N, E), on the processor, of photographs uint8 (B, 3, H, W) as training sees them."""
    model = objective.model
    assert not model.encoder.training, "drop path would be kept for ever"
    images = resize_planes(to_device(images, objective.device), model.image_size)
    with autocast(objective.recipe.run.precision, images.device):
        tokens = model.encode(images).half().cpu()
    if not tokens.isfinite().all():
        raise DataError(
            "the encoder's features are too large for float16: --set augment.color=0.01 computes them in each step"
        )
    return tokens.contiguous()


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
