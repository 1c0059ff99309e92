"""The state of a training, from the events of its ranks: where it is, how fast, how good, and how much time is left."""

import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from flows.display.console import pluralize

MEASURES = {"val/miou": "mIoU", "val/psnr": "PSNR", "val/loss": "loss"}
"""Metrics that epochs are compared by, with their names for people; the lowest loss is best."""
_RECENT_SECONDS = 60.0


@dataclass
class TrainingState:
    """One attempt of a training. Steps of earlier attempts count as done, but not for the speed."""

    epochs: int
    per_epoch: int
    """Steps of an epoch."""
    measure: str
    """The metric that epochs are compared by: one of `MEASURES`."""
    minutes: float | None = None
    """Time limit for all attempts together; None: no limit."""
    step: int = 0
    started: bool = False
    """Whether the ranks are ready and have begun to train."""
    last: dict[str, float] = field(default_factory=dict)
    """Values of the last step: loss, images_per_second, data_wait …"""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Finished epochs of all attempts; those of this one with images_per_second and data_wait."""
    earlier: int = 0
    """How many of the rows are of earlier attempts."""
    _progress: deque[tuple[float, int]] = field(default_factory=deque)
    _speeds: list[dict[str, float]] = field(default_factory=list)
    _matrix_tflops: float = 0.0

    def on_event(self, event: dict[str, Any]) -> None:
        """Update the state by an event of rank 0."""
        values = {name: value for name, value in event.items() if name not in ("event", "step")}
        self.step = event["step"]
        if event["event"] == "start":
            self.started = True
            self.rows = list(values["history"])
            self.earlier = len(self.rows)
            self._matrix_tflops = values.get("matrix_tflops", 0.0)
        elif event["event"] == "step":
            self.last = values
            self._speeds.append(values)
        else:
            values |= {name: self.last[name] for name in ("images_per_second", "data_wait") if name in self.last}
            self.rows.append({**values, "step": self.step})
        now = time.monotonic()
        self._progress.append((now, self.step))
        # At least an epoch back, so that the speed includes validation, always by the same share.
        while len(self._progress) > 2 and self._is_outdated(*self._progress[1]):
            self._progress.popleft()

    def _is_outdated(self, when: float, step: int) -> bool:
        return when < time.monotonic() - _RECENT_SECONDS and step <= self.step - self.per_epoch

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.per_epoch

    @property
    def epoch(self) -> int:
        """Number of the running epoch, from 1; after the end, of the last one."""
        return min(len(self.rows) + 1, self.epochs)

    @property
    def running_epoch(self) -> dict[str, float]:
        """Values of the running epoch so far, named as in the row of a finished one."""
        if self.rows and self.step <= self.rows[-1]["step"]:
            return {}
        means = {f"train/{name}": self.last[name] for name in ("loss", "pixel_accuracy") if name in self.last}
        return {**self.last, **means}

    @property
    def is_validating(self) -> bool:
        """Whether all steps of an epoch are done, but not its validation."""
        return len(self.rows) < self.epochs and self.step >= (len(self.rows) + 1) * self.per_epoch

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end, at the recent speed; None: not yet known."""
        if self.step >= self.steps:
            return 0.0
        if not self._progress or self._progress[-1][1] <= self._progress[0][1]:
            return None
        (start, before), (end, done) = self._progress[0], self._progress[-1]
        rest = (end - start) / (done - before) * (self.steps - self.step)
        if self.minutes and "time_used" in self.last:
            rest = min(rest, 60 * self.minutes * (1 - self.last["time_used"]))
        return max(0.0, rest - (time.monotonic() - end))

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best validated epoch; None: no epoch was validated."""
        validated = [row for row in self.rows if self.measure in row]
        choose = min if self.measure == "val/loss" else max
        return choose(validated, key=lambda row: row[self.measure]) if validated else None

    def best_text(self) -> str:
        """Return `best mIoU 0.312 (epoch 3)`; "": there is none yet."""
        if not (row := self.best):
            return ""
        return f"best {MEASURES[self.measure]} {format_value(self.measure, row[self.measure])} (epoch {row['epoch']})"

    def status_line(self) -> str:
        """Return the state as one line."""
        if not self.started and not self.last:
            return f"{pluralize(self.epochs, 'epoch')}, starting"
        facts = [f"epoch {self.epoch}/{self.epochs}", f"step {self.step}/{self.steps}"]
        if self.last:
            facts.append(f"loss {self.last['loss']:.3f}")
            facts.append(f"{format_value('images_per_second', self.last['images_per_second'])} images/s")
            facts.append(f"data wait {format_value('data_wait', self.last['data_wait'])}")
        facts += [text for text in (self.best_text(), self.time_left_text()) if text]
        return ", ".join(facts)

    def time_left_text(self) -> str:
        """Return `0:24:10 left`; "": not yet known, or nothing is left."""
        left = self.seconds_left
        return f"{format_seconds(left)} left" if left is not None and self.step < self.steps else ""

    def speed_text(self) -> str:
        """Return images/s and FLOP/s of this attempt, and the share of what matrix products reach on these devices."""
        known = [values for values in self._speeds if "tflops" in values]
        if not known or not self._matrix_tflops:
            return ""
        images, tflops, share = (
            statistics.median(values[name] for values in known)
            for name in ("images_per_second", "tflops", "flops_utilization")
        )
        rate = f"{format_value('images_per_second', images)} images/s: {format_flops(tflops)}"
        return f"{rate}, {share:.0%} of what matrix products reach here ({format_flops(self._matrix_tflops)})"


def format_value(name: str, value: float) -> str:
    """Return a metric's value as text: `0.312`, `24.10 dB`, `12.1` (images/s), `3%` (data wait)."""
    if name == "data_wait":
        return f"{value:.0%}"
    if name == "images_per_second":
        return f"{value:.{0 if value >= 100 else 1}f}"
    return f"{value:.2f} dB" if name == "val/psnr" else f"{value:.3f}"


def format_seconds(seconds: float) -> str:
    """Return `0:24:10`."""
    return str(timedelta(seconds=round(seconds)))


def format_flops(tera: float) -> str:
    """Return `43 GFLOP/s` or `1.2 TFLOP/s`."""
    return f"{tera:.3g} TFLOP/s" if tera >= 1 else f"{tera * 1e3:.3g} GFLOP/s"


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """Return the metrics of a finished epoch as one line."""

    def side(split: str) -> str:
        names = {"loss": "loss", "pixel_accuracy": "accuracy", "miou": "mIoU"}
        values = {names[name]: row[f"{split}/{name}"] for name in names if f"{split}/{name}" in row}
        return ", ".join(f"{name} {value:.3f}" for name, value in values.items())

    validation = f"; validation {side('val')}" if "val/loss" in row else ""
    validation += f", PSNR {row['val/psnr']:.2f} dB" if "val/psnr" in row and "val/miou" not in row else ""
    return f"epoch {row['epoch']}/{epochs}: train {side('train')}{validation}"
