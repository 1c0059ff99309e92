"""Which of several failures is told, and in which words."""

import signal
from pathlib import Path

import pytest
import torch

from tests.training.conftest import small_recipe
from vitseg.errors import DataError, RankLostError, TrainingError
from vitseg.training.rank_failure import cause, described
from vitseg.training.watchdog import in_words, read_notes, what_hung

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
def test_who_runs_out_of_memory_hears_what_to_change_and_is_not_tried_again(error: Exception) -> None:
    found = cause([described(error, 1, small_recipe())], [(1, 1)], {})
    assert type(found) is TrainingError
    for words in ("rank 1 ran out of memory", "optimizer.accumulate", "data.batch_size", "now 1 and 8"):
        assert words in str(found)


def test_the_first_failure_is_told_and_not_its_echo() -> None:
    echo, own = described(GLOO, 0, None), described(DataError("shard 3 is damaged"), 1, None)
    found = cause([echo, own], [(0, 1), (1, 1)], {})
    assert (type(found), str(found)) == (DataError, "shard 3 is damaged")
    found = cause([echo], [(0, 1), (1, -signal.SIGKILL)], {})
    assert "rank 1 was killed by SIGKILL" in str(found)
    found = cause(
        [echo], [(0, 1), (1, -signal.SIGTERM)], {}
    )  # the agent has told it to leave; another node's rank is gone
    assert "rank 0 failed: RuntimeError" in str(found)
    assert type(found) is RankLostError


def test_who_hung_is_told_by_what_the_others_wait_for() -> None:
    title = " (most recent call first):\n"
    waiting = f'Thread 1{title}  File "dist.py", line 7 in sum_over_ranks\n  File "loop.py", line 3 in _step\n'
    on_gpu = f'Thread 1{title}  File "vitseg/training/loop.py", line 3 in _step\n'
    busy = (
        f'Thread 2{title}  File "x.py", line 7 in sum_over_ranks\n\nThread 1{title}  File "remote.py", line 9 in read\n'
    )
    fired = "Timeout (0:10:00)!\n"
    told = [str(cause([], [], {0: fired + waits, 1: busy})) for waits in (waiting, on_gpu)]
    assert told == ["rank 1 made no progress for 10 minutes"] * 2
    assert "ranks 0, 1 made no progress" in str(cause([], [], {0: fired + waiting, 1: waiting}))
    assert "rank 1 made no progress for 10 minutes: stopped" in str(cause([], [], {0: fired + waiting, 1: ""}))


def test_a_rank_that_lost_sight_of_the_one_that_hung_is_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "stacks-of-rank-0").write_text("")  # its error came before its timer
    (tmp_path / "stacks-of-rank-1").write_text(
        'Timeout (0:03:00)!\nThread 0x1 (most recent call first):\n  File "x.py" in read\n'
    )
    assert what_hung(read_notes(tmp_path, [0])) == "rank 1 made no progress for 3 minutes"
    assert what_hung(read_notes(tmp_path)) == "rank 1 made no progress for 3 minutes"  # it had no time to say so
    (tmp_path / "stacks-of-rank-1").write_text("")
    (tmp_path / "stacks-of-rank-2").write_text(
        'Timeout (0:03:00)!\nThread 0x1 (most recent call first):\n  File "y" in barrier\n'
    )
    assert "rank 1 made no progress for 3 minutes: stopped from outside" in what_hung(read_notes(tmp_path, [0]))
    assert in_words(read_notes(tmp_path, [0]))[1].startswith("rank 0, where it waited")
