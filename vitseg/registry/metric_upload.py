"""A training's metrics, uploaded in the background: the tracking server may be slow, or away for minutes or for good.

Training never waits for the server. Metrics that are still waiting are part of each checkpoint, so a rank that is killed
loses none; metrics that are still waiting at the end are kept as lines of JSON in the job's folder.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric
from PIL import Image

from vitseg.errors import DataError, NotFoundError
from vitseg.registry.mlflow_request import mlflow_request
from vitseg.registry.tracking import log_picture, resume_run, to_metrics
from vitseg.storage import open_store

log = logging.getLogger(__name__)

UNDELIVERED = "metrics-undelivered.jsonl"
CLOSE_SECONDS = 20.0
"""How long the end of a training waits for the tracking server."""
_FLUSH_SECONDS = 2.0
_BATCH = 1000  # metrics a request: the most that MLflow takes
_MAX_PICTURES = 16  # that wait; a megabyte or two each

Row = tuple[str, float, int, int]
"""A metric as plain data: name, value, milliseconds since 1970, step. JSON makes it a list."""


class MetricStream:
    """A queue of metrics and pictures that a thread uploads.

    Steps that the run already holds are skipped, so a resumed job logs none of them twice.

    Args:
        run_id: the run; the new attempt is counted when the server first answers.
        folder: address of the folder that keeps what could not be uploaded.
        on_notice: called with one line when the server goes away or comes back.
        tags: set on the run when the server first answers.
    """

    def __init__(
        self,
        run_id: str,
        folder: str,
        on_notice: Callable[[str], None] = log.warning,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._run_id, self._folder, self._on_notice, self._tags = run_id, folder, on_notice, tags
        self._waiting: list[Metric] = []
        self._pictures: dict[str, Image.Image] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._deadline = math.inf
        self._thread = threading.Thread(target=self._upload, name="metrics", daemon=True)
        self._thread.start()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Queue metrics of a step."""
        self._add(to_metrics(values, step))

    def log_picture(self, picture: Image.Image, name: str) -> None:
        """Queue a picture. While the server is away the newest ones wait; checkpoints hold none."""
        with self._lock:
            self._pictures[name] = picture
            for old in list(self._pictures)[:-_MAX_PICTURES]:
                del self._pictures[old]

    def pending(self) -> list[Row]:
        """Return the metrics that still wait, as plain data."""
        with self._lock:
            return [(metric.key, metric.value, metric.timestamp, metric.step) for metric in self._waiting]

    def requeue(self, rows: Sequence[Row]) -> None:
        """Queue the metrics that were pending when an earlier attempt ended."""
        self._add([Metric(*row) for row in rows])

    def close(self) -> None:
        """Upload what is left, for at most `CLOSE_SECONDS`; keep the rest in the job's folder."""
        self._deadline = time.monotonic() + CLOSE_SECONDS
        self._closed.set()
        self._thread.join(_FLUSH_SECONDS)
        if self._thread.is_alive():
            self._on_notice(f"waiting for the tracking server, {CLOSE_SECONDS:.0f} s at most")
            self._thread.join(CLOSE_SECONDS - _FLUSH_SECONDS)
        store, rows = open_store(self._folder), self.pending()
        if rows:
            lines = (json.dumps([self._run_id, *row]) + "\n" for row in rows)
            store.write(UNDELIVERED, "".join(lines).encode(), content_type="application/x-ndjson")
            log.error("%s metric values are kept in %s", len(rows), store.uri(UNDELIVERED))
        for name in self._pictures:
            log.warning("the tracking server was away: no %s", name)
        if not rows and store.stat(UNDELIVERED):
            store.delete(UNDELIVERED)  # an earlier attempt wrote it; its checkpoint held these metrics, too

    def _add(self, metrics: Sequence[Metric]) -> None:
        with self._lock:
            self._waiting += metrics

    def _upload(self) -> None:
        logged: dict[str, set[int]] | None = None
        away = resumed = False
        while time.monotonic() < self._deadline:
            closed = self._closed.wait(_FLUSH_SECONDS)
            try:
                if not resumed:
                    resume_run(self._run_id, self._tags)
                    resumed = True  # so that this attempt is counted once, however often the next request fails
                if logged is None:
                    logged = _logged_steps(self._run_id)
                self._send(logged)
            except Exception as error:  # noqa: BLE001 - reported, and tried again: this thread must outlive any failure
                if not away:
                    self._on_notice(f"training goes on, its metrics wait: {error}")
                away = True
                time.sleep(_FLUSH_SECONDS if closed else 0)
                continue
            if away:
                self._on_notice("the tracking server answers again: the metrics that waited are uploaded")
            away = False
            if closed:
                return

    def _send(self, logged: dict[str, set[int]]) -> None:
        while batch := self._waiting[:_BATCH]:  # not all at once: what has arrived is not sent again
            _log_new(self._run_id, batch, logged)
            with self._lock:
                del self._waiting[: len(batch)]
        for name, picture in list(self._pictures.items()):
            log_picture(self._run_id, picture, name)
            with self._lock:
                self._pictures.pop(name, None)


def upload(address: str) -> int:
    """Upload the metrics that a training kept; return how many of them were new to its run.

    Args:
        address: the job's folder, or the file itself (`….jsonl`), which is deleted once all are uploaded.

    Raises:
        NotFoundError: there is no such file.
        DataError: the file holds no metrics.
        RegistryError: the tracking server does not take them.
    """
    folder, name = address.rsplit("/", 1) if address.endswith(".jsonl") and "/" in address else (address, UNDELIVERED)
    store = open_store(folder)
    rows: dict[str, list[Metric]] = {}
    if store.stat(name) is None:
        raise NotFoundError(
            f"no metrics wait in {store.uri(name)}: the tracking server has all of them, or this is no job's folder "
            "(SHARDS/_vitseg/training/…)"
        )
    try:
        for line in store.read(name).decode().splitlines():
            run_id, key, value, timestamp, step = json.loads(line)
            rows.setdefault(str(run_id), []).append(Metric(str(key), float(value), int(timestamp), int(step)))
    except (ValueError, TypeError) as error:
        raise DataError(f"{store.uri(name)} holds no metrics that a training kept") from error
    count = sum(_log_new(run_id, metrics, _logged_steps(run_id)) for run_id, metrics in rows.items())
    store.delete(name)
    return count


def _logged_steps(run_id: str) -> dict[str, set[int]]:
    """Return the steps that a run holds, by metric; without system metrics, which are many."""
    with mlflow_request("reading a run"):
        client = MlflowClient()
        names = [name for name in client.get_run(run_id).data.metrics if not name.startswith("system/")]
        return {name: {metric.step for metric in client.get_metric_history(run_id, name)} for name in names}


def _log_new(run_id: str, metrics: Sequence[Metric], logged: dict[str, set[int]]) -> int:
    """Log the metrics whose steps are not in `logged`, add these steps to it, and return how many there were.

    Where an answer was lost the same metrics are sent twice. They keep their time, so the server recognizes them.
    """
    new = {(one.key, one.step): one for one in metrics if one.step not in logged.get(one.key, ())}
    if new:
        with mlflow_request("logging metrics"):
            MlflowClient().log_batch(run_id, metrics=list(new.values()), synchronous=True)
        for name, step in new:
            logged.setdefault(name, set()).add(step)
    return len(new)
