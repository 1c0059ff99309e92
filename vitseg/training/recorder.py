"""What rank 0 tells: events to the launcher, metrics and panels to the run on the tracking server."""

from typing import Any

import torch
from torch import nn

from vitseg.data.loader import Batch
from vitseg.evaluation import Task
from vitseg.labels import Label
from vitseg.pictures.panels import panel, panel_sheet
from vitseg.registry.metric_upload import MetricStream
from vitseg.registry.system_metrics import SystemMetrics
from vitseg.training.progress import Recorder
from vitseg.training.rank_events import say
from vitseg.training.throughput import Throughput


class RunRecorder(Recorder):
    """Rank 0's recorder.

    Attributes:
        shown: the validation images that every panel shows.
        throughput: what an image costs and the devices reach; None: steps are told without that.

    What the tracking server does not take until the end is kept in `folder`, the job's own.
    """

    def __init__(
        self,
        run_id: str,
        folder: str,
        shown: Batch,
        classes: tuple[Label, ...],
        task: Task,
        throughput: Throughput | None = None,
    ) -> None:
        self.shown, self.classes, self.task = shown, classes, task
        self.throughput = throughput
        self.closed = False
        self.metrics = MetricStream(run_id, folder, lambda text: say("note", text=text))
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
        self.metrics.log_picture(panel_sheet(rows), f"panels/epoch-{epoch:04d}.png")

    def pending(self) -> list[Any]:
        """Return the metrics that the tracking server did not take yet."""
        return self.metrics.pending()

    def take_up(self, pending: list[Any]) -> None:
        """Deliver what was pending in the checkpoint from which this attempt goes on."""
        self.metrics.requeue(pending)

    def close(self) -> None:
        """Deliver the last metrics, or keep them in the job's folder; a second time, do nothing."""
        if not self.closed:
            self.closed = True
            self.system.close()
            self.metrics.close()
