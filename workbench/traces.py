"""What steering did: which rows, layers and positions it touched, what its gate said, how much it added."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from workbench.scopes import Layout

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

COLUMNS = ("batch", "row", "key", "part", "layers", "positions", "logit", "threshold", "fired", "added_norm")
"""The columns of `Trace.table`."""


class Recorder:
    """What one part of an intervention did to the rows of one batch; nothing leaves the device before the end."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        rows, device = len(layout.first), layout.first.device
        self.layers: set[int] = set()
        # They are added to in whatever mode the model runs in.
        with torch.inference_mode(False):
            self.size, self.count = torch.zeros(2, rows, device=device).unbind()
        self.passes: dict[int, tuple[torch.Tensor, int, torch.Tensor]] = {}
        self.decision: tuple[torch.Tensor, float, torch.Tensor] | None = None

    def touch(
        self,
        layer: int,
        which: int,
        start: int,
        rows: torch.Tensor,
        mask: Bool[torch.Tensor, "row token"],
        sizes: Float[torch.Tensor, "row token"],
    ) -> None:
        """A change at a layer: in which pass, from which column, to which rows of the batch and tokens, how large."""
        self.layers.add(layer)
        self.passes.setdefault(which, (rows, start, mask))
        device = self.size.device
        self.size.index_add_(0, rows, torch.where(mask, sizes.detach(), 0.0).sum(1).to(device))
        self.count.index_add_(0, rows, mask.sum(1).float().to(device))

    def decide(self, logit: torch.Tensor, threshold: float, fired: torch.Tensor) -> None:
        """What a gate said of every row, `[row]`; said again without a cache, and then the same."""
        if self.decision is None:
            self.decision = (logit, threshold, fired)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per row of the batch."""
        size, count, first = self.size.tolist(), self.count.tolist(), self.layout.first.tolist()
        positions = self._positions(first)
        table = [
            {
                "layers": tuple(sorted(self.layers)) if n else (),
                "positions": where,
                "touched": int(n),
                "added_norm": total / n if n else 0.0,
            }
            for total, n, where in zip(size, count, positions, strict=True)
        ]
        if self.decision is not None:
            logits, threshold, fired = self.decision
            for row, logit, decided in zip(table, logits.tolist(), fired.tolist(), strict=True):
                row |= {"logit": logit, "threshold": threshold, "fired": bool(decided)}
        return table

    def _positions(self, first: list[int]) -> list[tuple[int, ...]]:
        """Positions touched in each row, counted from its first token."""
        found: list[set[int]] = [set() for _ in first]
        for rows, start, mask in self.passes.values():
            alive = rows.tolist()
            for row, column in mask.nonzero().tolist():
                found[alive[row]].add(start + column - first[alive[row]])
        return [tuple(sorted(positions)) for positions in found]


@dataclass
class Trace:
    """What a `with steer(...)` did so far."""

    _rows: list[dict[str, Any]] = field(default_factory=list)
    _batches: int = 0

    def add(self, parts: dict[str, list[dict[str, Any]]], keys: tuple[str, ...], rows: list[int]) -> None:
        """What each part did to a batch that has ended; `rows` are the indices of its rows in the whole batch."""
        for name, done in parts.items():
            for i, row in enumerate(done):
                about = {"batch": self._batches, "row": rows[i], "key": keys[i] if keys else "", "part": name}
                self._rows.append(about | row)
        self._batches += 1

    @property
    def table(self) -> pd.DataFrame:
        """One row per batch, row and part of the intervention.

        `key` is the row's key in the store where it has one; `positions` count from the prompt's first token; `logit`,
        `threshold` and `fired` are missing where the part decides nothing; `added_norm` is the mean length of what was
        added to a token at a layer, over those touched, in residual-stream units.
        """
        table = pd.DataFrame(self._rows, columns=[*COLUMNS])
        return table.astype({"logit": "float64", "threshold": "float64", "fired": "boolean", "added_norm": "float64"})
