"""Copies to a device: from page-locked memory, and without waiting."""

import pytest
import torch

from vitseg.device_copy import to_device


def test_on_a_processor_nothing_is_copied() -> None:
    tensor = torch.arange(3)
    assert to_device(tensor, torch.device("cpu")) is tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [
            to_device(tensor, torch.device("cuda", 0)) for tensor in (torch.arange(3), torch.arange(3).pin_memory())
        ]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [each.tolist() for each in found] == [[0, 1, 2]] * 2
