"""Runs: every metric arrives once, whatever the server does meanwhile; and errors say what is wrong."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from vitseg.errors import AccessError, RegistryError
from vitseg.registry import tracking
from vitseg.registry.tracking import MetricStream, registry_errors


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 0.05)


@pytest.fixture
def run_id(sqlite: str) -> str:
    return tracking.start_run("test", {"run.seed": 3, "long": "x" * 7000}, {"vitseg.job": "here"})


def logged(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in MlflowClient().get_metric_history(run_id, name)]


class Outage:
    """The server refuses everything until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.over = threading.Event()
        self.refused = threading.Event()
        real = MlflowClient.log_batch

        def log_batch(client: MlflowClient, *arguments: object, **options: object) -> object:
            if self.over.is_set():
                return real(client, *arguments, **options)
            self.refused.set()
            raise MlflowException("HTTPConnectionPool(host='127.0.0.1'): Max retries exceeded with url: /api")

        monkeypatch.setattr(MlflowClient, "log_batch", log_batch)


def test_each_step_is_logged_once_also_after_a_resume(run_id: str) -> None:
    first = MetricStream(run_id)
    for step in (1, 2, 3):
        first.log({"step/loss": step / 10}, step)
    first.log({"val/miou": 0.5}, 3)
    first.close()
    resumed = MetricStream(run_id)  # from a checkpoint at step 1: steps 2 and 3 are taken again
    for step in (2, 3, 4):
        resumed.log({"step/loss": step / 10, "step/learning_rate": 1.0}, step)
    resumed.close()
    assert logged(run_id, "step/loss") == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert [step for step, _ in logged(run_id, "step/learning_rate")] == [2, 3, 4]
    assert logged(run_id, "val/miou") == [(3, 0.5)]


def test_a_server_that_comes_back_gets_everything(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = Outage(monkeypatch)
    stream = MetricStream(run_id)
    start = time.monotonic()
    for step in range(1, 1201):  # more than fits one request
        stream.log({"step/loss": float(step)}, step)
    assert time.monotonic() - start < 1
    assert outage.refused.wait(10)
    time.sleep(0.5)  # more tries fail than `close` would wait for
    outage.over.set()
    stream.close()
    assert logged(run_id, "step/loss") == [(step, float(step)) for step in range(1, 1201)]


def test_a_long_outage_that_ends_after_close_was_called(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = Outage(monkeypatch)
    stream = MetricStream(run_id)
    stream.log({"step/loss": 1.0}, 1)
    assert outage.refused.wait(10)
    time.sleep(0.5)
    threading.Timer(0.1, outage.over.set).start()
    stream.close()
    assert logged(run_id, "step/loss") == [(1, 1.0)]


def test_a_server_that_stays_away_ends_with_an_error_in_the_log(
    run_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Outage(monkeypatch)
    stream = MetricStream(run_id)
    stream.log({"step/loss": 1.0, "step/learning_rate": 0.1}, 1)
    stream.close()
    assert "2 metric values were not delivered" in caplog.text


def test_jobs_that_start_together_share_one_experiment(sqlite: str) -> None:
    together = threading.Barrier(4)

    def start(number: int) -> str:
        together.wait()
        return tracking.start_run(f"run {number}", {"number": number}, {})

    with ThreadPoolExecutor(4) as pool:
        run_ids = list(pool.map(start, range(4)))
    named = [row for row in MlflowClient().search_experiments() if row.name == "vitseg"]
    assert len(named) == 1
    assert {row.info.run_id for row in MlflowClient().search_runs([named[0].experiment_id])} == set(run_ids)
    assert len(set(run_ids)) == 4


def test_a_run_holds_its_parameters_and_knows_whether_it_exists(run_id: str) -> None:
    assert tracking.run_exists(run_id)
    found = MlflowClient().get_run(run_id)
    assert found.data.params["run.seed"] == "3"
    assert found.data.tags["vitseg.job"] == "here"
    assert not tracking.run_exists("0" * 32)
    assert not tracking.run_exists(f"{'ab401' * 6}ff")
    MlflowClient().delete_run(run_id)
    assert not tracking.run_exists(run_id)


def test_a_server_that_can_not_say_whether_a_run_exists(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise MlflowException("API request to endpoint /api/2.0 failed with error code 404 != 200. Body: 'not found'")

    monkeypatch.setattr(MlflowClient, "get_run", refuse)
    with pytest.raises(RegistryError):
        tracking.run_exists("0" * 32)


UNREACHABLE = "HTTPConnectionPool(host='127.0.0.1', port=14013): Max retries exceeded with url: /api"


@pytest.mark.parametrize(
    ("raised", "kind", "hint"),
    [
        (MlflowException(UNREACHABLE), RegistryError, "vitseg stack up"),
        (MlflowException("API request failed with error code 401 != 200. Body: 'who?'"), AccessError, "_USERNAME"),
        (
            MlflowException("API request failed with error code 403 != 200. Body: 'no'"),
            AccessError,
            "this user may not",
        ),
        (MlflowException("Model Version (name=vitseg, version=403) not found"), RegistryError, "version=403"),
        (MlflowException("Run 'ab401c' is gone"), RegistryError, "ab401c"),
        (requests.HTTPError("500 Server Error: INTERNAL SERVER ERROR for url: /artifacts"), RegistryError, "500"),
        (requests.ConnectionError(UNREACHABLE), RegistryError, "vitseg stack up"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(raised: Exception, kind: type[Exception], hint: str) -> None:
    with pytest.raises(kind, match=hint) as caught, registry_errors("doing this"):
        raise raised
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
