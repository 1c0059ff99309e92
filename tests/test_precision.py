"""What a network computes in: bfloat16 only where the device has it and the network gains."""

import itertools
import time
from pathlib import Path

import pytest
import torch

from vitseg import precision
from vitseg.errors import DataError
from vitseg.model.segmenter import build_model
from vitseg.precision import (
    FILE,
    Measure,
    Precision,
    autocast,
    autocast_type,
    choose,
    has_bfloat16,
    keep,
    kept,
    on_device,
    time_both,
    time_forward,
)
from vitseg.recipe import Recipe
from vitseg.storage import open_store

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def outcome(single: float, half: float) -> Measure:
    """Stand in for a measurement: seconds in float32 and in bfloat16."""
    return lambda: (single, half)


def not_measured() -> tuple[float, float]:
    raise AssertionError("nothing is to be measured")


@pytest.fixture
def instructions(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let devices have instructions for bfloat16, or not where a test says so."""
    there = getattr(request, "param", True)
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: there)


@pytest.mark.parametrize(
    ("single", "half", "name", "reason"),
    [
        (1.9, 1.0, "bfloat16", "measured with this model, it is 1.90 times as fast as float32"),
        (0.5, 1.0, "float32", "measured with this model, bfloat16 is 0.50 times as fast"),
        (1.04, 1.0, "float32", "measured with this model, bfloat16 is 1.04 times as fast"),  # may be noise
    ],
)
def test_a_processor_with_instructions_takes_what_this_model_is_faster_in(
    instructions: None, single: float, half: float, name: str, reason: str
) -> None:
    chosen = choose(CPU, outcome(single, half))
    assert (chosen.name, chosen.reason) == (name, reason)
    assert chosen.line() == f"computing in {name}: {reason}"


@pytest.mark.parametrize("instructions", [False], indirect=True)
def test_a_processor_without_instructions_measures_nothing(instructions: None) -> None:
    assert choose(CPU, not_measured) == Precision("float32", "the processor has no instructions for bfloat16")


def test_a_deterministic_job_depends_on_no_measurement(instructions: None) -> None:
    assert choose(CPU, not_measured, deterministic=True).name == "float32"


@pytest.mark.parametrize(("instructions", "name"), [(True, "bfloat16"), (False, "float16")], indirect=["instructions"])
def test_a_gpu_computes_in_half_precision_without_a_measurement(instructions: None, name: str) -> None:
    assert choose(GPU, not_measured).name == name
    assert choose(GPU, not_measured, deterministic=True).name == name
    dtype = getattr(torch, name)
    assert autocast_type("auto", GPU) is dtype
    assert on_device(Precision("bfloat16", "it was chosen"), GPU).name == name  # by another kind of GPU


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_a_block_computes_in_the_precision_of_its_name(name: str, dtype: torch.dtype) -> None:
    assert autocast_type(name, CPU) is dtype
    matrix = torch.ones(2, 2)
    with autocast(name, CPU):
        assert (matrix @ matrix).dtype is dtype
    assert (matrix @ matrix).dtype is torch.float32


@pytest.mark.parametrize(
    ("flags", "wanted"), [("fpu avx2 avx512f", False), ("avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True)]
)
def test_processors_have_instructions_if_they_say_so(monkeypatch: pytest.MonkeyPatch, flags: str, wanted: bool) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags : {flags}\n")
    assert has_bfloat16(CPU) == wanted


def test_both_are_measured_in_turn_and_the_first_round_does_not_count() -> None:
    ran: list[str] = []

    def run(name: str) -> None:
        ran.append(name)
        torch.rand(1)
        time.sleep(0.2 if len(ran) <= 2 else {"float32": 0.004, "bfloat16": 0.016}[name])

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    single, half = time_both(run)
    assert torch.equal(torch.rand(3), expected)
    assert ran == ["float32", "bfloat16"] * 21
    assert 0.004 <= single < half < 0.2


def test_what_takes_long_is_measured_in_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=3)  # three seconds between two looks at it
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    ran: list[str] = []
    assert time_both(ran.append) == (3, 3)
    assert len(ran) == 4


def test_a_measurement_leaves_a_network_as_it_is() -> None:
    network = build_model(Recipe().model, (32, 64), 3, seed=0).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    single, half = time_forward(network, (32, 64))
    assert min(single, half) > 0
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_first_choice_of_a_job_holds(tmp_path: Path) -> None:
    store, first = open_store(str(tmp_path)), Precision("bfloat16", "the first")
    assert kept(store, FILE) is None
    assert keep(store, FILE, first) == first
    assert keep(store, FILE, Precision("float32", "chosen at the same time")) == first
    assert kept(store, FILE) == first


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "float8", "reason": ""}'])
def test_a_damaged_record_is_an_error_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match=r"precision\.json can't be used: delete it to choose anew"):
        kept(open_store(str(tmp_path)), FILE)
