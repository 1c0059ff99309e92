"""Precision of forward passes, and deterministic sums."""

import os

import torch


def autocast_type(precision: str, device: torch.device) -> torch.dtype:
    """Return the type of a recipe's `run.precision` on a device; `auto`: a GPU's bfloat16, or else its float16.

    GPUs from before 2020 compute quickly in float16 alone, whose gradients have to be scaled: it holds nothing below
    6e-8. Processors stay with float32.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def make_deterministic() -> None:
    """Add up sums in the same order each time, on GPUs too; torch refuses operations that can't.

    Call it before anything is computed.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # https://docs.nvidia.com/cuda/cublas: reproducibility
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
