"""Batches: how many tokens go into one, and which prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from workbench.errors import WorkbenchError

BUDGETS = {
    "cpu": (512, 256, 1024),
    "mps": (1024, 512, 2048, 4096),
    "cuda": (8192, 4096, 16384, 32768, 65536),
}
"""Tokens per batch to try, by device, the likeliest first. On a CPU what fits the caches is fastest (on two cores a budget
of 512 ran 1.7 times as fast as 4,096); a GPU needs much to be busy."""


def next_batch(waiting: Sequence[tuple[Any, int]], budget: int, backwards: bool = False) -> list[tuple[Any, int]]:
    """The next things by length, as many as the budget holds once padded to the longest; at least one.

    Args:
        waiting: (thing, tokens), shortest first.
        budget: tokens, padding included.
        backwards: take from the longest end.
    """
    if backwards:
        size = max(1, min(len(waiting), budget // waiting[-1][1]))
        return list(waiting[-size:])
    size = 1
    while size < len(waiting) and (size + 1) * waiting[size][1] <= budget:
        size += 1
    return list(waiting[:size])


class BudgetSearch:
    """Tokens per batch: each candidate is tried on two batches of real work, then the fastest is kept."""

    def __init__(self, device: str, fixed: int | None = None) -> None:
        self._open = [] if fixed else [b for b in BUDGETS.get(device, BUDGETS["cuda"]) for _ in range(2)]
        self._speed: dict[int, float] = {}
        self._cap = float("inf")
        self.budget = fixed or self._open.pop(0)

    def record(self, tokens: int, seconds: float) -> None:
        """What a batch at the current budget took; chooses the budget of the next."""
        if not self._open and not self._speed:
            return
        self._speed[self.budget] = max(self._speed.get(self.budget, 0.0), tokens / max(seconds, 1e-9))
        best = max(self._speed, key=self._speed.__getitem__)
        # Larger budgets are not worth trying once one is clearly slower than the best smaller one.
        worse = self.budget > best and self._speed[self.budget] < 0.9 * self._speed[best]
        self._open = [b for b in self._open if b <= self._cap and not (worse and b >= self.budget)]
        if self._open:
            self.budget = self._open.pop(0)
        else:
            self.budget, self._speed = best, {}

    def halve(self, batch_size: int) -> None:
        """After the device ran out of memory: never try so much again."""
        if batch_size == 1:
            raise WorkbenchError(
                "The longest prompt must fit into memory on its own; it does not. "
                "Use a smaller dtype, fewer layers, or shorter prompts."
            )
        self.budget = self.budget // 2
        self._cap = self.budget
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
