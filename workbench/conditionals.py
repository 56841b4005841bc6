"""The paper's gate acting: add where it says harmful, ablate where it says harmless, read and done in one prefill."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from workbench.directions import Direction
from workbench.gates import Gate
from workbench.interventions import last_token, origin, removed
from workbench.parts import Intervention, Part, Step, check_number
from workbench.places import check_place
from workbench.scopes import InterventionError
from workbench.subspaces import Subspace


@dataclass(frozen=True, eq=False, kw_only=True)
class Conditional(Part):
    """Add where a gate says harmful, ablate where it says harmless, decided and done in the same prefill.

    Attributes:
        name: of the direction.
        basis: of the subspace that the gate reads, `[d_model, rank]`.
        slope: of the logit on the coordinates, `[rank]`.
        intercept: of the logit.
        threshold: on the logit.
        comparator: `>` or `>=`.
        unit: the direction, `[d_model]`.
        gap: 0.75 quantile of harmful minus 0.25 quantile of harmless projections, residual-stream units.
        strength: the paper's lambda.
    """

    name: str
    basis: np.ndarray
    slope: np.ndarray
    intercept: float
    threshold: float
    comparator: str
    unit: np.ndarray
    gap: float
    strength: float

    # What a harmless prompt's early tokens become is decided by its last one.
    reads_ahead = True

    @property
    def alpha(self) -> float:
        """How much is added to harmful rows, residual-stream units."""
        return self.strength * self.gap

    def act(self, layer: int, hidden: torch.Tensor, step: Step) -> torch.Tensor:
        """See `Part.act`."""
        if step.tokens.has_last:
            self._decide(hidden, step)
        fired, unit = step.memory["fired"].to(hidden.device), step.tensor("unit", hidden)
        taken, added = removed(hidden, unit[:, None]), (self.alpha * unit).expand(hidden.shape)
        everywhere, late = step.tokens.within("all"), step.tokens.within("last_prompt_then_generated")
        rows = fired[:, None].to(everywhere.device)
        where = (rows & late) | (~rows & everywhere)
        return step.change(layer, hidden, torch.where(fired[:, None, None], added, taken), where)

    def _decide(self, hidden: torch.Tensor, step: Step) -> None:
        """The gate, on the last token of each prompt, before anything is changed."""
        h = last_token(hidden, step)
        logit = (h.to(torch.float32) @ step.tensor("basis", hidden)) @ step.tensor("slope", hidden) + self.intercept
        fired = logit >= self.threshold if self.comparator == ">=" else logit > self.threshold
        step.memory["fired"] = fired
        step.decide(logit, self.threshold, fired)

    def scaled(self, factor: float) -> Conditional:
        """See `Part.scaled`."""
        return replace(self, strength=factor * self.strength)

    def __str__(self) -> str:
        return (
            f"conditional(logit {self.comparator} {self.threshold:.4g}: add {self.strength!r} x {self.gap:.4g} "
            f"{self.name}, else ablate, at {self.place})"
        )


def conditional(gate: Gate, space: Subspace, direction: Direction, strength: float = 1.0) -> Intervention:
    """The recalibrated gate's action (Aziz, Hanif and Koto 2026, arXiv 2606.01196, section on routing).

    Rows that the gate calls harmful, at their last prompt token: h <- h + alpha v at that token and at every generated
    one, alpha = strength * (0.75 quantile of harmful - 0.25 quantile of harmless projections on v). Rows that it calls
    harmless: h <- h - (h . v) v at all tokens, prompt and generated. Both at the one layer.

    Args:
        gate: fitted in the subspace.
        space: where the gate's features come from, at position `last_prompt`.
        direction: v, of the same layer.
        strength: the paper's lambda.

    Raises:
        FitError: the gate was fitted elsewhere, or the direction belongs to another model or layer.
        InterventionError: the subspace is not of `last_prompt`.
    """
    gate.check(space)
    check_place("direction", direction, space.provenance)
    if space.position != "last_prompt" or (direction.layer, direction.site) != (space.layer, space.site):
        raise InterventionError(
            f"The gate must read last_prompt at the layer and site that is changed; the subspace is of {space.position}, "
            f"layer {space.layer}, {space.site}, the direction of layer {direction.layer}, {direction.site}. Refit them."
        )
    slope = gate.weights / gate.scale
    part = Conditional(
        **origin(direction),
        name=direction.name,
        basis=space.basis[:, : gate.rank].astype(np.float32),
        slope=slope.astype(np.float32),
        intercept=float(gate.intercept - slope @ gate.mean),
        threshold=float(gate.threshold),
        comparator=gate.comparator,
        unit=direction.vector.astype(np.float32),
        gap=direction.quantiles[0] - direction.quantiles[1],
        strength=check_number("A strength", strength),
        layers=(direction.layer,),
        tokens="all",
    )
    return Intervention((part,))
