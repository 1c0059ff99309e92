"""Runs: what they hold, and whether they exist."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from vitseg.errors import RegistryError
from vitseg.registry import tracking


@pytest.fixture
def run_id(sqlite: str) -> str:
    return tracking.start_run("test", {"run.seed": 3, "long": "x" * 7000}, {"vitseg.job": "here"})


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


def test_a_server_that_can_not_answer_is_not_one_without_the_run(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise MlflowException("API request to endpoint /api/2.0 failed with error code 404 != 200. Body: 'not found'")

    monkeypatch.setattr(MlflowClient, "get_run", refuse)
    with pytest.raises(RegistryError):
        tracking.run_exists("0" * 32)
