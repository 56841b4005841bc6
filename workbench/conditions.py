"""CAST, a baseline: a behaviour is added only where a condition on the prompt is met (Lee et al. 2024, arXiv 2409.05907)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from workbench.activations import Activations
from workbench.contrasts import Strategy, pairwise_component
from workbench.directions import Direction, fit_direction
from workbench.examples import check_no_test
from workbench.interventions import origin
from workbench.parts import Intervention, Part, Step, check_layers, check_number, in_words
from workbench.places import check_place
from workbench.scopes import InterventionError

if TYPE_CHECKING:
    from jaxtyping import Float

THRESHOLDS = np.arange(0, 601) / 10_000
"""Candidates of the condition's threshold, 0 .. 0.06."""
_COMPARATORS = (">", "<")


@dataclass(frozen=True, eq=False, kw_only=True)
class Condition(Part):
    """Behaviour vectors added at every token of the prompts that meet a condition, and of what follows them.

    Attributes:
        name: of the condition vector.
        condition: unit vector, `[d_model]`.
        condition_layer: block whose output is compared with it.
        threshold: on the cosine.
        comparator: `>` or `<`.
        behaviours: unit vectors, `[layer, d_model]`.
        strength: how much of each is added, residual-stream units.
    """

    name: str
    condition: np.ndarray
    condition_layer: int
    threshold: float
    comparator: str
    behaviours: np.ndarray
    strength: float

    # The condition is on the mean over the prompt.
    reads_ahead = True

    @property
    def layers_hooked(self) -> tuple[int, ...]:
        """The layer of the condition and those of the behaviour."""
        return tuple(sorted({self.condition_layer, *self.layers}))

    def act(self, layer: int, hidden: torch.Tensor, step: Step) -> torch.Tensor:
        """See `Part.act`."""
        if layer == self.condition_layer and step.tokens.has_last:
            self._decide(hidden, step)
        if layer not in self.layers:
            return hidden
        where = step.tokens.within(self.tokens)
        met = step.memory["met"].to(where.device)[:, None] & where
        behaviour = step.tensor("behaviours", hidden)[self.layers.index(layer)]
        return step.change(layer, hidden, self.strength * behaviour, met)

    def _decide(self, hidden: torch.Tensor, step: Step) -> None:
        """The condition, on the mean over the prompt's own tokens; padding takes no part."""
        real = step.tokens.prompt.to(hidden.device)
        mean = torch.einsum("rtd,rt->rd", hidden.float(), real.float()) / real.sum(1, keepdim=True)
        c = step.tensor("condition", hidden)
        projected = torch.tanh((mean @ c)[:, None] * c)
        cosine = torch.nn.functional.cosine_similarity(mean, projected)
        met = cosine > self.threshold if self.comparator == ">" else cosine < self.threshold
        step.memory["met"] = met
        step.decide(cosine, self.threshold, met)

    def scaled(self, factor: float) -> Condition:
        """See `Part.scaled`."""
        return replace(self, strength=factor * self.strength)

    def __str__(self) -> str:
        return (
            f"cast({self.name} at layer {self.condition_layer} {self.comparator} {self.threshold!r}: "
            f"add {self.strength!r} at {self.place})"
        )


def cast(
    condition: Direction,
    behaviours: Sequence[Direction],
    threshold: float,
    comparator: str = ">",
    strength: float = 1.5,
) -> Intervention:
    """CAST (Lee et al. 2024, arXiv 2409.05907, section 3): if f(sim(h, proj_c h)) then h <- h + strength * behaviour.

    h in the condition is averaged over the real tokens of the prompt, where the release averages over padding too;
    sim is cos(h, tanh(P_c h)). The behaviour is added at every prompt and generated token, at the layer of each vector.

    Args:
        condition: c; its layer is where the condition is read.
        behaviours: one direction for each layer that is changed, none before the condition's.
        threshold: on the cosine.
        comparator: `>` or `<`: which side of the threshold meets the condition.
        strength: how much of each unit vector, residual-stream units; 1.5 in Aziz, Hanif and Koto 2026.

    Raises:
        InterventionError: no behaviours, two at a layer, one before the condition is read, or an unknown comparator.
        FitError: they are of different models.
    """
    layers = [b.layer for b in behaviours]
    if not layers or len(set(layers)) < len(layers) or min(layers) < condition.layer:
        raise InterventionError(
            f"CAST needs a behaviour for each layer it changes, none before the condition's layer {condition.layer}; got "
            f"layers {in_words(sorted(layers)) or 'none'}. Fit them with fit_direction(acts.sel(layer=...))."
        )
    if comparator not in _COMPARATORS:
        raise InterventionError(f"A comparator must be '>' or '<'; got {comparator!r}.")
    for behaviour in behaviours:
        check_place("behaviour", behaviour, condition.provenance)
    ordered = sorted(behaviours, key=lambda b: b.layer)
    part = Condition(
        **origin(condition),
        name=condition.name,
        condition=condition.vector.astype(np.float32),
        condition_layer=condition.layer,
        threshold=check_number("A threshold", threshold),
        comparator=comparator,
        behaviours=np.stack([b.vector for b in ordered]).astype(np.float32),
        strength=check_number("A strength", strength),
        layers=tuple(sorted(layers)),
        tokens="all",
    )
    return Intervention((part,))


def similarity(
    vectors: Float[np.ndarray, "prompt d_model"], condition: Float[np.ndarray, " d_model"]
) -> Float[np.ndarray, " prompt"]:
    """cos(h, tanh(P_c h)) of each vector, P_c the projection on the unit vector c; 0 for a vector orthogonal to it."""
    h = vectors.astype(np.float64)
    projected = np.tanh((h @ condition)[:, None] * condition)
    lengths = np.linalg.norm(h, axis=1) * np.linalg.norm(projected, axis=1)
    return np.divide((h * projected).sum(1), lengths, out=np.zeros(len(h)), where=lengths > 0)


# --- fitting ---------------------------------------------------------------------------------------------------------


def condition_surface(
    train: Activations,
    held: Activations,
    layers: Iterable[int] | None = None,
    thresholds: Float[np.ndarray, " threshold"] = THRESHOLDS,
    method: Strategy = pairwise_component,
) -> pd.DataFrame:
    """F1 of every condition of the search: layer x comparator x threshold.

    Args:
        train: activations with `prompt_mean`, which the condition vectors are fitted on.
        held: the same of the rows that conditions are judged on, such as validation prompts.
        layers: candidates; by default 1 .. 13, as in Aziz, Hanif and Koto 2026, as far as they are cached.
        thresholds: candidates, cosines.
        method: of the condition vector; the first principal component of pairwise-centred contrasts.

    Returns:
        One row per condition: `layer`, `comparator`, `threshold`, `f1`.

    Raises:
        FitError: test rows, or a contrast is degenerate.
        InterventionError: no such layer.
    """
    for acts in (train, held):
        check_no_test(acts.rows)
    candidates = [n for n in range(1, 14) if n in train.layers] if layers is None else layers
    harmful = (held.rows["label"] == "harmful").to_numpy()
    tables = []
    for layer in check_layers(train.provenance, candidates):
        condition = fit_direction(train.sel(layer=layer, position="prompt_mean"), method)
        cosines = similarity(held.sel(layer=layer, position="prompt_mean").vectors, condition.vector)
        for comparator in _COMPARATORS:
            met = cosines > thresholds[:, None] if comparator == ">" else cosines < thresholds[:, None]
            hits = (met & harmful).sum(1)
            f1 = 2 * hits / (met.sum(1) + harmful.sum())
            tables.append(pd.DataFrame({"layer": layer, "comparator": comparator, "threshold": thresholds, "f1": f1}))
    return pd.concat(tables, ignore_index=True)


def fit_cast(
    train: Activations,
    held: Activations,
    behaviour_layers: Iterable[int] = range(15, 24),
    strength: float = 1.5,
    condition_layers: Iterable[int] | None = None,
    behaviour_position: str = "last_prompt",
    method: Strategy = pairwise_component,
) -> Intervention:
    """CAST with the condition of highest F1 on the held rows; the first one wins.

    Args:
        train: activations that the vectors are fitted on: the condition's at `prompt_mean`, the behaviour's at
            `behaviour_position`.
        held: activations that the condition is chosen on.
        behaviour_layers: blocks whose output is changed, 15 .. 23 in Aziz, Hanif and Koto 2026.
        strength: see `cast`.
        condition_layers: candidates; see `condition_surface`. Those after the first behaviour layer are left out.
        behaviour_position: where the behaviour vectors are fitted.
        method: of all vectors.

    Raises:
        FitError: test rows, or a contrast is degenerate.
        InterventionError: no such layers.
    """
    changed = check_layers(train.provenance, behaviour_layers)
    wanted = range(1, 14) if condition_layers is None else condition_layers
    candidates = [layer for layer in wanted if layer in train.layers and layer <= min(changed)]
    surface = condition_surface(train, held, candidates, method=method)
    best = surface.loc[surface["f1"].idxmax()]
    layer = int(best["layer"])
    condition = fit_direction(train.sel(layer=layer, position="prompt_mean"), method)
    behaviours = [fit_direction(train.sel(layer=n, position=behaviour_position), method) for n in changed]
    return cast(condition, behaviours, float(best["threshold"]), str(best["comparator"]), strength)
