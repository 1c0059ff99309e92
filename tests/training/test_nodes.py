"""The nodes of a training: what makes no sense is refused, and torch and its ranks meet where all nodes reach them."""

import pytest

from vitseg.errors import UsageError
from vitseg.training.nodes import Nodes, interface_towards


def test_several_nodes_need_a_place_to_meet() -> None:
    with pytest.raises(UsageError, match="--rendezvous"):
        Nodes(nnodes=2)
    with pytest.raises(UsageError, match="at least 1"):
        Nodes(nproc=0)
    with pytest.raises(UsageError, match="at least two"):  # alone, it would train beside the first node
        Nodes(nnodes=1, rendezvous="node-0:29400", first=False)
    options = Nodes(nproc=4, nnodes=2, rendezvous="node-0:29400").arguments("job-7", "unused")
    assert {"--nnodes=2", "--nproc-per-node=4", "node-0:29400", "job-7"} <= set(options)


@pytest.mark.parametrize("wrong", ["node-0", "node-0:", "29400:node-0"])
def test_a_place_to_meet_is_host_and_port(wrong: str) -> None:
    with pytest.raises(UsageError, match=f"{wrong}: write HOST:PORT"):
        Nodes(nnodes=2, rendezvous=wrong)


def test_ranks_keep_to_the_interface_of_the_meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    loopback = interface_towards("localhost")
    here = Nodes(nnodes=2, rendezvous="127.0.0.1:29400")
    assert here.network() == {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": f"={loopback}"}
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    assert here.network() == {"GLOO_SOCKET_IFNAME": loopback}, "what somebody has set stays"
    assert Nodes(nnodes=2, rendezvous="nowhere.invalid:29400").network() == {}


def test_the_first_node_hosts_the_meeting_and_is_rank_0() -> None:
    def options(first: bool, host: str) -> tuple[str, str]:
        given = Nodes(nnodes=2, rendezvous=f"{host}:29400", first=first).arguments("job", "unused")
        return given[given.index("--local-addr") + 1], given[given.index("--rdzv-conf") + 1]

    for host in ("10.0.0.9", "node-0", "zebra", "zz"):
        mine, theirs = options(True, host), options(False, host)
        assert mine == (host, "is_host=1"), "what all reach it at"
        assert theirs[1] == "is_host=0"
        assert mine[0] < theirs[0], "torch numbers nodes in this order"
