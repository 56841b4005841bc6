"""Sweeps over layers and positions: how well harm can be told in every language, and which layer that chooses.

What is fitted and what it is judged on are two selections of the same activations and never share a prompt group;
choosing looks at validation prompts and raises where test prompts took part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from workbench.activations import Activations
from workbench.areas import area_interval
from workbench.contrasts import DegenerateError, Strategy, mean_difference, name_of
from workbench.directions import fit_direction
from workbench.errors import FitError
from workbench.intervals import resample
from workbench.places import group_names
from workbench.rows import groups

SOURCE = {"tier": "high", "split": "train"}
"""Rows that directions are fitted on unless asked otherwise."""

VALIDATION = {"split": "val"}
"""Rows that choices are made on."""

SURFACE = ("language", "tier", "layer", "position", "method", "split", "auroc", "low", "high", "n", "reason")
"""Columns of a sweep. reason: why a cell has no number; empty where it has one."""


# --- a fit and what it is judged on ----------------------------------------------------------------------------------


def in_memory(acts: Activations) -> Activations:
    """The same activations of one layer and position, read once and kept."""
    kept = Activations.from_arrays(
        acts.vectors[:, None, None, :], acts.rows, acts.positions, acts.layers, acts.provenance
    )
    return replace(kept, site=acts.site, state=acts.state)


def cells(acts: Activations) -> Iterator[Activations]:
    """Each layer and position in turn, read once."""
    for position in acts.positions:
        for layer in acts.layers:
            yield in_memory(acts.sel(layer=layer, position=position))


def check_apart(fit: pd.DataFrame, on: pd.DataFrame) -> None:
    """Raise where rows to be judged share a prompt group with rows to be fitted on, or those hold test prompts.

    Raises:
        FitError: they do; the message names a group.
    """
    if (fit["split"] == "test").any():
        raise FitError(
            f"Test prompts must take no part in a fit; {int((fit['split'] == 'test').sum())} of the {len(fit)} rows "
            "to fit on are. Select split='train' for fit."
        )
    shared = group_names(fit) & group_names(on)
    if shared:
        raise FitError(
            f"What is judged must not have taken part in the fit, nor may its translations; {len(shared)} groups are "
            f"on both sides ({min(shared)}). Select different splits for fit and on, or use cross_project."
        )


@dataclass(frozen=True, eq=False)
class Judged:
    """The rows that scores are judged on, language by language, with the draws for their intervals.

    Attributes:
        rows: keys, `[prompt]`.
        parts: per language its rows' places `[row]`, which are harmful `[row]`, and weights `[draw, row]`.
    """

    rows: pd.DataFrame
    parts: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, rows: pd.DataFrame, draws: int, seed: int) -> Judged:
        """Languages of a parallel set get the same draws."""
        rows, parts = rows.reset_index(drop=True), {}
        for language, part in rows.groupby("language", sort=False):
            harmful = (part["label"] == "harmful").to_numpy()
            parts[language] = part.index.to_numpy(), harmful, resample(groups(part), part["label"], draws, seed)
        return cls(rows, parts)

    def areas(self, scores: np.ndarray) -> Iterator[dict]:
        """AUROC of scores `[prompt]` for each language: `language`, `tier`, `auroc`, `low`, `high`, `n`."""
        tiers = self.rows.drop_duplicates("language").set_index("language")["tier"]
        for language, (at, harmful, weights) in self.parts.items():
            area, low, high = area_interval(scores[at], harmful, weights)
            yield {"language": language, "tier": tiers[language], "auroc": area, "low": low, "high": high, "n": len(at)}


def splits_of(rows: pd.DataFrame) -> str:
    """The splits of rows, joined for a table column: `val`, `train+val`."""
    return "+".join(sorted(rows["split"].astype(str).unique()))


# --- harm ------------------------------------------------------------------------------------------------------------


def sweep(
    acts: Activations,
    fit: Mapping[str, Any] | None = None,
    on: Mapping[str, Any] | None = None,
    method: Strategy = mean_difference,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """AUROC of a harmfulness direction in every language at every layer and position.

    Args:
        acts: activations of all layers and positions to sweep.
        fit: keys of the rows the direction is fitted on, as for `acts.sel`; `SOURCE` by default.
        on: keys of the rows it is judged on; `VALIDATION` by default.
        method: a strategy of `workbench.contrasts`.
        draws: bootstrap resamples for the intervals, shared by the languages of a parallel set.
        seed: of the resampling.

    Returns:
        One row per language, layer and position: `language`, `tier`, `layer`, `position`, `method`, `split` (judged
        on), `auroc`, `low`, `high`, `n`, `reason` (why a cell has no number; empty where it has one).

    Raises:
        FitError: rows to be judged share a prompt group with rows to be fitted on, those hold test prompts, or a
            class has fewer than two prompts.
    """
    fit, on = dict(SOURCE if fit is None else fit), dict(VALIDATION if on is None else on)
    held = acts.sel(**on).rows
    check_apart(acts.sel(**fit).rows, held)
    judged, records = Judged.of(held, draws, seed), []
    for here in cells(acts):
        reason = ""
        try:
            scores = fit_direction(here.sel(**fit), method)(here.sel(**on).vectors).astype(np.float64)
        except DegenerateError as error:
            # One degenerate layer must not lose the sweep: its cells stay, without a number and with the reason.
            reason, scores = str(error), None
        where = {"layer": here.layers[0], "position": here.positions[0], "method": name_of(method), "reason": reason}
        if scores is None:
            empty = {"auroc": np.nan, "low": np.nan, "high": np.nan}
            records += [where | row | empty for row in judged.areas(np.zeros(len(held)))]
        else:
            records += [where | row for row in judged.areas(scores)]
    return pd.DataFrame(records).assign(split=splits_of(held))[list(SURFACE)]


def surface(scores: pd.DataFrame, split: str = "val", draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The table of `sweep` from scores that are there already: one row per language, layer, position and method.

    Args:
        scores: tables of `project` for every place and direction, one below the other, on the same prompts.
        split: prompts to judge on.
        draws: bootstrap resamples for the intervals, shared by the languages of a parallel set.
        seed: of the resampling.

    Raises:
        FitError: no scores are of this split.
    """
    held = scores[scores["split"] == split]
    if held.empty:
        raise FitError(f"There must be scores of split {split!r}; there are of {sorted(scores['split'].unique())}.")
    parts = list(held.groupby(["position", "layer", "direction"], sort=False))
    rows = parts[0][1].reset_index(drop=True)
    judged, records = Judged.of(rows, draws, seed), []
    for (position, layer, direction), part in parts:
        where = {"layer": layer, "position": position, "method": direction.split("/")[1], "reason": ""}
        values = part.set_index("prompt_id")["score"].reindex(rows["prompt_id"]).to_numpy(dtype=np.float64)
        records += [where | row for row in judged.areas(values)]
    return pd.DataFrame(records).assign(split=split)[list(SURFACE)]


@dataclass(frozen=True, eq=False)
class Choice:
    """A layer and position, chosen on validation, with all that they were chosen from.

    Attributes:
        layer: block index.
        position: token position.
        value: mean over languages of the measure there.
        measure: the measure that was maximised.
        surface: a row per layer and position: `layer`, `position`, `mean` (over languages, unweighted), `lowest`
            (language), `n_languages`; best first.
    """

    layer: int
    position: str
    value: float
    measure: str
    surface: pd.DataFrame


def choose_layer(surface: pd.DataFrame, measure: str = "auroc") -> Choice:
    """The layer and position with the highest unweighted mean over languages; the earliest layer among equals.

    Args:
        surface: a table from `sweep` or `u_scores`; select languages or positions first to choose for those only.
        measure: `auroc` or `u_score`.

    Raises:
        FitError: test prompts took part in the table, or no layer has a number in every language.
    """
    splits = {part for value in surface["split"].unique() for part in value.split("+")}
    if "test" in splits:
        raise FitError(
            "A layer must be chosen without test prompts; this table was made on split "
            f"{', '.join(sorted(splits))}. Use sweep(acts, on={{'split': 'val'}})."
        )
    rows = []
    for (position, layer), part in surface.groupby(["position", "layer"], sort=False):
        # skipna=False: a layer that lost its worst languages must not win by that.
        mean = float(part[measure].mean(skipna=False))
        lowest = part.loc[part[measure].idxmin(), "language"] if part[measure].notna().any() else ""
        rows.append({"layer": layer, "position": position, "mean": mean, "lowest": lowest, "n_languages": len(part)})
    table = pd.DataFrame(rows)
    # Means that differ by rounding only count as equal.
    order = table.assign(rank=-table["mean"].round(12)).sort_values(["rank", "layer"], kind="stable").index
    table = table.loc[order].reset_index(drop=True)
    best = table.iloc[0]
    if np.isnan(best["mean"]):
        raise FitError(
            f"A layer must have a number in every language to be chosen; none has. See the column {measure!r}."
        )
    return Choice(int(best["layer"]), str(best["position"]), float(best["mean"]), measure, table)
