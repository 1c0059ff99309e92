"""What is tried again, and what becomes of a run that fails."""

import pytest
from prefect.states import Failed

from flows.tasks import run_training as module
from tests.training.conftest import small_recipe
from vitseg.errors import NameTakenError, RankLostError, StorageError, StoreFullError, TrainingError, VitsegError
from vitseg.registry import metric_upload, tracking
from vitseg.storage import open_store
from vitseg.training.job import Job


@pytest.fixture(autouse=True)
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    heard: list[str] = []
    monkeypatch.setattr(module, "note", heard.append)
    return heard


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (RankLostError("rank 1 was killed"), True),
        (StorageError("the bucket is away"), True),
        (StoreFullError("no room"), False),
        (NameTakenError("taken"), False),
        (TrainingError("loss nan"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_may_pass_is_tried_again(error: VitsegError, again: bool, notes: list[str]) -> None:
    assert module.can_retry(Failed(data=error)) is again
    assert notes == ([f"{error}; going on from the newest checkpoint"] if again else [])


def test_a_run_that_fails_says_so_even_where_nobody_hears_it(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("folder", "shards", "f" * 64, small_recipe(), run_id=tracking.start_run("test", {}, {}))
    with pytest.raises(KeyboardInterrupt), module.fail_run_on_error(job):
        raise KeyboardInterrupt
    assert tracking.MlflowClient().get_run(job.run_id).info.status == "FAILED"

    def away(*arguments: object) -> None:
        raise StorageError("the tracking server is away")

    monkeypatch.setattr(tracking, "end_run", away)
    with pytest.raises(TrainingError, match="the reason"), module.fail_run_on_error(job):
        raise TrainingError("the reason")


def test_metrics_that_were_kept_are_delivered_or_how_is_said(
    tmp_path, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    folder = str(tmp_path)
    module._deliver_metrics(folder)
    assert notes == []
    open_store(folder).write(metric_upload.UNDELIVERED, b"[]")

    def away(folder: str) -> None:
        raise StorageError("nobody listens")

    monkeypatch.setattr(metric_upload, "upload", away)
    module._deliver_metrics(folder)
    assert notes[-1] == f"they are kept, for `vitseg registry upload-metrics {folder}`: nobody listens"
