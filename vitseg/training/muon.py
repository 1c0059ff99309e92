"""Muon, many matrices at a time.

torch's own (`torch.optim.Muon`) takes one matrix after the other, each in some thirty small kernels: on a GPU their
launches take as long as the rest of a step. Here matrices of equal shape are stacked and turned together, and ranks share
them out: what one has turned it hands to the others, in bfloat16.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Muon

from vitseg import dist


class StackedMuon(Muon):
    """`torch.optim.Muon` with Nesterov momentum and updates of AdamW's size (https://arxiv.org/abs/2502.16982)."""

    def __init__(self, groups: Sequence[dict[str, Any]], *, turn_in: torch.dtype = torch.bfloat16) -> None:
        """Take groups of matrices; `turn_in` is what they are orthogonalized in, which changes nothing but rounding."""
        super().__init__(groups, adjust_lr_fn="match_rms_adamw")
        self._turn_in = turn_in

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step; a closure is not asked for."""
        # All groups at once, though each has its own rate: there are few shapes, and many matrices of each.
        held = [(matrix, group) for group in self.param_groups for matrix in group["params"] if matrix.grad is not None]
        if not held:
            return
        matrices = [matrix for matrix, _ in held]
        gradients = [matrix.grad for matrix in matrices]
        for matrix in matrices:
            if "momentum_buffer" not in self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        means = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        first = self.param_groups[0]  # groups differ in their rates alone
        # torch's optimizers are built on these private functions: a few kernels for all matrices. Nothing public does it.
        torch._foreach_lerp_(means, gradients, 1 - first["momentum"])
        updates = torch._foreach_lerp(gradients, means, first["momentum"])
        torch._foreach_mul_(matrices, [1 - group["lr"] * group["weight_decay"] for _, group in held])
        turned = _share_out(updates, first, self._turn_in)
        rates = [0.2 * group["lr"] * max(matrix.shape) ** 0.5 for matrix, group in held]
        torch._foreach_add_(matrices, torch._foreach_mul(turned, [-rate for rate in rates]))


def _share_out(updates: Sequence[torch.Tensor], group: dict[str, Any], turn_in: torch.dtype) -> list[torch.Tensor]:
    """Return updates with all directions about equally long; each rank orthogonalizes its share and receives the others'."""
    rank, ranks = dist.place()
    shares = [[number for which in _by_shape(updates) for number in which][first::ranks] for first in range(ranks)]
    own: dict[int, torch.Tensor] = {}
    for which in _by_shape([updates[number] for number in shares[rank]]):
        numbers = sorted((shares[rank][index] for index in which), key=lambda number: _is_tall(updates[number]))
        stack = torch.stack([update.mT if _is_tall(update) else update for update in (updates[n] for n in numbers)])
        parts = orthogonalized(stack.to(turn_in), group["ns_coefficients"], group["ns_steps"], group["eps"]).bfloat16()
        wide = sum(not _is_tall(updates[number]) for number in numbers)
        # In memory as the matrices are: else every matrix would be updated by a kernel of its own.
        own |= dict(zip(numbers, [*parts[:wide], *parts[wide:].mT.contiguous()], strict=True))
    mine = torch.cat(
        [own[number].flatten() for number in shares[rank]] or [updates[0].new_zeros(0, dtype=torch.bfloat16)]
    )
    lengths = [sum(updates[number].numel() for number in share) for share in shares]
    found: dict[int, torch.Tensor] = {}
    for share, flat in zip(shares, dist.gather_flat(mine, lengths), strict=True):
        pieces = flat.to(updates[0].dtype).split([updates[number].numel() for number in share])
        found |= dict(zip(share, pieces, strict=True))
    return [found[number].view(update.shape) for number, update in enumerate(updates)]


def _is_tall(matrix: torch.Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _by_shape(matrices: Sequence[torch.Tensor]) -> list[list[int]]:
    """Return the numbers of the matrices of each shape, that of tall ones turned on its side."""
    found = defaultdict(list)
    for number, matrix in enumerate(matrices):
        found[tuple(sorted(matrix.shape))].append(number)
    return list(found.values())


def orthogonalized(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float
) -> torch.Tensor:
    """Return matrices with the singular vectors of the given ones, (N, rows, columns), and values near 1.

    By Newton and Schulz, with the coefficients of https://kellerjordan.github.io/posts/muon.
    """
    a, b, c = coefficients
    turned = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=epsilon)
    for _ in range(steps):
        gram = turned @ turned.mT
        turned = torch.baddbmm(turned, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), turned, beta=a)
    return turned
