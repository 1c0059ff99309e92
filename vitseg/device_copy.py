"""Copies to a device for which nothing waits."""

from torch import Tensor, device


def to_device(tensor: Tensor, target: device) -> Tensor:
    """Return a tensor on a device. A GPU takes it from page-locked memory, at its own time: the caller need not wait."""
    if target.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(target)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(target, non_blocking=True)
