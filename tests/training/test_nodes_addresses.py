"""Addresses of this machine, and those that users write."""

import psutil
import pytest

from vitseg.training.nodes import address_towards, interface_towards, split_address


def test_addresses_are_split_at_the_port() -> None:
    assert split_address("node-0:29400") == ("node-0", 29400)
    assert split_address("[fd00::7]:29400") == ("fd00::7", 29400)
    for wrong in ("node-0", "node-0:", "29400:node-0"):
        with pytest.raises(ValueError):
            split_address(wrong)


def test_an_address_leads_to_the_interface_of_this_machine() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert "127.0.0.1" in {it.address for it in psutil.net_if_addrs()[str(interface_towards("localhost"))]}
