"""Repairs: named interventions, one for all languages or one for each, and the list that a study tries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from workbench.activations import Activations
from workbench.conditionals import conditional
from workbench.directions import Direction, fit_direction
from workbench.errors import FitError
from workbench.gates import Gate, fit_gate, recalibrate
from workbench.interventions import ablate, add
from workbench.measures import BASELINE
from workbench.parts import Intervention
from workbench.scores import features
from workbench.subspaces import Subspace, fit_subspace

BUDGETS = (0, 1, 4)
"""Labelled examples per class that the gate of a language is recalibrated with."""

RANK = 10
"""Dimensions of the harm subspace, where there are languages enough."""


@dataclass(frozen=True)
class Repair:
    """An intervention with a name, or one for each language.

    Attributes:
        name: what tables call it.
        everywhere: what is on; None is the model itself.
        by_language: what is on instead in some languages, by code.
        strength: of a strength sweep, how much; missing otherwise.
    """

    name: str
    everywhere: Intervention | None = None
    by_language: Mapping[str, Intervention] = field(default_factory=dict)
    strength: float | None = None

    def of(self, code: str) -> Intervention | None:
        """What is on in a language."""
        return self.by_language.get(code, self.everywhere)


def baseline() -> Repair:
    """The model itself, which every table compares with."""
    return Repair(BASELINE)


@dataclass(frozen=True, eq=False)
class Ingredients:
    """What repairs are made of, fitted on training prompts of the source languages at one layer.

    Attributes:
        direction: pooled harmfulness direction.
        space: harm subspace.
        gate: readout and threshold of the source languages.
        rows: feature rows of all prompts.
        source_tier: tier of the source languages.
    """

    direction: Direction
    space: Subspace
    gate: Gate
    rows: pd.DataFrame
    source_tier: str

    @property
    def gap(self) -> float:
        """Alpha at lambda = 1 (arXiv 2606.01196): 0.75 quantile of harmful minus 0.25 of harmless projections."""
        high, low = self.direction.quantiles
        return high - low

    @property
    def targets(self) -> list[str]:
        """Languages outside the source tier."""
        rows = self.rows[self.rows["tier"] != self.source_tier]
        return list(rows["language"].drop_duplicates())


def fit_ingredients(
    acts: Activations, layer: int, source_tier: str = "high", position: str = "last_prompt"
) -> Ingredients:
    """Direction, subspace and gate of the source languages' training prompts, and everybody's feature rows.

    Args:
        acts: activations of all prompts.
        layer: block whose output is read and changed.
        source_tier: tier of the source languages.
        position: token position that is read.
    """
    here = acts.sel(layer=layer, position=position)
    source = here.sel(tier=source_tier, split="train")
    space = fit_subspace(source, rank=min(RANK, source.rows["language"].nunique()))
    rows = features(here, space)
    gate = fit_gate(rows[(rows["tier"] == source_tier) & (rows["split"] == "train")], space=space)
    return Ingredients(fit_direction(source), space, gate, rows, source_tier)


def default_repairs(
    made: Ingredients,
    *,
    strength: float = 1.0,
    budgets: Sequence[int] = BUDGETS,
    seed: int = 0,
    others: Iterable[Repair] = (),
) -> list[Repair]:
    """What the default study tries: nothing, add, ablate, others' methods, and the conditional repair at each budget.

    Args:
        made: from `fit_ingredients`.
        strength: the paper's lambda, of `add` and of the conditional repair.
        budgets: labelled examples per class; 0 is the source threshold.
        seed: of the examples drawn.
        others: further repairs, put before the conditional ones: CAST, AdaSteer.

    Raises:
        FitError: a language has fewer training examples than a budget asks for.
    """
    plain = [
        baseline(),
        Repair("add", strength * made.gap * add(made.direction)),
        Repair("ablate", ablate(made.direction)),
    ]
    gated = [conditional_repair(made, budget, strength, seed) for budget in budgets if made.targets or not budget]
    return [*plain, *others, *gated]


def conditional_repair(made: Ingredients, budget: int, strength: float = 1.0, seed: int = 0) -> Repair:
    """The conditional repair with each target language's gate recalibrated on `budget` training examples per class.

    Source languages, and all languages at budget 0, keep the source threshold.

    Raises:
        FitError: a language has fewer training examples.
    """
    source = conditional(made.gate, made.space, made.direction, strength)
    own = {}
    for code in made.targets if budget else ():
        rows = made.rows[(made.rows["language"] == code) & (made.rows["split"] == "train")]
        try:
            gate = recalibrate(made.gate, rows, per_class=budget, seed=seed)
        except FitError as error:
            raise FitError(f"{code} at {budget} examples per class: {error}") from error
        own[code] = conditional(gate, made.space, made.direction, strength)
    return Repair(f"conditional b={budget}", source, own)


def strength_repairs(direction: Direction, strengths: Sequence[float], tokens: str | None = None) -> list[Repair]:
    """A strength sweep: the baseline, and the direction added at each strength, residual-stream units.

    The published sweep is `numpy.arange(0.25, 3.25, 0.25)` with the first principal component (arXiv 2606.01196).

    Args:
        direction: what is added.
        strengths: alpha, none of them 0, which is the baseline.
        tokens: where; as `add` has it by default.

    Raises:
        FitError: a strength is 0 or comes twice.
    """
    if 0 in strengths or len(set(strengths)) < len(strengths):
        raise FitError(f"Strengths must be different and not 0, which is the baseline; got {[*map(float, strengths)]}.")
    where = {"tokens": tokens} if tokens else {}
    added = [Repair(f"add {float(s):g}", add(direction, float(s), **where), strength=float(s)) for s in strengths]
    return [Repair(BASELINE, strength=0.0), *added]
