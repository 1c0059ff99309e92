"""What rank 0 tells the tracking server, and what it does when nobody listens."""

import functools
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import load_image

from tests.training.conftest import MakeTrainer, small_recipe
from vitseg.checkpoint import newest_checkpoint
from vitseg.precision import Precision
from vitseg.registry import metric_upload, tracking
from vitseg.training.logger import TrackingLogger
from vitseg.training.throughput import Throughput


def test_a_tracking_server_that_goes_away_stops_no_training(
    sqlite: str,
    tmp_path: Path,
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(metric_upload, "_FLUSH_SECONDS", 0.05)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    trainer = make_trainer("job", small_recipe("run.epochs=2", "run.panel_epochs=1"))
    run_id = tracking.start_run("test", {}, {})
    shown = next(iter(trainer.validation.epoch(0)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")  # nobody listens
    draw = functools.partial(trainer.objective.draw_panels, batch=shown)
    trainer.logger = logger = TrackingLogger(
        run_id, str(tmp_path), draw, Throughput(1, 1.0), Precision("float32", "of a test")
    )
    history = trainer.run()
    assert [row["epoch"] for row in history] == [1, 2]
    checkpoint = newest_checkpoint(trainer.checkpoints)
    assert checkpoint is not None
    assert {step for name, _, _, step in checkpoint.state["pending"] if name == "step/loss"} == set(range(1, 7))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite)
    logger.close()
    assert "training goes on" in capsys.readouterr().out
    panels = [f"panels/epoch-000{epoch}.png" for epoch in (1, 2)]
    assert [row.path for row in MlflowClient().list_artifacts(run_id, "panels")] == panels
    uri = f"{MlflowClient().get_run(run_id).info.artifact_uri}/panels/epoch-0002.png"
    assert np.asarray(load_image(uri)).std() > 0
    losses = [metric.step for metric in MlflowClient().get_metric_history(run_id, "step/loss")]
    assert losses == [1, 2, 3, 4, 5, 6]
