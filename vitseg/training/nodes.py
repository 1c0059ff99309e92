"""The machines of a training: how many, with how many ranks each, where they meet, and the way there.

Nothing heavy is imported: the command line checks these numbers before anything else.
"""

import ipaddress
import os
import socket
from dataclasses import dataclass

import psutil

from vitseg.errors import UsageError

_ELSEWHERE = "192.0.2.1"  # for documentation (RFC 5737): reached by the interface that leads outside; nothing is sent


@dataclass(frozen=True)
class Nodes:
    """How many machines take part, how many ranks each runs, and where they meet (`host:port`, on the first of them)."""

    nproc: int = 1
    nnodes: int = 1
    rendezvous: str = ""
    first: bool = True
    """Whether they meet on this machine: rank 0, which reports progress, runs there."""

    def __post_init__(self) -> None:
        if self.nproc < 1 or self.nnodes < 1:
            raise UsageError("--nproc and --nnodes are at least 1")
        if self.nnodes < 2 and not self.first:
            raise UsageError("one more node makes at least two: --nnodes is the number of all of them")
        if self.nnodes > 1 and not self.rendezvous:
            raise UsageError("--nnodes needs --rendezvous HOST:PORT: one address that every node reaches")
        if self.nnodes > 1:
            try:
                split_address(self.rendezvous)
            except ValueError:
                raise UsageError(f"--rendezvous {self.rendezvous}: write HOST:PORT, as node-0:29400") from None

    @property
    def world_size(self) -> int:
        """Ranks, all together."""
        return self.nproc * self.nnodes

    def network(self) -> dict[str, str]:
        """Return the variables that keep the ranks of several machines to the network in which they meet.

        By default they may choose an interface that leads nowhere: the one that the machine's own name resolves to.
        """
        interface = interface_towards(split_address(self.rendezvous)[0]) if self.nnodes > 1 else None
        wanted = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface and f"={interface}"}
        return {name: value for name, value in wanted.items() if value and not os.environ.get(name)}

    def arguments(self, job_id: str, meeting: str) -> list[str]:
        """Return the options of `torch.distributed.run`. Restarts are the flow's business: from a checkpoint.

        On one machine agent and ranks meet in files of the folder `meeting`: nothing listens for them.
        """
        if self.nnodes == 1:
            place = ["--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file", "--local-addr", "127.0.0.1"]
            place += ["--rdzv-endpoint", f"{meeting}/agent", "--rdzv-id", job_id]
        else:
            place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", self.rendezvous, "--rdzv-id", job_id]
            # Torch would guess from host names which node is the first, and let the ranks meet at this machine's own name;
            # all reach the rendezvous anyway. It numbers nodes in the order of their addresses; `~` comes last.
            place += ["--rdzv-conf", f"is_host={int(self.first)}"]
            place += ["--local-addr", split_address(self.rendezvous)[0] if self.first else f"~{socket.gethostname()}"]
        return [f"--nnodes={self.nnodes}", f"--nproc-per-node={self.nproc}", "--max-restarts=0", *place]


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`, also of `[host]:port`.

    Raises:
        ValueError: there is no port.
    """
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def address_towards(host: str) -> str:
    """Return the address of this machine that it reaches a host from; nothing is sent.

    Raises:
        OSError: the host's name is unknown, or there is no way to it.
    """
    family, kind, protocol, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])


def interface_towards(host: str) -> str | None:
    """Return the name of the network interface that this machine reaches a host by; None where that is unknown."""
    try:
        address = address_towards(host)
        if ipaddress.ip_address(address).is_loopback and not _is_loopback(host):
            # The host is this machine, which many systems call 127.0.1.1; other machines reach it by another address.
            address = address_towards(_ELSEWHERE)
    except OSError:
        return None
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, known in interfaces if address in {it.address for it in known}), None)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
