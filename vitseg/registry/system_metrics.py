"""What the machine of rank 0 does meanwhile: MLflow's own readings of processors, memory, disk, network and GPUs.

They are the run's `system/*`, which MLflow shows on a page of their own; GPUs are read where nvidia-ml-py finds any.
MLflow's own thread ends for good once the server was away, and waits for it in the end: this one does neither.
"""

import logging
import threading
import time

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from vitseg.errors import VitsegError
from vitseg.registry.tracking import registry_errors

log = logging.getLogger(__name__)

_SECONDS = 10.0
_CLOSE_SECONDS = 5.0
_BATCH = 900
_KEPT = 50_000  # readings that wait for a server that is away: hours of them


class SystemMetrics:
    """A thread that reads the machine every few seconds; a server that is slow or away holds up nobody else."""

    def __init__(self, run_id: str, seconds: float = _SECONDS) -> None:
        self._run_id, self._seconds = run_id, seconds
        self._over = threading.Event()
        self._waiting: list[tuple[str, float, int]] = []  # name, value, milliseconds since 1970
        self._thread = threading.Thread(target=self._watch, name="system-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Deliver a last reading; where the server takes more than a few seconds for it, go without."""
        self._over.set()
        self._thread.join(_CLOSE_SECONDS)

    def _watch(self) -> None:
        try:
            monitor = SystemMetricsMonitor(self._run_id)
            _read(monitor)  # thrown away: the first reading of processors is of no time at all
            away = last = False
            while not last:
                last = self._over.wait(self._seconds)
                now = int(time.time() * 1000)
                self._waiting += [(name, value, now) for name, value in _read(monitor).items()]
                try:
                    self._deliver()
                    away = False
                except VitsegError as error:
                    if not away:
                        log.warning("system metrics wait for the tracking server: %s", error)
                    away = True
                    del self._waiting[:-_KEPT]
        except Exception as error:  # noqa: BLE001 - readers raise whatever drivers make them: no reason to end a training
            log.warning("no system metrics from here on: %s: %s", type(error).__name__, error)

    def _deliver(self) -> None:
        """Log what waits. A step is a second since the run was made: a restart goes on where it was, with a gap."""
        with registry_errors("logging system metrics"):
            client = MlflowClient()
            began = client.get_run(self._run_id).info.start_time
            while self._waiting:
                some = [Metric(name, value, at, (at - began) // 1000) for name, value, at in self._waiting[:_BATCH]]
                client.log_batch(self._run_id, metrics=some)
                del self._waiting[:_BATCH]


def _read(monitor: SystemMetricsMonitor) -> dict[str, float]:
    """Return what the readers of MLflow say now, as `system/…`."""
    monitor.collect_metrics()
    readings = {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
    for reader in monitor.monitors:
        reader.clear_metrics()
    return readings
