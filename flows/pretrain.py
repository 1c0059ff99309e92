"""Flow: photographs without labels → shards → ranks that learn to fill in what is hidden → an encoder to start from."""

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from prefect import flow, runtime, task

from flows.display.console import note
from flows.preprocess import preprocess
from flows.tasks.plan_training import plan_training
from flows.tasks.register_version import after_training
from flows.tasks.run_training import fail_run_on_error, run_training
from vitseg.config import load_layers
from vitseg.data.manifest import MANIFEST
from vitseg.errors import UsageError
from vitseg.home import home
from vitseg.pictures.charts import learning_curves
from vitseg.recipes import Preset
from vitseg.registry import tracking
from vitseg.storage import canonical, open_store
from vitseg.training.job import HISTORY, MASKED, Job, finish_job
from vitseg.training.nodes import Nodes
from vitseg.training.progress import chosen_row
from vitseg.training.start import started_request
from vitseg.training.start_address import read_start


@flow(name="pretrain", flow_run_name="pretrain {preset} on {source}")
def pretrain(
    source: str,
    *,
    shards: str | None = None,
    preset: Preset = "tiny",
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    init: str = "",
    nproc: int | None = None,
    resume: bool = True,
) -> dict[str, Any]:
    """Train an encoder on photographs; an interrupted job goes on, a finished one is not done twice.

    Args:
        source: a folder or bucket of photographs, or a folder of shards; labels among them are ignored.
        shards: where the shards of photographs go; by default under VITSEG_HOME.
        preset: architecture and recipe; `paper` has another encoder.
        recipe: a TOML file laid over the preset.
        overrides: `section.key=value` laid over both.
        size: height and width of the samples, pixels; by default 256×256. Shards have a size already.
        init: weights to go on from, published ones for example; by default random ones.
        nproc: ranks; by default one a GPU, or 1.
        resume: go on with an unfinished job of the same data and recipe; False starts over.
    """
    source = canonical(source)
    resume = resume or (runtime.flow_run.run_count or 1) > 1  # its process was killed, and its server starts it again
    nodes = Nodes(nproc or max(1, torch.cuda.device_count()))
    layers = load_layers(preset, recipe, overrides)
    if init:  # so that a mistake is found now, not after all photographs were packed
        started_request(layers, read_start(init).encoder_only(), MASKED)
    place = prepare(source, shards and canonical(shards), size)
    job = plan_training(place, layers, nodes, name="pretrain", resume=resume, init=init, kind=MASKED)
    if job.result:
        note(f"nothing to do: {job.result['encoder']} is this recipe on these photographs already (--no-resume: again)")
        return dict(job.result)
    start = time.monotonic()
    with fail_run_on_error(job):
        run_training(job, nodes)
        return finish(job, time.monotonic() - start)


def prepare(source: str, shards: str | None, size: tuple[int, int] | None) -> str:
    """Return the address of shards: the source itself, or what becomes of its photographs.

    Raises:
        UsageError: the source is shards already, and options say how to make them.
    """
    if open_store(source).stat(MANIFEST):
        if shards or size:
            raise UsageError(f"{source} holds shards already: leave out --shards and --size")
        return source
    height, width = size or (256, 256)
    name = f"{hashlib.sha256(source.encode()).hexdigest()[:12]}-{width}x{height}"
    place = shards or str(home() / "shards" / "pretrain" / name)
    preprocess(source, place, layout="photos", size=(height, width))
    return place


@task
@after_training()
def finish(job: Job, seconds: float) -> dict[str, Any]:
    """Draw the curves, end the run, and say where the encoder is."""
    history = json.loads(open_store(job.folder).read(HISTORY))
    loss = chosen_row(history)["val/loss"]
    tracking.log_picture(job.run_id, learning_curves(history), "pictures/curves.png")
    tracking.log_values(job.run_id, {"final/loss": loss}, step=len(history))
    tracking.end_run(job.run_id)
    note(f"pretrained {job.encoder}: start from it with `vitseg train SHARDS --init runs:/{job.run_id}`")
    result = {
        "run_id": job.run_id,
        "encoder": job.encoder,
        "epochs": history[-1]["epoch"],
        "seconds": round(seconds, 3),
        "loss": loss,
    }
    finish_job(job, result)
    return result
