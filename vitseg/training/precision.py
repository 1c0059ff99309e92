"""What a training computes in: chosen when a job begins, and kept in its folder; and deterministic sums."""

import os
from collections.abc import Callable

import torch

from vitseg import dist
from vitseg.checkpoint import checkpoint_keys
from vitseg.data.loader import Batch
from vitseg.precision import FILE, Measure, Name, Precision, autocast, choose, keep, kept, on_device
from vitseg.storage import open_store
from vitseg.training.job import Job
from vitseg.training.objectives.base import Objective


def job_precision(job: Job, world: dist.World, measure: Measure) -> Precision:
    """Return what a job computes in; every rank must call it, and all get the same.

    A job goes on as it began, on any machine and whatever a measurement would find there. One from before there was a
    choice goes on in what its device computes in by itself, a processor in float32.

    Raises:
        DataError: the job's record is damaged.
    """
    setting, folder = job.recipe.run.precision, open_store(job.folder)
    if setting != "auto":
        found = Precision(setting, "the recipe says so")
    elif name := _begun_in(job, world):
        found = on_device(Precision(name, "this job began with it"), world.device)
        # Should GPUs differ, all compute as those that lack bfloat16: gradients are scaled on all of them or on none.
        found = Precision("float16" if "float16" in dist.gather(found.name) else found.name, found.reason)
    else:
        found = choose(world.device, measure, deterministic=job.recipe.run.deterministic)
    if world.rank == 0:
        keep(folder, FILE, found)
    return found


def _begun_in(job: Job, world: dist.World) -> Name | None:
    """Return the precision in which a job has begun, as rank 0 finds it; None: it is new."""
    name: Name | None = None
    if world.rank == 0:
        if record := kept(open_store(job.folder), FILE):
            name = record.name
        elif checkpoint_keys(open_store(job.checkpoints)):
            name = "float32" if world.device.type != "cuda" else "bfloat16"
    return dist.gather(name)[0]


def training_pass(objective: Objective) -> Callable[[Name], None]:
    """Return a forward and a backward pass over one random image, as a step takes it, that leave the model as it is."""
    generator = torch.Generator().manual_seed(0)
    height, width = objective.manifest.image_size
    photos = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)
    labels = photos if objective.manifest.targets == "images" else photos.new_zeros(1, height, width)
    images, targets, *_ = objective.inputs(Batch(photos, labels, [""]), step=0, rows=[0])
    parameters = [parameter for parameter in objective.model.parameters() if parameter.requires_grad]

    def run(name: Name) -> None:
        inputs = objective.model_inputs(images, targets)
        with autocast(name, images.device):
            output = objective.model(*inputs)
        loss, _ = objective.loss(output, images, targets)
        torch.autograd.grad(loss, parameters, allow_unused=True)

    return run


def make_deterministic() -> None:
    """Add up sums in the same order each time, on GPUs too; torch refuses operations that can't.

    Call it before anything is computed.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # https://docs.nvidia.com/cuda/cublas: reproducibility
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
