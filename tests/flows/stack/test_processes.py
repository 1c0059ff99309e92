"""Locks between commands, and ports that are free."""

import socket
import time
from pathlib import Path

import pytest

from flows.stack import processes
from vitseg.errors import VitsegError


def test_lock_is_given_up_in_time(tmp_path: Path) -> None:
    start = time.monotonic()
    with (
        processes.locked(tmp_path / "lock"),
        pytest.raises(VitsegError, match="another command holds"),
        processes.locked(tmp_path / "lock", patience=0.3),
    ):
        pass
    assert time.monotonic() - start < 5


def test_free_ports_are_free_with_their_grpc_port() -> None:
    with socket.socket() as grpc:
        port = processes.free_ports(1)[0]
        grpc.bind(("127.0.0.1", port + 10_000))
        grpc.listen()
        assert not processes.is_free(port)
    ports = processes.free_ports(5)
    assert len(set(ports)) == 5
    assert all(10_000 <= port < 22_000 and processes.is_free(port) for port in ports)
