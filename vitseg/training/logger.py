"""What the training loop reports to. `tracking_logger` sends it to the launcher and the tracking server."""

from typing import Any

from torch import nn


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
