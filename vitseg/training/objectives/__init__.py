"""Objectives: everything in which trainings differ. Only `objective_for` chooses one for a job.

base.py            the interface: inputs, loss, counts, validation, panels, export
segmentation.py    labels, as classes or as colors (`model.target`)
masked_patches.py  `vitseg pretrain`: photographs alone, whose hidden patches are filled in
"""

import torch

from vitseg.data.manifest import Manifest
from vitseg.training.initial_weights import load_initial
from vitseg.training.job import MASKED, SEGMENTATION, Job
from vitseg.training.objectives.base import Objective
from vitseg.training.objectives.masked_patches import MaskedPatches
from vitseg.training.objectives.segmentation import Segmentation

OBJECTIVES: dict[str, type[Objective]] = {SEGMENTATION: Segmentation, MASKED: MaskedPatches}
"""By the task in `job.json`."""


def objective_for(job: Job, manifest: Manifest, device: torch.device) -> Objective:
    """Return a job's objective, with its model on the device and the weights that it starts from."""
    kind = OBJECTIVES[job.task]
    model = kind.build_model(job.recipe, manifest)
    if job.init:
        load_initial(model, job.folder, job.init_sha256)  # every rank reads the same file
    return kind(model.to(device), job.recipe, manifest)
