"""Checkpoints come back exactly, or not at all."""

import hashlib
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from vitseg.checkpoint import Checkpoint, capture, checkpoint_keys, newest_checkpoint, restore, write_checkpoint
from vitseg.errors import DataError
from vitseg.storage import LocalStore

STATE = {"history": [{"epoch": 1, "train/loss": 0.1 + 0.2}], "sums": {"loss": 1e-300}}


def pair(seed: int, width: int = 5) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, 3))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim < 2]},
    ]
    return model, torch.optim.AdamW(groups, lr=0.01)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        model(images).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def of(step: int, size: int = 10) -> Checkpoint:
    return Checkpoint(step, {"model.weight": torch.full((size,), float(step))}, {"step": step})


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "checkpoints")


def test_resumed_training_is_the_same_to_the_last_bit(store: LocalStore) -> None:
    straight, optimizer = pair(0)
    train(straight, optimizer, range(3))
    write_checkpoint(store, capture(straight, [optimizer], 3, STATE), keep=2)
    train(straight, optimizer, range(3, 6))

    resumed, other = pair(1)
    found = newest_checkpoint(store)
    assert found is not None
    restore(found, resumed, [other])
    train(resumed, other, range(found.step, 6))

    assert found.state == STATE
    for one, two in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)
        assert optimizer.state[one].keys() == other.state[two].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(optimizer.state[one][name], other.state[two][name]) for name in other.state[two])


def test_moments_under_the_name_of_older_versions_come_back() -> None:
    model, optimizer = pair(0)
    train(model, optimizer, range(3))
    new = capture(model, [optimizer], 3, STATE)
    old = Checkpoint(3, {key.replace("optimizer.", "optimiser."): t for key, t in new.tensors.items()}, STATE)
    resumed, other = pair(1)
    restore(old, resumed, [other])
    assert other.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys() != set()


def test_what_is_captured_does_not_change_with_training(store: LocalStore) -> None:
    model, optimizer = pair(0)
    train(model, optimizer, range(2))
    captured = capture(model, [optimizer], 2, {})
    before = {name: tensor.clone() for name, tensor in captured.tensors.items()}
    train(model, optimizer, range(2, 4))
    assert all(torch.equal(captured.tensors[name], before[name]) for name in before)
    assert len(before) == 6 + 6 * 3


def test_before_the_first_step_there_are_no_moments(store: LocalStore) -> None:
    model, optimizer = pair(0)
    write_checkpoint(store, capture(model, [optimizer], 0, {}), keep=1)
    found = newest_checkpoint(store)
    assert found is not None
    other, fresh = pair(1)
    restore(found, other, [fresh])
    assert torch.equal(other[0].weight, model[0].weight)
    assert not fresh.state


def test_the_newest_stay(store: LocalStore) -> None:
    store.write("notes.txt", b"mine")
    written = [write_checkpoint(store, of(step), keep=2) for step in (5, 9, 10, 100)]
    assert checkpoint_keys(store) == [written[3], written[2]]
    assert store.read("notes.txt") == b"mine"
    found = newest_checkpoint(store)
    assert found is not None
    assert (found.step, found.state) == (100, {"step": 100})


def test_no_checkpoints(store: LocalStore) -> None:
    assert newest_checkpoint(store) is None


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"\x01", lambda data: b""])
def test_a_damaged_one_is_passed_over(store: LocalStore, caplog: pytest.LogCaptureFixture, damage) -> None:
    first, second = (write_checkpoint(store, of(step), keep=2) for step in (1, 2))
    store.write(second, damage(store.read(second)))
    with caplog.at_level(logging.WARNING):
        found = newest_checkpoint(store)
    assert found is not None
    assert found.step == 1
    assert store.uri(second) in caplog.text
    store.delete(first)
    assert newest_checkpoint(store) is None


def test_what_was_just_written_stays_though_a_damaged_one_looks_newer(store: LocalStore) -> None:
    damaged = write_checkpoint(store, of(9), keep=1)
    store.write(damaged, b"half")
    key = write_checkpoint(store, of(4), keep=1)
    assert store.stat(key) is not None
    found = newest_checkpoint(store)
    assert found is not None
    assert found.step == 4


def test_another_model_is_refused(store: LocalStore) -> None:
    model, optimizer = pair(0)
    train(model, optimizer, range(1))
    captured = capture(model, [optimizer], 1, {})
    for other in (pair(0, width=6), (nn.Linear(4, 3), torch.optim.AdamW(nn.Linear(4, 3).parameters()))):
        with pytest.raises(DataError, match="step 1 does not fit this model"):
            restore(captured, other[0], [other[1]])


def test_moments_of_another_kind_of_optimizer_are_refused(store: LocalStore) -> None:
    model, optimizer = pair(0)
    train(model, optimizer, range(1))
    captured = capture(model, [optimizer], 1, {})
    for number in ("7.0", "0"):  # of one optimizer more; of an older version
        tensors = {name.replace("optimizer.0.0", f"optimizer.{number}"): t for name, t in captured.tensors.items()}
        with pytest.raises(DataError, match="step 1 does not fit this model"):
            restore(Checkpoint(1, tensors, {}), model, [optimizer])


def test_a_file_of_others_is_refused_by_name(store: LocalStore) -> None:
    data = save({"weight": torch.zeros(2)})
    key = f"step-00000001-{hashlib.sha256(data).hexdigest()[:12]}.safetensors"
    store.write(key, data)
    with pytest.raises(DataError, match="was not written by vitseg"):
        newest_checkpoint(store)


def _write_forever(folder: str, first: int, checkpoints: list[Checkpoint]) -> None:
    store = LocalStore(Path(folder))
    for number in range(first, first + 10**6):
        write_checkpoint(store, Checkpoint(number, checkpoints[number % 2].tensors, {}), keep=2)


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_killed_writer_never_leaves_a_broken_one(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    """SIGKILL at many moments of a write: what is listed is whole, and the step never goes back."""
    large, last = [of(0, 300_000), of(1, 300_000)], 0
    for kill in range(8):
        child = multiprocessing.get_context("fork").Process(
            target=_write_forever, args=(str(store.folder), last + 1, large)
        )
        child.start()
        deadline = time.monotonic() + 30
        while len(checkpoint_keys(store)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05 + 0.013 * kill)
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        found = newest_checkpoint(store)
        assert found is not None
        assert found.step >= last
        assert 2 <= len(checkpoint_keys(store)) <= 3
        last = found.step
    assert "damaged" not in caplog.text
    assert last > 8
