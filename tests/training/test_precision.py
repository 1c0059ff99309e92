"""Which numbers a processor computes in."""

import pytest
import torch

from vitseg.training.precision import autocast_type


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_processors_compute_in_float32_unless_told_otherwise(precision: str, dtype: torch.dtype) -> None:
    assert autocast_type(precision, torch.device("cpu")) is dtype
