"""One more node: it waits for the first one, and not longer than that makes sense. tests/flows/tasks runs whole trainings."""

import socket
import threading
import time

import pytest

from flows.stack.stack import StackStatus
from vitseg.errors import NotFoundError, RankLostError


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_it_waits_until_the_first_node_listens(
    stack: StackStatus, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import train_node

    monkeypatch.setattr(train_node, "_POLL_SECONDS", 0.05)
    with socket.socket() as first:
        first.bind(("127.0.0.1", free_port))
        threading.Timer(0.5, first.listen).start()
        start = time.monotonic()
        train_node.wait_for(f"127.0.0.1:{free_port}", 60)
        assert time.monotonic() - start > 0.4


@pytest.mark.parametrize(("gone", "message"), [(False, "nobody listens"), (True, "has ended")])
def test_it_gives_up_in_time_or_when_the_training_has_ended(
    stack: StackStatus, free_port: int, monkeypatch: pytest.MonkeyPatch, gone: bool, message: str
) -> None:
    from flows import train_node

    monkeypatch.setattr(train_node, "_POLL_SECONDS", 0.05)
    with pytest.raises(RankLostError, match=message):
        train_node.wait_for(f"127.0.0.1:{free_port}", 60 if gone else 0.2, lambda: gone)


def test_a_job_that_it_can_not_reach_is_named(stack: StackStatus, shards: str) -> None:
    from flows.train_node import train_node

    with pytest.raises(NotFoundError, match=r"no job\.json"):
        train_node(shards, nnodes=2, rendezvous="127.0.0.1:1", job=f"{shards}/_vitseg/training/none")
