"""Readings of the machine: they reach the run, and a server that is away or hangs holds up nobody."""

import threading
import time

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from vitseg.registry import system_metrics, tracking
from vitseg.registry.system_metrics import SystemMetrics


@pytest.fixture
def run_id(sqlite: str) -> str:
    return tracking.start_run("test", {}, {})


def readings(run_id: str, name: str = "system/cpu_utilization_percentage") -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in MlflowClient().get_metric_history(run_id, name)]


def test_the_shortest_training_leaves_a_reading_and_a_restart_adds_to_it(run_id: str) -> None:
    SystemMetrics(run_id, seconds=60).close()
    before = len(readings(run_id))
    SystemMetrics(run_id, seconds=60).close()
    steps = [step for step, _ in readings(run_id)]
    assert (before, len(steps)) == (1, 2)
    assert steps == sorted(steps)
    assert {"system/system_memory_usage_percentage", "system/disk_usage_percentage"} <= set(
        MlflowClient().get_run(run_id).data.metrics
    )


def test_readings_wait_for_a_server_that_is_away(
    run_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, refused = MlflowClient.log_batch, threading.Semaphore(0)

    def away(*arguments: object, **options: object) -> None:
        refused.release()
        raise MlflowException("HTTPConnectionPool(host='127.0.0.1'): Max retries exceeded with url: /api")

    monkeypatch.setattr(MlflowClient, "log_batch", away)
    watched = SystemMetrics(run_id, seconds=0.01)
    assert all(refused.acquire(timeout=10) for _ in range(3))
    monkeypatch.setattr(MlflowClient, "log_batch", real)
    watched.close()
    assert len(readings(run_id)) >= 3
    assert caplog.text.count("system metrics wait for the tracking server") == 1


def test_a_server_that_hangs_does_not_hold_up_the_end(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    over, hanging = threading.Event(), threading.Event()
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *_, **__: (hanging.set(), over.wait(60)))
    monkeypatch.setattr(system_metrics, "_CLOSE_SECONDS", 0.2)
    watched = SystemMetrics(run_id, seconds=0.01)
    assert hanging.wait(10)
    start = time.monotonic()
    watched.close()
    over.set()
    assert time.monotonic() - start < 5


def test_a_reader_that_fails_is_told_and_ends_no_training(
    run_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_run_id: str) -> None:
        raise AttributeError("'NoneType' object has no attribute 'bytes_recv'")  # a container without a network

    monkeypatch.setattr(system_metrics, "SystemMetricsMonitor", fail)
    SystemMetrics(run_id).close()
    assert "no system metrics from here on: AttributeError: 'NoneType'" in caplog.text
