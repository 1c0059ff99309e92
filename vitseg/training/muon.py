"""Muon, many matrices at a time.

torch's own (`torch.optim.Muon`) takes one matrix after the other, each in some thirty small kernels: on a GPU their
launches take as long as the rest of a step. Here matrices of equal shape are stacked and turned together.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Muon


class StackedMuon(Muon):
    """`torch.optim.Muon` with Nesterov momentum and updates of AdamW's size (https://arxiv.org/abs/2502.16982)."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step; a closure is not asked for."""
        for group in self.param_groups:
            matrices = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not matrices:
                continue
            gradients = [matrix.grad for matrix in matrices]
            for matrix in matrices:
                if "momentum_buffer" not in self.state[matrix]:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
            means = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
            torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, means, group["momentum"])
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            for shape, which in _by_shape(updates).items():
                stack = torch.stack([updates[i].mT if updates[i].shape != shape else updates[i] for i in which])
                turned = orthogonalised(stack, group["ns_coefficients"], group["ns_steps"], group["eps"])
                parts = [part.mT if matrices[i].shape != shape else part for i, part in zip(which, turned, strict=True)]
                rate = 0.2 * group["lr"] * max(shape) ** 0.5
                torch._foreach_add_([matrices[i] for i in which], parts, alpha=-rate)


def _by_shape(matrices: Sequence[torch.Tensor]) -> dict[torch.Size, list[int]]:
    """Return the numbers of the matrices of each shape, that of tall ones turned on its side."""
    found = defaultdict(list)
    for number, matrix in enumerate(matrices):
        found[torch.Size(sorted(matrix.shape))].append(number)
    return found


def orthogonalised(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float
) -> torch.Tensor:
    """Return matrices with the singular vectors of the given ones, (N, rows, columns), and values near 1; bfloat16.

    By Newton and Schulz, with the coefficients of https://kellerjordan.github.io/posts/muon.
    """
    a, b, c = coefficients
    turned = matrices.bfloat16()
    turned /= torch.linalg.matrix_norm(turned, keepdim=True).clamp(min=epsilon)
    for _ in range(steps):
        gram = turned @ turned.mT
        turned = torch.baddbmm(turned, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), turned, beta=a)
    return turned
