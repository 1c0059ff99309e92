"""In which numbers a network computes: one rule for training, evaluation and inference.

`auto` is bfloat16 on GPUs, or float16 on those that lack it. Processors compute in float32, unless they have instructions
for bfloat16 *and* this very network is faster with it, measured at the start: some processors multiply bfloat16 at half the
rate of float32, and some networks spend their time on moving memory.

A job chooses once, and `keep` records it: all its ranks, workers and attempts compute alike, wherever they run. Losses,
scores and whatever is counted are never computed in less than float32.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from vitseg import dist
from vitseg.errors import DataError, NotFoundError
from vitseg.json_input import malformed_as_data_error, parse_json
from vitseg.storage import Store

Name = Literal["float32", "bfloat16", "float16"]
Measure = Callable[[], tuple[float, float]]
"""Returns how long the same work takes in float32 and in bfloat16, seconds."""
FILE = "precision.json"
"""In the folder of a job: the precision that it chose."""
MARGIN = 1.15
"""So many times as fast bfloat16 has to be: what is closer may be noise, and float32 is the more exact."""
_NO_BFLOAT16 = "a GPU here has no bfloat16"
_ROUNDS = 20
_SECONDS = 1.0
_IMAGES = 2  # as many as a processor segments at a time


@dataclass(frozen=True)
class Precision:
    """What forward passes compute in, and why, in plain words."""

    name: Name
    reason: str

    def line(self) -> str:
        """Return both as a line for people."""
        return f"computing in {self.name}: {self.reason}"


def autocast_type(name: str, device: torch.device) -> torch.dtype:
    """Return the type of a precision; of `auto`, what a device computes in where nothing is measured."""
    if name == "auto":
        name = "float32" if device.type != "cuda" else "bfloat16" if has_bfloat16(device) else "float16"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def autocast(name: str, device: torch.device) -> torch.autocast:
    """Return a block in which networks compute in a precision, as named for `autocast_type`."""
    dtype = autocast_type(name, device)
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16: GPUs since 2020, some processors."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return torch.backends.mkldnn.is_available() and bool({"avx512_bf16", "amx_bf16"} & set(words))


def choose(device: torch.device, measure: Measure, *, deterministic: bool = False) -> Precision:
    """Choose for all ranks together; each of them must call it, and measures at the same time as the others.

    `deterministic`: nothing may depend on a measurement.
    """
    if device.type != "cuda" and deterministic:
        return Precision("float32", "with run.deterministic nothing depends on a measurement")
    everywhere = all(dist.gather(has_bfloat16(device)))
    if device.type == "cuda":
        return Precision("bfloat16", "a GPU does it fastest") if everywhere else Precision("float16", _NO_BFLOAT16)
    if not everywhere:
        return Precision("float32", "the processor has no instructions for bfloat16")
    single, half = map(max, zip(*dist.gather(measure()), strict=True))  # all wait for the slowest rank
    speed = f"{single / half:.2f} times as fast"
    if single >= MARGIN * half:
        return Precision("bfloat16", f"measured with this model, it is {speed} as float32")
    return Precision("float32", f"measured with this model, bfloat16 is {speed}")


def time_forward(network: nn.Module, image_size: tuple[int, int]) -> tuple[float, float]:
    """Measure forward passes of a network in evaluation mode over random images (H, W); see `Measure`."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (_IMAGES, 3, *image_size), dtype=torch.uint8, generator=generator)

    def run(name: Name) -> None:
        with torch.inference_mode(), autocast(name, images.device):
            network(images)

    return time_both(run)


def time_both(run: Callable[[Name], object]) -> tuple[float, float]:
    """Return the seconds of work in float32 and in bfloat16, in turn, on the processor; see `Measure`.

    After one round that does not count come as many as fit into a second, at least one. The quickest of each counts: what else
    a machine does slows others down. Random state stays.
    """
    names: tuple[Name, Name] = ("float32", "bfloat16")
    rounds: list[list[float]] = []
    with torch.random.fork_rng(devices=[]):
        while len(rounds) < 2 or (len(rounds) <= _ROUNDS and sum(map(sum, rounds[1:])) < _SECONDS):
            rounds.append([_seconds(run, name) for name in names])
    single, half = map(min, zip(*rounds[1:], strict=True))
    return single, half


def _seconds(run: Callable[[Name], object], name: Name) -> float:
    start = time.perf_counter()
    run(name)
    return time.perf_counter() - start


def keep(store: Store, key: str, chosen: Precision) -> Precision:
    """Record what a job chose, and return what holds: of two processes that choose at once, the choice of the first."""
    data = json.dumps(asdict(chosen)).encode()
    store.write(key, data, content_type="application/json", if_absent=True)
    return kept(store, key) or chosen


def kept(store: Store, key: str) -> Precision | None:
    """Return what a job chose, None where it did not yet.

    Raises:
        DataError: the record is damaged.
    """
    try:
        data = store.read(key)
    except NotFoundError:
        return None
    try:
        return _from_json(data)
    except DataError as error:
        raise DataError(f"{store.uri(key)} can't be used: delete it to choose anew ({error})") from error


@malformed_as_data_error()
def _from_json(data: bytes) -> Precision:
    values = parse_json(data)
    if values["name"] not in get_args(Name):
        raise DataError(f"unknown precision {values['name']!r}")
    return Precision(values["name"], str(values["reason"]))


def on_device(chosen: Precision, device: torch.device) -> Precision:
    """Return a job's precision as a device has it: on GPUs without bfloat16 float16 takes its place."""
    if chosen.name == "bfloat16" and device.type == "cuda" and not has_bfloat16(device):
        return Precision("float16", _NO_BFLOAT16)
    return chosen
