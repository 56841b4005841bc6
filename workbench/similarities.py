"""How alike the directions of a study are: between languages, tiers, harm types, and between harm and refusal."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from workbench.activations import Activations
from workbench.contrasts import DegenerateError
from workbench.directions import Direction, cosines, fit_direction
from workbench.errors import FitError
from workbench.refusals import fit_refusal
from workbench.sweeps import cells

COLUMNS = ("layer", "position", "a", "b", "cosine")
"""Columns of the table: place, the names of two directions, and their cosine in [-1, 1]."""


def compare_directions(
    acts: Activations, source_tier: str = "high", verdicts: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Cosines between all named directions at every layer and position, each pair in both orders.

    Names: `harm:<language>` and `harm:<tier>` (mean difference; a tier's pooled), `type:<harm type>` (of the source
    tier), and, at `last_prompt`, `refusal:<tier>` and `refusal:all` where prompts enough were refused and answered.

    Args:
        acts: activations of all places wanted; directions are fitted on `train` rows, refusal directions on those
            `train` and `val` rows that have a verdict.
        source_tier: tier of the harm types' directions.
        verdicts: of one judge and intervention; without them there are no refusal directions.

    Returns:
        The columns of `COLUMNS`.
    """
    parts = []
    for here in cells(acts):
        named = dict(_directions(here, source_tier, verdicts))
        if not named:
            continue
        matrix = cosines(named).rename_axis("a").reset_index().melt("a", var_name="b", value_name="cosine")
        parts.append(matrix.assign(layer=here.layers[0], position=here.positions[0])[list(COLUMNS)])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def _directions(here: Activations, source_tier: str, verdicts: pd.DataFrame | None) -> Iterator[tuple[str, Direction]]:
    """Those directions of one place that are defined; a place without a contrast simply has none."""
    train = here.sel(split="train")
    picks = [(f"harm:{code}", {"language": code}) for code in train.rows["language"].unique()]
    picks += [(f"harm:{tier}", {"tier": tier}) for tier in train.rows["tier"].unique()]
    if (train.rows["tier"] == source_tier).any():
        types = train.rows["harm_type"].dropna().unique()
        picks += [(f"type:{name}", {"tier": source_tier, "harm_type": name}) for name in types]
    for name, keys in picks:
        try:
            yield name, fit_direction(train.sel(**keys))
        except DegenerateError:
            continue
    if verdicts is not None and here.positions[0] == "last_prompt":
        yield from _refusal_directions(here, verdicts)


def _refusal_directions(here: Activations, verdicts: pd.DataFrame) -> Iterator[tuple[str, Direction]]:
    known = here.rows["prompt_id"].isin(verdicts["prompt_id"]) & here.rows["split"].isin(("train", "val"))
    if not known.any():
        return
    judged = here.sel(prompt_id=list(here.rows.loc[known, "prompt_id"]))
    for tier in (*judged.rows["tier"].unique(), "all"):
        try:
            yield f"refusal:{tier}", fit_refusal(judged if tier == "all" else judged.sel(tier=tier), verdicts)
        except FitError:  # too few were refused, or answered: the gap table has the counts
            continue
