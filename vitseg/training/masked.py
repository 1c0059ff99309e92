"""The other task: an encoder learns from photographs without labels, in the same loop (see `vitseg.model.masked_autoencoder`)."""

import json
from typing import Any

import torch
from torch import nn

from vitseg import dist
from vitseg.data.loader import Batch, Batches
from vitseg.data.manifest import Manifest
from vitseg.evaluation import Task
from vitseg.git_commit import code_commit
from vitseg.model.encoder_bundle import pack_encoder
from vitseg.model.masked_autoencoder import MaskedAutoencoder, build_masked, visible_patches
from vitseg.storage import join, open_store
from vitseg.training.job import Job
from vitseg.training.loop import Trainer
from vitseg.training.progress import Recorder, chosen_row
from vitseg.training.throughput import masked_flops, measure_throughput
from vitseg.training.watchdog import watched

VALIDATION = 2**32
"""No step of a training: validation always hides the same patches."""
_SHOWN = 6


class MaskedTrainer(Trainer):
    """The training loop with a masked autoencoder: what a batch is compared with are its own hidden patches."""

    @property
    def network(self) -> MaskedAutoencoder:
        """The model, as what it is."""
        assert isinstance(self.model, MaskedAutoencoder)
        return self.model

    def _inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        visible = self._visible(batch, self.finished)
        photos = Batch(batch.images, batch.images, batch.keys)  # labels, if any, must not matter: not for crops either
        return super()._inputs(photos)[0], visible.to(self.world.device)

    def _visible(self, batch: Batch, step: int) -> torch.Tensor:
        masked, seed = self.recipe.masked, self.recipe.run.seed
        return visible_patches(batch.keys, self.network.patches, masked.ratio, seed=seed, step=step)

    def _counts(self, truth: torch.Tensor) -> torch.Tensor:
        hidden = len(truth) * (self.network.patches - truth.shape[1])
        return torch.tensor([hidden, 0], dtype=torch.float64, device=truth.device)  # no pixel has a class

    def _loss(self, replica: nn.Module, images: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with self.autocast():
            drawn = replica(images, truth)
        return self.network.loss(drawn, images, truth), torch.zeros((), device=images.device)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        device = self.world.device
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        judged = self.judged.eval()
        for batch in self.validation.epoch(0):
            images, visible = batch.images.to(device), self._visible(batch, VALIDATION).to(device)
            loss = self.network.loss(judged(images, visible), images, visible)
            sums += torch.stack([loss.double(), self._counts(visible)[0]])
            self.alive()
        judged.train()
        loss_sum, hidden = dist.sum_over_ranks(sums).tolist()
        return {"val/loss": loss_sum / max(1, hidden)}


def pretrain_rank(job: Job, manifest: Manifest, world: dist.World, data: Batches, validation: Batches) -> None:
    """Train this rank's share of a pretraining, and leave the encoder in the job's folder."""
    recipe = job.recipe
    recorder = Recorder()
    try:
        with watched(recipe.run.hang_minutes) as alive:
            model = build_masked(recipe.model, manifest.image_size, recipe.masked, recipe.run.seed).to(world.device)
            task = Task("masked", 0, torch.zeros(256, 3, dtype=torch.uint8, device=world.device))
            throughput = measure_throughput(masked_flops(recipe, manifest.image_size), recipe.run.precision, world)
            if world.rank == 0:
                from vitseg.training.panels import MaskedRecorder  # imports MLflow: only rank 0 waits for that

                shown = Batches(job.shards, manifest, "val", batch_size=_SHOWN, shuffle=False, drop_last=False)
                first = next(iter(shown.epoch(0)))
                recorder = MaskedRecorder(job.run_id, job.folder, first, task, recipe, throughput)
            trainer = MaskedTrainer(
                recipe, world, model, task, data, validation, open_store(job.checkpoints), recorder, alive,
                max_minutes=job.max_minutes, commit=code_commit(),
            )  # fmt: skip
            history = trainer.run()
        trainer.choose()
        if world.rank == 0:
            _leave_encoder(job, model, history)
    finally:
        recorder.close()


def _leave_encoder(job: Job, model: MaskedAutoencoder, history: list[dict[str, Any]]) -> None:
    """Write history and encoder into the job's folder; config.json last, for it makes the encoder exist."""
    store = open_store(job.folder)
    store.write("history.json", json.dumps(history, indent=1).encode(), content_type="application/json")
    extra = {
        "epochs": len(history),
        "loss": chosen_row(history)["val/loss"],
        "fingerprint": job.fingerprint,
        "masked": job.recipe.to_json()["masked"],
        "run_id": job.run_id,
    }
    for name, content in pack_encoder(model.encoder_bundle(), extra).items():
        store.write(f"encoder/{name}", content)


def encoder_folder(job: Job) -> str:
    """Return where a pretraining leaves its encoder: an address for `--init`."""
    return join(job.folder, "encoder")
