"""What the training loop reports to: nothing, or on rank 0 the launcher and the tracking server."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import nn

from vitseg.precision import Precision
from vitseg.training.rank_reports import emit
from vitseg.training.throughput import Throughput


class TrainingLogger:
    """Takes what the loop reports, and does nothing with it: the logger of every rank but 0."""

    def log_start(self, step: int, history: list[dict[str, Any]]) -> None:
        """Report how many steps are done already, and the rows of earlier epochs."""

    def log_step(self, step: int, values: dict[str, float]) -> None:
        """Report the metrics of a step."""

    def log_epoch(self, row: dict[str, Any]) -> None:
        """Report an epoch that is trained and validated."""

    def log_panels(self, model: nn.Module, epoch: int) -> None:
        """Draw the fixed validation images as the model sees them now."""

    def state(self) -> list[Any]:
        """Return what is not delivered yet, as plain data for the checkpoint."""
        return []

    def load_state(self, pending: list[Any]) -> None:
        """Take over what was not delivered when the checkpoint was written."""

    def close(self) -> None:
        """Deliver the rest."""


class TrackingLogger(TrainingLogger):
    """Rank 0's logger. What the tracking server does not take until the end is kept in the job's folder.

    `draw_panels` draws the fixed validation images as a model sees them.
    """

    def __init__(
        self,
        run_id: str,
        folder: str,
        draw_panels: Callable[[nn.Module], Image.Image],
        throughput: Throughput,
        precision: Precision,
    ) -> None:
        from vitseg.registry.metric_upload import MetricStream  # imports MLflow: other ranks need not wait
        from vitseg.registry.system_metrics import SystemMetrics

        self.draw_panels, self.throughput, self.precision = draw_panels, throughput, precision
        self.closed = False
        self.metrics = MetricStream(
            run_id, folder, lambda text: emit("note", text=text), {"vitseg.precision": precision.name}
        )
        self.system = SystemMetrics(run_id)

    def log_start(self, step: int, history: list[dict[str, Any]]) -> None:
        """Log the rate of the devices and the cost of an image as `throughput/*`."""
        values = self.throughput.limits()
        self.metrics.log({f"throughput/{name}": value for name, value in values.items()}, step)
        emit("start", step=step, history=history, precision=self.precision.line(), **values)

    def log_step(self, step: int, values: dict[str, float]) -> None:
        """Log a step's metrics as `step/*`."""
        values = values | self.throughput.values(values["images_per_second"])
        self.metrics.log({f"step/{name}": value for name, value in values.items()}, step)
        emit("step", step=step, **values)

    def log_epoch(self, row: dict[str, Any]) -> None:
        """Log an epoch's means as `train/*` and `val/*`, at its last step."""
        self.metrics.log({name: value for name, value in row.items() if name != "step"}, row["step"])
        emit("epoch", **row)

    @torch.no_grad()
    def log_panels(self, model: nn.Module, epoch: int) -> None:
        """Store the panels of the fixed validation images."""
        was_training = model.training
        picture = self.draw_panels(model.eval())
        model.train(was_training)
        self.metrics.log_picture(picture, f"panels/epoch-{epoch:04d}.png")

    def state(self) -> list[Any]:
        """Return the metrics that the tracking server did not take yet."""
        return self.metrics.pending()

    def load_state(self, pending: list[Any]) -> None:
        """Deliver what was pending in the checkpoint."""
        self.metrics.requeue(pending)

    def close(self) -> None:
        """Deliver the last metrics, or keep them in the job's folder; a second time, do nothing."""
        if not self.closed:
            self.closed = True
            self.system.close()
            self.metrics.close()
