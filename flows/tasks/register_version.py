"""Task: a trained bundle → evaluated, registered as a version, and loaded back as any user would."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from prefect import runtime, task
from prefect.artifacts import create_markdown_artifact

from flows.display.console import note, progress
from vitseg.data.loader import Batches
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.errors import AccessError, DataError, RegistryError
from vitseg.evaluation import evaluate_bundle
from vitseg.metrics.result import Evaluation
from vitseg.model.bundle import FILES, Bundle, load_bundle
from vitseg.precision import FILE as PRECISION
from vitseg.precision import Name, kept
from vitseg.registry import promotion, provenance, tracking, versions
from vitseg.registry.training_summary import draw_training, training_summary
from vitseg.storage import open_store
from vitseg.training.job import HISTORY, Job, finish_job
from vitseg.training.progress import chosen_row


@contextlib.contextmanager
def after_training() -> Iterator[None]:
    """Add to the registry's error that the training itself is done."""
    try:
        yield
    except (AccessError, RegistryError) as error:
        raise type(error)(f"{error}; the training is done: the same command goes on from there") from error


@task
@after_training()
def register(job: Job, name: str, seconds: float, world_size: int) -> dict[str, Any]:
    """Evaluate the trained bundle, register it, and check what the registry gives back."""
    manifest = read_manifest(job.shards)
    if manifest.fingerprint != job.fingerprint:
        raise DataError(f"{job.shards} changed while {job.folder} was trained: start `vitseg train` again")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "bundle")
        folder.mkdir()
        for file in FILES:
            (folder / file).write_bytes(open_store(job.folder).read(f"bundle/{file}"))
        bundle = load_bundle(folder)
        history = json.loads(open_store(job.folder).read(HISTORY))
        chosen = chosen_row(history)
        if chosen is not history[-1] or "stopped" in history[-1]:
            reasons = {"minutes": "time was up", "patience": "no epoch was better for a while"}
            reason = reasons.get(history[-1].get("stopped", ""), "trained")
            note(f"{reason} after epoch {history[-1]['epoch']}; the model is that of epoch {chosen['epoch']}")
        chose = kept(open_store(job.folder), PRECISION)
        precision: Name = chose.name if chose else "float32"  # as before there was a choice
        shown = Batches(job.shards, manifest, "val", batch_size=6, shuffle=False, drop_last=False)
        first = next(iter(shown.epoch(0)))
        with progress("evaluating", unit="images") as show:
            evaluation = evaluate_bundle(
                bundle, job.shards, "val", progress=show, manifest=manifest, precision=precision
            )
        pictures = draw_training(bundle, first, evaluation, history)
        for title, picture in pictures.items():
            tracking.log_picture(job.run_id, picture, f"pictures/{title}.png")
        tracking.log_values(job.run_id, evaluation.flat("final/"), step=len(history))
        page = training_summary(job.run_id, evaluation, bundle, manifest, job.recipe, len(history), job.recipe_digest)
        provenance.write_provenance(job.run_id, _record(job, manifest, bundle, world_size, precision))
        note("registering")
        version = versions.register(folder, name=name, run_id=job.run_id, tags=_tags(job, evaluation), description=page)
        _check_version(version, bundle, first.images, Path(temporary) / "cache")
    note(f"registered {version.uri}: {evaluation.headline}; loaded back and checked")
    create_markdown_artifact(page, key="version", description=version.uri)
    result = {
        "run_id": job.run_id,
        "model_uri": version.uri,
        "version": version.version,
        "metrics": {"miou": None, "pixel_accuracy": None, **evaluation.flat()},
        "epochs": history[-1]["epoch"],
        "best_epoch": chosen["epoch"],
        "stopped": history[-1].get("stopped"),
        "precision": precision,
        "seconds": round(seconds, 3),
    }
    finish_job(job, result)
    return result


def _record(job: Job, manifest: Manifest, bundle: Bundle, world_size: int, precision: Name) -> provenance.Provenance:
    seconds, attempts = tracking.run_age(job.run_id)
    return provenance.Provenance(
        shards=job.shards,
        recipe=job.recipe_digest,
        seed=job.recipe.run.seed,
        init=job.init,
        origin=job.origin,
        network_size=bundle.image_size,
        world_size=world_size,
        seconds=round(seconds, 1),
        attempts=attempts,
        precision=precision,
        flow_run=str(runtime.flow_run.ui_url if os.environ.get("PREFECT_API_URL") else runtime.flow_run.name),
        **provenance.data_fields(manifest),
        **provenance.environment_fields(),
    )


def _tags(job: Job, evaluation: Evaluation) -> dict[str, str]:
    metrics = evaluation.flat()
    shown = ("miou", "pixel_accuracy") if "miou" in metrics else ("psnr", "mean_absolute_error")
    return {
        **{name: f"{metrics[name]:.4f}" for name in shown},
        "data_fingerprint": job.fingerprint,
        "shards": job.shards,
        "recipe": job.recipe_digest,
        **({"license": job.origin.license or "unknown"} if job.origin.family else {}),
        "review": promotion.PENDING,
    }


def _check_version(version: versions.Version, bundle: Bundle, images: torch.Tensor, cache: Path) -> None:
    """Load the version as any user would, and refuse it if it does not predict the same."""
    returned = load_bundle(versions.fetch(version, cache))
    if not torch.equal(returned.segment(images), bundle.segment(images)):
        raise RegistryError(f"{version.uri} does not predict what the trained model predicts: don't use it")
