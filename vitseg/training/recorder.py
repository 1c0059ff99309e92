"""What rank 0 tells: events to the launcher, metrics and panels to the run on the tracking server."""

import logging
from typing import Any

import torch
from torch import nn

from vitseg.data.loader import Batch
from vitseg.errors import VitsegError
from vitseg.evaluation import Task
from vitseg.labels import Label
from vitseg.pictures import panel, panel_sheet
from vitseg.registry.system_metrics import SystemMetrics
from vitseg.registry.tracking import MetricStream, log_picture
from vitseg.training.events import say
from vitseg.training.loop import Recorder
from vitseg.training.throughput import Throughput

log = logging.getLogger(__name__)


class RunRecorder(Recorder):
    """Rank 0's recorder.

    Attributes:
        shown: the validation images that every panel shows.
        throughput: what an image costs and the devices reach; None: steps are told without that.
    """

    def __init__(
        self, run_id: str, shown: Batch, classes: tuple[Label, ...], task: Task, throughput: Throughput | None = None
    ) -> None:
        self.run_id, self.shown, self.classes, self.task = run_id, shown, classes, task
        self.throughput = throughput
        self.metrics = MetricStream(run_id)
        self.system = SystemMetrics(run_id)

    def start(self, step: int, history: list[dict[str, Any]]) -> None:
        """Log what the devices reach and an image costs as `throughput/*`."""
        values = self.throughput.limits() if self.throughput else {}
        self.metrics.log({f"throughput/{name}": value for name, value in values.items()}, step)
        say("start", step=step, history=history, **values)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Log a step's metrics as `step/*`."""
        if self.throughput:
            values = values | self.throughput.values(values["images_per_second"])
        self.metrics.log({f"step/{name}": value for name, value in values.items()}, step)
        say("step", step=step, **values)

    def epoch(self, row: dict[str, Any]) -> None:
        """Log an epoch's means as `train/*` and `val/*`, at its last step."""
        self.metrics.log({name: value for name, value in row.items() if name != "step"}, row["step"])
        say("epoch", **row)

    def panels(self, model: nn.Module, epoch: int) -> None:
        """Store photo | truth | prediction of the fixed validation images; photo | target | output of image pairs."""
        was_training = model.training
        model.eval()
        with torch.no_grad():
            predictions = self.task.predict(model(self.shown.images.to(self.task.colors.device))).cpu()
        model.train(was_training)
        if not self.classes:
            predictions = (predictions.clamp(0, 1) * 255).round()
        rows = [panel(*pictures, self.classes) for pictures in self.shown.pictures(predictions.to(torch.uint8))]
        try:
            log_picture(self.run_id, panel_sheet(rows), f"panels/epoch-{epoch:04d}.png")
        except VitsegError as error:  # a tracking server that is away must not end a training
            log.warning("no panels of epoch %s: %s", epoch, error)

    def close(self) -> None:
        """Deliver the last metrics."""
        self.system.close()
        self.metrics.close()
