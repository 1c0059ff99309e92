"""Runs on the tracking server: created by the flow, filled by rank 0 and by the flow's later steps.

The server's address and credentials come from the environment (MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME,
MLFLOW_TRACKING_PASSWORD), as for every MLflow tool.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import mlflow
import requests
from mlflow import MlflowClient, get_tracking_uri
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException, RestException
from PIL import Image

from vitseg.errors import AccessError, NotFoundError, RegistryError
from vitseg.home import home
from vitseg.storage import without_secrets

EXPERIMENT = "vitseg"
ATTEMPTS = "vitseg.attempts"
MAX_TEXT_BYTES = 2**20
os.environ.setdefault(
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5"
)  # a minute for a server that restarts; MLflow's own is four
_REFUSED = re.compile(r"error code 40[13]\b|^40[13] Client Error")  # no bare number: ids and ports hold it too


@contextlib.contextmanager
def registry_errors(doing: str) -> Iterator[None]:
    """Turn the exceptions of MLflow, and of HTTP beneath its artifacts, into one clear line.

    Raises:
        NotFoundError: the server says that there is no such run, model or version.
        AccessError: it refuses.
        RegistryError: it can't be reached, or anything else failed.
    """
    try:
        yield
    except (MlflowException, requests.RequestException) as raised:
        # MLflow says of a copy that was refused only that it failed: why stands beneath.
        error = raised.__cause__ if isinstance(raised.__cause__, RestException) else raised
        text = str(error).strip().split("\n")[0]
        code = getattr(error, "error_code", "")
        server = without_secrets(os.environ.get("MLFLOW_TRACKING_URI", "MLflow"))
        if code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFoundError(f"{doing} failed: {text}") from error
        if isinstance(error, RestException) and code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
            raise AccessError(f"{server} refuses: {doing} ({text})") from error
        refused = _REFUSED.search(text)
        if refused and "403" in refused[0]:
            raise AccessError(f"{server} refuses: {doing}: this user may not") from error
        if refused:
            raise AccessError(
                f"{server} refuses these credentials: check MLFLOW_TRACKING_USERNAME and _PASSWORD"
            ) from error
        if "Max retries exceeded" in text or "Connection" in text:
            raise RegistryError(f"no tracking server answers at {server}: start it with `vitseg stack up`") from error
        raise RegistryError(f"{doing} failed: {text}") from error


def start_run(name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """Create a run in the experiment `vitseg` and return its id."""
    with registry_errors("creating a run"):
        client = MlflowClient()
        run_id = client.create_run(make_experiment(client), run_name=name, tags=dict(tags)).info.run_id
        client.log_batch(run_id, params=[Param(key, str(value)[:6000]) for key, value in params.items()])
    return run_id


def make_experiment(client: MlflowClient) -> str:
    """Return the id of the experiment `vitseg`, which is made where there is none."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        # A server knows where artifacts go; a bare database would put them wherever the command was started.
        place = (home() / "mlflow" / "artifacts").as_uri() if get_tracking_uri().startswith("sqlite:") else None
        tags = {"mlflow.experimentKind": "custom_model_development"}
        with contextlib.suppress(MlflowException):  # another job was first
            client.create_experiment(EXPERIMENT, artifact_location=place, tags=tags)
        experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise RegistryError(f"experiment {EXPERIMENT!r} can't be made: it may have been deleted; restore it in MLflow")
    return str(experiment.experiment_id)


def run_exists(run_id: str) -> bool:
    """Say whether this server knows the run: a job may have been started against another one."""
    try:
        with registry_errors("reading a run"):
            return MlflowClient().get_run(run_id).info.lifecycle_stage == "active"
    except NotFoundError:
        return False


def run_tags(run_id: str) -> dict[str, str]:
    """Return the tags of a run.

    Raises:
        NotFoundError: this server does not know it.
    """
    with registry_errors(f"reading run {run_id}"):
        return dict(MlflowClient().get_run(run_id).data.tags)


def end_run(run_id: str, status: str = "FINISHED") -> None:
    """Mark a run as FINISHED or FAILED."""
    with registry_errors("ending a run"):
        MlflowClient().set_terminated(run_id, status)


def resume_run(run_id: str) -> None:
    """Mark a run as RUNNING, and count how often it was."""
    with registry_errors("resuming a run"):
        client = MlflowClient()
        client.update_run(run_id, status="RUNNING")
        attempts = int(client.get_run(run_id).data.tags.get(ATTEMPTS, "0"))
        client.set_tag(run_id, ATTEMPTS, str(attempts + 1))


def run_age(run_id: str) -> tuple[float, int]:
    """Return the seconds since a run was created, and how often it was started."""
    with registry_errors("reading a run"):
        run = MlflowClient().get_run(run_id)
    return time.time() - run.info.start_time / 1000, int(run.data.tags.get(ATTEMPTS, "1"))


def log_values(run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Log final metrics at once."""
    with registry_errors("logging metrics"):
        MlflowClient().log_batch(run_id, metrics=metrics_of(metrics, step))


def log_text(run_id: str, text: str, name: str) -> None:
    """Store a text as an artifact of the run."""
    with registry_errors("storing a text"):
        MlflowClient().log_text(run_id, text, name)


def read_text(run_id: str, name: str) -> str:
    """Return a text that is an artifact of the run.

    Raises:
        NotFoundError: the run has none of this name.
    """
    with registry_errors(f"reading {name} of run {run_id}"):
        folder = name.rpartition("/")[0] or None
        found = next((file for file in MlflowClient().list_artifacts(run_id, folder) if file.path == name), None)
        if found is None:
            raise NotFoundError(f"run {run_id} has no {name}")
        if (found.file_size or 0) > MAX_TEXT_BYTES:
            raise RegistryError(f"{name} of run {run_id} has {found.file_size} bytes: that is none of ours")
        return mlflow.artifacts.load_text(f"runs:/{run_id}/{name}")


def log_picture(run_id: str, picture: Image.Image, name: str) -> None:
    """Store a picture as an artifact of the run, under a name such as `panels/epoch-0003.png`."""
    with registry_errors("storing a picture"):
        MlflowClient().log_image(run_id, picture, artifact_file=name)


def metrics_of(values: Mapping[str, float], step: int) -> list[Metric]:
    """Return values as metrics of a step, logged now."""
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in values.items()]
