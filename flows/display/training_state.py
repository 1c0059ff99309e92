"""What is known of a training from what its ranks say: where it is, how fast, how good, and how long it still takes."""

import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from flows.display.console import pluralize

MEASURES = {"val/miou": "mIoU", "val/psnr": "PSNR", "val/loss": "loss"}
"""By what epochs are compared, and what people call it; a loss is better the lower it is."""
_RECENT_SECONDS = 60.0


@dataclass
class TrainingState:
    """One start of a training. What an earlier start did counts as done, but not as speed.

    Attributes:
        epochs: of the recipe.
        per_epoch: steps of each.
        measure: one of `MEASURES`.
        minutes: that training may take, all its starts together; None: any time.
    """

    epochs: int
    per_epoch: int
    measure: str
    minutes: float | None = None
    step: int = 0
    started: bool = False
    """The ranks are ready: whatever they need to start is behind them."""
    last: dict[str, float] = field(default_factory=dict)
    """What the last step said: loss, images_per_second, data_wait …"""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Finished epochs, earlier starts' included; of this start's own with images_per_second and data_wait."""
    earlier: int = 0
    """How many rows are an earlier start's."""

    def __post_init__(self) -> None:
        """Begin without any speed."""
        self._marks: deque[tuple[float, int]] = deque()
        self._speeds: list[dict[str, float]] = []
        self._matrix_tflops = 0.0

    def on_event(self, event: dict[str, Any]) -> None:
        """Take in what rank 0 says."""
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
        self._marks.append((now, self.step))
        # As far back as an epoch: then a validation is part of the speed, and always as large a part.
        while len(self._marks) > 2 and self._is_past(*self._marks[1]):
            self._marks.popleft()

    def _is_past(self, when: float, step: int) -> bool:
        return when < time.monotonic() - _RECENT_SECONDS and step <= self.step - self.per_epoch

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.epochs * self.per_epoch

    @property
    def epoch(self) -> int:
        """The one that is under way, from 1; after the last, the last."""
        return min(len(self.rows) + 1, self.epochs)

    @property
    def now(self) -> dict[str, float]:
        """What the epoch that is under way has said of itself, by the names of its row to be."""
        if self.rows and self.step <= self.rows[-1]["step"]:
            return {}
        means = {f"train/{name}": self.last[name] for name in ("loss", "pixel_accuracy") if name in self.last}
        return {**self.last, **means}

    @property
    def is_validating(self) -> bool:
        """Say whether an epoch's steps are done, but not what follows them."""
        return len(self.rows) < self.epochs and self.step >= (len(self.rows) + 1) * self.per_epoch

    @property
    def left(self) -> float | None:
        """Seconds that the rest takes at the speed of the last while; None: nobody can know yet."""
        if self.step >= self.steps:
            return 0.0
        if not self._marks or self._marks[-1][1] <= self._marks[0][1]:
            return None
        (start, before), (end, done) = self._marks[0], self._marks[-1]
        rest = (end - start) / (done - before) * (self.steps - self.step)
        if self.minutes and "time_used" in self.last:
            rest = min(rest, 60 * self.minutes * (1 - self.last["time_used"]))
        return max(0.0, rest - (time.monotonic() - end))

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best validated epoch."""
        validated = [row for row in self.rows if self.measure in row]
        choose = min if self.measure == "val/loss" else max
        return choose(validated, key=lambda row: row[self.measure]) if validated else None

    def best_text(self) -> str:
        """Return `best mIoU 0.312 (epoch 3)`, or nothing before there is any."""
        row = self.best
        return (
            f"best {MEASURES[self.measure]} {shown(self.measure, row[self.measure])} (epoch {row['epoch']})"
            if row
            else ""
        )

    def line(self) -> str:
        """Return where training is, as one line."""
        if not self.started and not self.last:
            return f"{pluralize(self.epochs, 'epoch')}, starting"
        facts = [f"epoch {self.epoch}/{self.epochs}", f"step {self.step}/{self.steps}"]
        if self.last:
            facts.append(f"loss {self.last['loss']:.3f}")
            facts.append(f"{shown('images_per_second', self.last['images_per_second'])} images/s")
            facts.append(f"data wait {shown('data_wait', self.last['data_wait'])}")
        facts += [text for text in (self.best_text(), self.left_text()) if text]
        return ", ".join(facts)

    def left_text(self) -> str:
        """Return `0:24:10 left`, or nothing where nobody can know."""
        return "" if self.left is None or self.step >= self.steps else f"{clock(self.left)} left"

    def speed_text(self) -> str:
        """Return images a second and FLOP/s over this start, and their share of the devices' matrix products."""
        known = [values for values in self._speeds if "tflops" in values]
        if not known or not self._matrix_tflops:
            return ""
        images, tflops, share = (
            statistics.median(values[name] for values in known)
            for name in ("images_per_second", "tflops", "flops_utilization")
        )
        rate = f"{shown('images_per_second', images)} images/s: {flops(tflops)}"
        return f"{rate}, {share:.0%} of what matrix products reach here ({flops(self._matrix_tflops)})"


def shown(name: str, value: float) -> str:
    """Return a value as people read it: `0.312`, `24.10 dB`, `12.1` images a second, `3%`."""
    if name == "data_wait":
        return f"{value:.0%}"
    if name == "images_per_second":
        return f"{value:.{0 if value >= 100 else 1}f}"
    return f"{value:.2f} dB" if name == "val/psnr" else f"{value:.3f}"


def clock(seconds: float) -> str:
    """Return `0:24:10`."""
    return str(timedelta(seconds=round(seconds)))


def flops(tera: float) -> str:
    """Return `43 GFLOP/s` or `1.2 TFLOP/s`."""
    return f"{tera:.3g} TFLOP/s" if tera >= 1 else f"{tera * 1e3:.3g} GFLOP/s"


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """Return what an epoch came to, as one line."""

    def side(split: str) -> str:
        names = {"loss": "loss", "pixel_accuracy": "accuracy", "miou": "mIoU"}
        values = {names[name]: row[f"{split}/{name}"] for name in names if f"{split}/{name}" in row}
        return ", ".join(f"{name} {value:.3f}" for name, value in values.items())

    validation = f"; validation {side('val')}" if "val/loss" in row else ""
    validation += f", PSNR {row['val/psnr']:.2f} dB" if "val/psnr" in row and "val/miou" not in row else ""
    return f"epoch {row['epoch']}/{epochs}: train {side('train')}{validation}"
