"""What is decided before a training starts: whether data, recipe and ranks fit together."""

from vitseg.data.manifest import Manifest
from vitseg.errors import DataError, UsageError
from vitseg.model.patches import patch_grid
from vitseg.training.job import Job
from vitseg.training.objectives import OBJECTIVES


def check(job: Job, manifest: Manifest, world_size: int) -> None:
    """Refuse what can't be trained.

    Raises:
        DataError: the shards changed under the job, or a split is missing.
        UsageError: the data has no such targets, or the batch can't be shared out evenly.
    """
    batch_size, accumulate = job.recipe.data.batch_size, job.recipe.optimizer.accumulate
    if manifest.fingerprint != job.fingerprint:
        raise DataError(f"{job.shards} changed since the job was planned: start `vitseg train` again")
    for split in ("train", "val"):
        if split not in manifest.splits or not manifest.splits[split].samples:
            raise DataError(f"{job.shards} has no samples in split {split!r}: training needs both train and val")
    OBJECTIVES[job.task].check_data(job.shards, job.recipe, manifest)
    patch_grid(manifest.image_size, job.recipe.model.patch_size)
    samples, share = manifest.splits["train"].samples, world_size * accumulate
    if samples < batch_size:
        raise UsageError(
            f"data.batch_size = {batch_size}, but there are only {samples} training samples: "
            "--set data.batch_size=… lowers it"
        )
    if batch_size % share:
        raise UsageError(
            f"data.batch_size = {batch_size} can't be shared by {world_size} ranks × {accumulate} parts: "
            f"make it a multiple of {share}"
        )
