"""What rank 0 tells the tracking server, and what it does when nobody listens."""

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import load_image
from mlflow.exceptions import MlflowException

from tests.training.conftest import MakeTrainer, small_recipe
from vitseg.labels import train_classes
from vitseg.registry import tracking
from vitseg.training.recorder import RunRecorder


def test_a_tracking_server_that_goes_away_stops_no_training(
    sqlite: str, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 0.05)
    trainer = make_trainer("job", small_recipe("run.epochs=2", "run.panel_epochs=1"))
    run_id = tracking.start_run("test", {}, {})
    shown = next(iter(trainer.validation.epoch(0)))
    trainer.recorder = recorder = RunRecorder(run_id, shown, train_classes(), trainer.task)
    real = MlflowClient.log_image

    def log_image(client: MlflowClient, run: str, image: object, artifact_file: str) -> None:
        if "0001" in artifact_file:
            raise MlflowException("HTTPConnectionPool: Max retries exceeded")
        real(client, run, image, artifact_file=artifact_file)

    monkeypatch.setattr(MlflowClient, "log_image", log_image)
    history = trainer.run()
    recorder.close()
    assert [row["epoch"] for row in history] == [1, 2]
    assert "no panels of epoch 1" in caplog.text
    assert [row.path for row in MlflowClient().list_artifacts(run_id, "panels")] == ["panels/epoch-0002.png"]
    uri = f"{MlflowClient().get_run(run_id).info.artifact_uri}/panels/epoch-0002.png"
    assert np.asarray(load_image(uri)).std() > 0
    losses = [metric.value for metric in MlflowClient().get_metric_history(run_id, "step/loss")]
    assert len(losses) == 6
