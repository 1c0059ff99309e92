"""System metrics of rank 0's machine: CPU, memory, disk, network and GPUs, as MLflow reads them.

The run holds them as `system/*`, and MLflow shows them on a page of their own. GPUs are read where nvidia-ml-py finds
any. MLflow's own thread stops for good once the server was away, and waits for it at the end; this one does neither.
"""

import logging
import threading
import time

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from vitseg.errors import VitsegError
from vitseg.registry.mlflow_request import mlflow_request

log = logging.getLogger(__name__)

_SECONDS = 10.0
_CLOSE_SECONDS = 5.0
_MAX_WAITING = 50_000  # readings; hours of them


class SystemMetrics:
    """A thread that reads the machine every few seconds. A server that is slow or away delays only this thread."""

    def __init__(self, run_id: str, seconds: float = _SECONDS) -> None:
        self._run_id, self._seconds = run_id, seconds
        self._over = threading.Event()
        self._waiting: list[tuple[str, float, int]] = []  # name, value, milliseconds since 1970
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Upload a last reading, unless the server takes more than a few seconds for it."""
        self._over.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            monitor = SystemMetricsMonitor(self._run_id)
            _read(monitor)  # the first reading of CPUs covers no time at all
            away = last = False
            while not last:
                last = self._over.wait(self._seconds)
                now = int(time.time() * 1000)
                self._waiting += [(name, value, now) for name, value in _read(monitor).items()]
                try:
                    self._upload()
                    away = False
                except VitsegError as error:
                    if not away:
                        log.warning("system metrics wait for the tracking server: %s", error)
                    away = True
                    del self._waiting[:-_MAX_WAITING]
        except Exception as error:  # noqa: BLE001 - drivers may raise anything, which must not end a training
            log.warning("no system metrics from here on: %s: %s", type(error).__name__, error)

    def _upload(self) -> None:
        """Log the readings that wait. Steps are seconds since the run was created, so a restart leaves a gap."""
        with mlflow_request("logging system metrics"):
            client = MlflowClient()
            began = client.get_run(self._run_id).info.start_time
            metrics = [Metric(name, value, at, (at - began) // 1000) for name, value, at in self._waiting]
            client.log_batch(self._run_id, metrics=metrics)
        self._waiting.clear()


def _read(monitor: SystemMetricsMonitor) -> dict[str, float]:
    """Return MLflow's readings of now, as `system/…`."""
    monitor.collect_metrics()
    readings = {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
    for reader in monitor.monitors:
        reader.clear_metrics()
    return readings
