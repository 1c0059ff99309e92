"""Every metric arrives once, whatever the server does meanwhile; what does not arrive is kept."""

import json
import math
import os
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from vitseg.errors import DataError, NotFoundError, RegistryError
from vitseg.registry import metric_upload, tracking
from vitseg.registry.metric_upload import UNDELIVERED, MetricStream, upload


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_upload, "_FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(metric_upload, "CLOSE_SECONDS", 10.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def run_id(sqlite: str) -> str:
    return tracking.start_run("test", {}, {})


def logged(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in MlflowClient().get_metric_history(run_id, name)]


class Outage:
    """A tracking server that does not answer until `end`; keeps the notices of the stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.real, self.environment = os.environ["MLFLOW_TRACKING_URI"], monkeypatch
        self.notices: list[str] = []
        self.noticed = threading.Event()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")

    def on_notice(self, text: str) -> None:
        self.notices.append(text)
        self.noticed.set()

    def end(self) -> None:
        self.environment.setenv("MLFLOW_TRACKING_URI", self.real)


def test_each_step_is_logged_once_also_after_a_resume(run_id: str, tmp_path: Path) -> None:
    first = MetricStream(run_id, str(tmp_path))
    for step in (1, 2, 3):
        first.log({"step/loss": step / 10}, step)
    first.log({"val/miou": 0.5}, 3)
    first.close()
    resumed = MetricStream(run_id, str(tmp_path))  # from a checkpoint at step 1: steps 2 and 3 are taken again
    for step in (2, 3, 4):
        resumed.log({"step/loss": step / 10, "step/learning_rate": 1.0}, step)
    resumed.close()
    assert logged(run_id, "step/loss") == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert [step for step, _ in logged(run_id, "step/learning_rate")] == [2, 3, 4]
    assert logged(run_id, "val/miou") == [(3, 0.5)]
    assert tracking.run_age(run_id)[1] == 2
    assert not (tmp_path / UNDELIVERED).exists()


def test_a_server_that_is_away_from_the_start_and_comes_back_gets_everything(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    stream = MetricStream(run_id, str(tmp_path), outage.on_notice)
    for step in range(1, 1201):  # more than fits one request
        stream.log({"step/loss": float(step)}, step)
    assert outage.noticed.wait(10)
    assert len(stream.pending()) == 1200
    outage.end()
    stream.close()
    assert logged(run_id, "step/loss") == [(step, float(step)) for step in range(1, 1201)]
    for words in ("training goes on", "answers again"):
        assert sum(words in text for text in outage.notices) == 1  # however many tries there were


def test_what_was_pending_in_a_checkpoint_is_delivered_once(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    killed = MetricStream(run_id, str(tmp_path), outage.on_notice)
    killed.log({"step/loss": 0.1}, 1)
    pending = json.loads(json.dumps(killed.pending()))
    outage.end()
    resumed = MetricStream(run_id, str(tmp_path))
    resumed.requeue(pending)
    for step in (1, 2):
        resumed.log({"step/loss": step / 10}, step)
    killed.close()
    resumed.close()
    assert logged(run_id, "step/loss") == [(1, 0.1), (2, 0.2)]


def test_what_a_server_never_took_is_kept_and_uploaded_once(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_upload, "CLOSE_SECONDS", 0.2)
    before = MetricStream(run_id, str(tmp_path))
    before.log({"step/loss": 0.1}, 1)
    before.close()
    outage = Outage(monkeypatch)
    stream = MetricStream(run_id, str(tmp_path), outage.on_notice)
    for step in (1, 2, 3):
        stream.log({"step/loss": step / 10, "step/learning_rate": math.nan}, step)
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 5
    kept = (tmp_path / UNDELIVERED).read_bytes()
    with pytest.raises(RegistryError, match="no tracking server answers"):
        upload(str(tmp_path))
    outage.end()
    assert upload(str(tmp_path)) == 5
    with pytest.raises(NotFoundError):
        upload(str(tmp_path))
    (tmp_path / "copy.jsonl").write_bytes(kept)
    assert upload(f"{tmp_path}/copy.jsonl") == 0
    assert logged(run_id, "step/loss") == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_a_file_that_no_training_kept(tmp_path: Path) -> None:
    (tmp_path / UNDELIVERED).write_text("loss 0.1")
    with pytest.raises(DataError, match=UNDELIVERED):
        upload(str(tmp_path))
