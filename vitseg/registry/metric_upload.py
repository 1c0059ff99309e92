"""Metrics of a training on their way to the tracking server, which may be slow, away for minutes, or gone for good.

Training never waits for it. What the server did not take yet travels in each checkpoint, so that nothing is lost with a
rank that is killed; what it did not take until the end is kept as lines of JSON in the job's folder.
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
from vitseg.registry.tracking import log_picture, metrics_of, registry_errors, resume_run
from vitseg.storage import open_store

log = logging.getLogger(__name__)

UNDELIVERED = "metrics-undelivered.jsonl"
CLOSE_SECONDS = 20.0
"""So long the end of a training waits for the tracking server."""
_FLUSH_SECONDS = 2.0
_MOST_PICTURES = 16  # a megabyte or two each
_PER_REQUEST = 900  # the server takes 1000

Row = tuple[str, float, int, int]
"""A metric as plain data: name, value, milliseconds since 1970, step. From JSON it comes as a list."""


class MetricStream:
    """A queue of metrics and panels that a thread delivers: a tracking server that is slow or away never stops training.

    Steps that the run already holds are left out, so that a resumed job logs none of them twice.

    Args:
        run_id: the run; its next attempt is counted when the server first answers.
        folder: address of the folder in which is kept what could not be delivered.
        tell: hears, in a line, that the server went away or came back.
    """

    def __init__(self, run_id: str, folder: str, tell: Callable[[str], None] = log.warning) -> None:
        self._run_id, self._folder, self._tell = run_id, folder, tell
        self._waiting: list[Metric] = []
        self._pictures: dict[str, Image.Image] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._deadline = math.inf
        self._thread = threading.Thread(target=self._deliver, name="metrics", daemon=True)
        self._thread.start()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Queue metrics of a step."""
        self._add(metrics_of(values, step))

    def log_picture(self, picture: Image.Image, name: str) -> None:
        """Queue a picture, of which the newest wait where the server is away; those are in no checkpoint."""
        with self._lock:
            self._pictures[name] = picture
            for old in list(self._pictures)[:-_MOST_PICTURES]:
                del self._pictures[old]

    def pending(self) -> list[Row]:
        """Return what the server did not take yet, as plain data."""
        with self._lock:
            return [(metric.key, metric.value, metric.timestamp, metric.step) for metric in self._waiting]

    def take_up(self, rows: Sequence[Row]) -> None:
        """Queue what was pending when another attempt ended."""
        self._add([Metric(*row) for row in rows])

    def close(self) -> None:
        """Deliver what is left, for `CLOSE_SECONDS` at most; keep the rest in the job's folder."""
        self._deadline = time.monotonic() + CLOSE_SECONDS
        self._closed.set()
        self._thread.join(_FLUSH_SECONDS)
        if self._thread.is_alive():
            self._tell(f"waiting for the tracking server, {CLOSE_SECONDS:.0f} s at most")
            self._thread.join(CLOSE_SECONDS - _FLUSH_SECONDS)
        store, rows = open_store(self._folder), self.pending()
        if rows:
            lines = (json.dumps([self._run_id, *row]) + "\n" for row in rows)
            store.write(UNDELIVERED, "".join(lines).encode(), content_type="application/x-ndjson")
            log.error("%s metric values are kept in %s", len(rows), store.uri(UNDELIVERED))
        for name in self._pictures:
            log.warning("the tracking server was away: no %s", name)
        if not rows and store.stat(UNDELIVERED):
            store.delete(UNDELIVERED)  # of an attempt before, whose checkpoint held them too

    def _add(self, metrics: Sequence[Metric]) -> None:
        with self._lock:
            self._waiting += metrics

    def _deliver(self) -> None:
        held: dict[str, set[int]] | None = None
        away = resumed = False
        while time.monotonic() < self._deadline:
            closed = self._closed.wait(_FLUSH_SECONDS)
            try:
                if not resumed:
                    resume_run(self._run_id)
                    resumed = True  # this attempt is counted once, however often the next request fails
                if held is None:
                    held = _held_steps(self._run_id)
                self._send(held)
            except Exception as error:  # noqa: BLE001 - told, and tried again: this thread must outlive whatever fails
                if not away:
                    self._tell(f"training goes on, its metrics wait: {error}")
                away = True
                time.sleep(_FLUSH_SECONDS if closed else 0)
                continue
            if away:
                self._tell("the tracking server answers again: the metrics that waited are delivered")
            away = False
            if closed:
                return

    def _send(self, held: dict[str, set[int]]) -> None:
        while some := self._waiting[:_PER_REQUEST]:
            _log(self._run_id, some, held)
            with self._lock:
                del self._waiting[: len(some)]
        for name, picture in list(self._pictures.items()):
            log_picture(self._run_id, picture, name)
            with self._lock:
                self._pictures.pop(name, None)


def upload(address: str) -> int:
    """Deliver the metrics that a training kept; return how many of them its run did not hold yet.

    Args:
        address: the job's folder, or the file itself (`….jsonl`), which is removed once all are delivered.

    Raises:
        NotFoundError: there is no such file.
        DataError: it is none of ours.
        RegistryError: the tracking server does not take them.
    """
    folder, name = address.rsplit("/", 1) if address.endswith(".jsonl") and "/" in address else (address, UNDELIVERED)
    store = open_store(folder)
    rows: dict[str, list[Metric]] = {}
    if store.stat(name) is None:
        raise NotFoundError(
            f"no metrics wait in {store.uri(name)}: the tracking server has them all, or this is no folder of a job "
            "(SHARDS/_vitseg/training/…)"
        )
    try:
        for line in store.read(name).decode().splitlines():
            run_id, key, value, timestamp, step = json.loads(line)
            rows.setdefault(str(run_id), []).append(Metric(str(key), float(value), int(timestamp), int(step)))
    except (ValueError, TypeError) as error:
        raise DataError(f"{store.uri(name)} holds no metrics that a training kept") from error
    count = 0
    for run_id, metrics in rows.items():
        held = _held_steps(run_id)
        for start in range(0, len(metrics), _PER_REQUEST):
            count += _log(run_id, metrics[start : start + _PER_REQUEST], held)
    store.delete(name)
    return count


def _held_steps(run_id: str) -> dict[str, set[int]]:
    """Return the steps that a run holds, by the metric's name; of the machine's own readings, which are many, none."""
    with registry_errors("reading a run"):
        client = MlflowClient()
        names = [name for name in client.get_run(run_id).data.metrics if not name.startswith("system/")]
        return {name: {metric.step for metric in client.get_metric_history(run_id, name)} for name in names}


def _log(run_id: str, metrics: Sequence[Metric], held: dict[str, set[int]]) -> int:
    """Log those metrics whose steps the run does not hold, and add them to what it holds; return their number.

    The same metrics may be sent twice, where an answer was lost: they keep their time, by which the server knows them.
    """
    new = {(one.key, one.step): one for one in metrics if one.step not in held.get(one.key, ())}
    if new:
        with registry_errors("logging metrics"):
            MlflowClient().log_batch(run_id, metrics=list(new.values()), synchronous=True)
        for name, step in new:
            held.setdefault(name, set()).add(step)
    return len(new)
