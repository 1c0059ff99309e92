"""Which of several failures is reported, and in which words."""

import signal
from pathlib import Path

import pytest
import torch

from tests.training.conftest import small_recipe
from vitseg import dist
from vitseg.errors import DataError, RankLostError, TrainingError
from vitseg.training.rank_reports import cause, describe_error
from vitseg.training.watchdog import RankNote, describe, read_notes, what_hung

GLOO = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_says_what_to_change_and_is_not_tried_again(error: Exception) -> None:
    found = cause([describe_error(error, 1, small_recipe())], [(1, 1)], {})
    assert type(found) is TrainingError
    for words in ("rank 1 ran out of memory", "optimizer.accumulate", "data.batch_size", "now 1 and 8"):
        assert words in str(found)


def test_the_first_failure_is_reported_and_not_its_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "lost_a_peer", lambda error: error is GLOO)
    echo, own = describe_error(GLOO, 0, None), describe_error(DataError("shard 3 is damaged"), 1, None)
    found = cause([echo, own], [(0, 1), (1, 1)], {})
    assert (type(found), str(found)) == (DataError, "shard 3 is damaged")
    found = cause([echo], [(0, 1), (1, -signal.SIGKILL)], {})
    assert "rank 1 was killed by SIGKILL" in str(found)
    found = cause(
        [echo], [(0, 1), (1, -signal.SIGTERM)], {}
    )  # the agent has told it to leave; another node's rank is gone
    assert "rank 0 failed: RuntimeError" in str(found)
    assert type(found) is RankLostError


def test_the_rank_that_waits_for_none_of_the_others_is_the_one_that_hung() -> None:
    fired, stacks = "Timeout (0:10:00)!\nThread 1", "Thread 1"
    waiting = RankNote(fired, "a sum over all ranks")
    assert str(cause([], [], {0: waiting, 1: RankNote(stacks)})) == "rank 1 made no progress for 10 minutes"
    assert "ranks 0, 1 made no progress" in str(cause([], [], {0: waiting, 1: waiting}))
    assert "rank 1 made no progress for 10 minutes: stopped" in str(cause([], [], {0: waiting, 1: RankNote("")}))


def test_a_rank_that_lost_the_one_that_hung_is_not_blamed(tmp_path: Path) -> None:
    def leave(rank: int, stacks: str, waits_for: str = "") -> None:
        (tmp_path / f"stacks-of-rank-{rank}").write_text(stacks)
        (tmp_path / f"wait-of-rank-{rank}").write_bytes(waits_for.encode().ljust(80, b"\0"))

    fired = 'Timeout (0:03:00)!\nThread 0x1 (most recent call first):\n  File "x.py" in read\n'
    leave(0, "", "all ranks")  # its error came before its timer
    leave(1, fired)
    assert what_hung(read_notes(tmp_path, [0])) == "rank 1 made no progress for 3 minutes"
    assert (
        what_hung(read_notes(tmp_path)) == "rank 1 made no progress for 3 minutes"
    )  # it had no time to report its error
    leave(1, "", "all ranks")
    leave(2, fired, "all ranks")
    assert "rank 1 made no progress for 3 minutes: stopped from outside" in what_hung(read_notes(tmp_path, [0]))
    assert describe(read_notes(tmp_path, [0]))[1].startswith("rank 0, where it waited for all ranks")
