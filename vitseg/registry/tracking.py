"""Runs on the tracking server: created by the flow, filled by rank 0 and by the flow's later steps.

The server's address and credentials come from the environment (MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME,
MLFLOW_TRACKING_PASSWORD), as for every MLflow tool.
"""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import mlflow
from mlflow import MlflowClient, get_tracking_uri
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from PIL import Image

from vitseg.errors import NotFoundError, RegistryError
from vitseg.home import home
from vitseg.registry.mlflow_request import mlflow_request

EXPERIMENT = "vitseg"
_ATTEMPTS = "vitseg.attempts"  # tag of a run: how often it was started
_MAX_TEXT_BYTES = 2**20
_MAX_PARAM = 6000  # characters that MLflow takes


def start_run(name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """Create a run in the experiment `vitseg` and return its id."""
    with mlflow_request("creating a run"):
        client = MlflowClient()
        run_id = client.create_run(ensure_experiment(client), run_name=name, tags=dict(tags)).info.run_id
        client.log_batch(run_id, params=[Param(key, str(value)[:_MAX_PARAM]) for key, value in params.items()])
    return run_id


def ensure_experiment(client: MlflowClient) -> str:
    """Return the id of the experiment `vitseg`; create it where it is missing."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        # A server knows where artifacts go; a bare database would put them wherever the command was started.
        place = (home() / "mlflow" / "artifacts").as_uri() if get_tracking_uri().startswith("sqlite:") else None
        tags = {"mlflow.experimentKind": "custom_model_development"}
        with contextlib.suppress(MlflowException):  # another job was first
            client.create_experiment(EXPERIMENT, artifact_location=place, tags=tags)
        experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise RegistryError(
            f"experiment {EXPERIMENT!r} can't be created: it may have been deleted; restore it in MLflow"
        )
    return str(experiment.experiment_id)


def run_exists(run_id: str) -> bool:
    """Return whether this server knows the run: a job may have been started with another server."""
    try:
        with mlflow_request("reading a run"):
            return MlflowClient().get_run(run_id).info.lifecycle_stage == "active"
    except NotFoundError:
        return False


def run_tags(run_id: str) -> dict[str, str]:
    """Return the tags of a run.

    Raises:
        NotFoundError: this server does not know the run.
    """
    with mlflow_request(f"reading run {run_id}"):
        return dict(MlflowClient().get_run(run_id).data.tags)


def end_run(run_id: str, status: str = "FINISHED") -> None:
    """Mark a run as FINISHED or FAILED."""
    with mlflow_request("ending a run"):
        MlflowClient().set_terminated(run_id, status)


def resume_run(run_id: str, tags: Mapping[str, str] | None = None) -> None:
    """Mark a run as RUNNING, count one more attempt, and set some tags."""
    with mlflow_request("resuming a run"):
        client = MlflowClient()
        client.update_run(run_id, status="RUNNING")
        attempts = int(client.get_run(run_id).data.tags.get(_ATTEMPTS, "0"))
        for key, value in {**(tags or {}), _ATTEMPTS: str(attempts + 1)}.items():
            client.set_tag(run_id, key, value)


def run_age(run_id: str) -> tuple[float, int]:
    """Return the seconds since a run was created, and the number of its attempts."""
    with mlflow_request("reading a run"):
        run = MlflowClient().get_run(run_id)
    return time.time() - run.info.start_time / 1000, int(run.data.tags.get(_ATTEMPTS, "1"))


def log_values(run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Log metrics of one step."""
    with mlflow_request("logging metrics"):
        MlflowClient().log_batch(run_id, metrics=to_metrics(metrics, step))


def log_text(run_id: str, text: str, name: str) -> None:
    """Store a text as an artifact of the run."""
    with mlflow_request("storing a text"):
        MlflowClient().log_text(run_id, text, name)


def read_text(run_id: str, name: str) -> str:
    """Return a text that is an artifact of the run.

    Raises:
        NotFoundError: the run has no artifact of this name.
        RegistryError: it is larger than any text that vitseg stores.
    """
    with mlflow_request(f"reading {name} of run {run_id}"):
        folder = name.rpartition("/")[0] or None
        found = next((file for file in MlflowClient().list_artifacts(run_id, folder) if file.path == name), None)
        if found is None:
            raise NotFoundError(f"run {run_id} has no {name}")
        if (found.file_size or 0) > _MAX_TEXT_BYTES:
            raise RegistryError(f"{name} of run {run_id} has {found.file_size} bytes: vitseg did not write it")
        return mlflow.artifacts.load_text(f"runs:/{run_id}/{name}")


def log_picture(run_id: str, picture: Image.Image, name: str) -> None:
    """Store a picture as an artifact of the run, under a name such as `panels/epoch-0003.png`."""
    with mlflow_request("storing a picture"):
        MlflowClient().log_image(run_id, picture, artifact_file=name)


def picture_link(run_id: str, name: str) -> str:
    """Return a picture's address for the description of a version on the same server."""
    return f"get-artifact?run_uuid={run_id}&path={name}"


def to_metrics(values: Mapping[str, float], step: int) -> list[Metric]:
    """Return values as MLflow's metrics of a step, with the time of now."""
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in values.items()]
