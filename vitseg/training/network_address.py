"""Which of this machine's addresses and network interfaces other nodes can reach: what it uses to reach them itself."""

import ipaddress
import socket

import psutil

_ELSEWHERE = "192.0.2.1"  # an address for documentation: the way there is the way to everywhere


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
            # The host is this machine, whose name is 127.0.1.1 to itself on many systems: others come another way.
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
