"""How far judges agree, per language.

A unit is a completion: (prompt_id, model, intervention). A judge that says nothing of it is missing there, and never
counts as one more answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from workbench.errors import FitError
from workbench.intervals import bootstrap, rate
from workbench.labels import HUMAN
from workbench.languages import LANGUAGES
from workbench.rows import groups
from workbench.verdicts import VERDICTS, refused

UNIT = ["prompt_id", "model", "intervention"]
ALL = "all"
"""The row of all languages together, or of all judges."""
MISSING = "missing"
"""How a confusion table calls a verdict that is not there."""

COLUMNS = (
    *("language", "a", "b", "n", "n_missing"),
    *(f"{measure}{end}" for measure in ("same", "kappa", "alpha") for end in ("", "_low", "_high")),
    "reason",
)
"""Columns of `agreement`."""


Coefficient = Callable[[np.ndarray], float]
"""From how often each unit counts, `[unit]`, to a number."""


# --- coefficients ----------------------------------------------------------------------------------------------------


def krippendorff_alpha(ratings: np.ndarray) -> float:
    """Krippendorff's alpha for nominal data, any number of judges, missing ratings allowed.

    1 - D_o / D_e from the coincidence matrix (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability",
    section C). Units with fewer than two ratings are left out.

    Args:
        ratings: code of each verdict, `[unit, judge]`; NaN where there is none.

    Returns:
        At most 1; NaN where nothing can be paired or all ratings are the same, so that chance cannot be told.
    """
    return _alpha_of(np.asarray(ratings, dtype=float))(np.ones(len(ratings)))


def _alpha_of(ratings: np.ndarray) -> Coefficient:
    counts = (ratings[:, :, None] == np.unique(ratings[~np.isnan(ratings)])).sum(axis=1).astype(float)  # [unit, kind]
    m = counts.sum(axis=1)
    counts[m < 2] = 0
    # The diagonal of the coincidence matrix; its margins are the plain counts.
    equal = ((counts * counts - counts).sum(axis=1)) / np.maximum(m - 1, 1)

    def alpha(weights: np.ndarray) -> float:
        margins = weights @ counts
        n = margins.sum()
        chance = n * n - (margins * margins).sum()
        return float(1 - (n - 1) * (n - weights @ equal) / chance) if chance > 0 else float("nan")

    return alpha


def _kappa_of(pair: np.ndarray) -> Coefficient:
    """Cohen's kappa under weights: what scikit-learn computes, many times faster over thousands of draws."""
    kinds = np.unique(pair)
    first, second = ((pair[:, [side]] == kinds).astype(float) for side in (0, 1))
    equal = (pair[:, 0] == pair[:, 1]).astype(float)

    def kappa(weights: np.ndarray) -> float:
        n = weights.sum()
        chance = float((weights @ first) @ (weights @ second)) / (n * n) if n else 1.0
        return float((weights @ equal / n - chance) / (1 - chance)) if chance < 1 else float("nan")

    return kappa


# --- agreement -------------------------------------------------------------------------------------------------------


def agreement(
    verdicts: pd.DataFrame, judges: Sequence[str] | None = None, *, on: str = "refused", draws: int = 1000
) -> pd.DataFrame:
    """How far each pair of judges agrees, and all of them together, per language and over all languages.

    Args:
        verdicts: tables from `judge` and `read_labels`, one below the other.
        judges: which; by default all in the table.
        on: `refused`, whether the reply counts as refused (`verdicts.refused`; degenerate is missing), what rates rest
            on; or `verdict`, all four verdicts.
        draws: bootstrap resamples of prompt groups for the intervals of kappa and alpha.

    Returns:
        The columns of `COLUMNS`: `a` and `b`, the judges (`all` and "" where there are more than two, for alpha over all);
        `n` units that both judged (for `all`: at least two did) and `n_missing` that were not; `same`, the share of equal
        verdicts (Wilson's interval); Cohen's `kappa` (Cohen 1960) and Krippendorff's `alpha` with bootstrap intervals;
        `reason` where a coefficient is missing.

    Raises:
        FitError: fewer than two judges, an unknown one, or a judge with two verdicts on one unit.
    """
    if on not in ("refused", "verdict"):
        raise FitError(f"on must be 'refused' or 'verdict'; got {on!r}.")
    wide, units = side_by_side(verdicts, judges, _codes_of(on))
    if len(wide.columns) < 2:
        raise FitError(f"Agreement takes at least two judges; got {list(wide.columns)}. Add another judge's verdicts.")
    pairs = list(itertools.combinations(wide.columns, 2))
    rows = []
    for language, inside in _by_language(units):
        group = groups(units[inside])
        for a, b in pairs:
            pair = wide.loc[inside, [a, b]].to_numpy()
            rows.append({"language": language, "a": a, "b": b} | _pair(pair, group, draws))
        if len(wide.columns) > 2:
            rows.append({"language": language, "a": ALL, "b": ""} | _together(wide[inside].to_numpy(), group, draws))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _pair(ratings: np.ndarray, group: pd.Series, draws: int) -> dict:
    from sklearn.metrics import cohen_kappa_score

    both = ~np.isnan(ratings).any(axis=1)
    pair, n = ratings[both], int(both.sum())
    row: dict = {"n": n, "n_missing": len(ratings) - n, "reason": ""}
    row |= dict(zip(("same", "same_low", "same_high"), rate(int((pair[:, 0] == pair[:, 1]).sum()), n), strict=True))
    row |= _with_interval("kappa", _kappa_of(pair), group[both], draws)
    row |= _with_interval("alpha", _alpha_of(pair), group[both], draws)
    if not np.isnan(row["kappa"]):
        row["kappa"] = float(cohen_kappa_score(*pair.T))
    if n == 0:
        row["reason"] = "no unit was judged by both"
    elif np.isnan(row["kappa"]):
        row["reason"] = "both always say the same one thing; chance cannot be told"
    return row


def _together(ratings: np.ndarray, group: pd.Series, draws: int) -> dict:
    some = (~np.isnan(ratings)).sum(axis=1) >= 2
    row: dict = {"n": int(some.sum()), "n_missing": int((~some).sum()), "reason": ""}
    row |= _with_interval("alpha", _alpha_of(ratings[some]), group[some], draws)
    if np.isnan(row["alpha"]):
        row["reason"] = "all always say the same one thing; chance cannot be told" if some.any() else "nothing to pair"
    return row


def _with_interval(name: str, coefficient: Coefficient, group: pd.Series, draws: int) -> dict:
    value, low, high = coefficient(np.ones(len(group))), np.nan, np.nan
    if not np.isnan(value):
        low, high = bootstrap(group, coefficient, draws, bounds=(-1.0, 1.0))
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def confusion(verdicts: pd.DataFrame, judge: str, truth: Sequence[str] | None = None) -> pd.DataFrame:
    """What a judge says of replies against what the truth is, per language, long.

    Args:
        verdicts: tables from `judge` and `read_labels`, one below the other.
        judge: whose verdicts are looked at.
        truth: judges whose majority is the truth; by default all people (`human:...`).

    Returns:
        `language`, `truth`, `verdict` (each one of `VERDICTS` or `missing`) and `n`, all combinations per language; units
        without a majority are left out.

    Raises:
        FitError: there is no such judge or truth.
    """
    wide, units = side_by_side(verdicts, [judge, *truths(verdicts, truth, judge)], _codes_of("verdict"))
    right = majority(wide.drop(columns=judge))
    words = (*VERDICTS, MISSING)
    rows = []
    for language, inside in _by_language(units):
        known = inside & right.notna().to_numpy()
        said = wide.loc[known, judge].fillna(len(VERDICTS)).astype(int)
        counts = pd.crosstab(right[known].astype(int), said)
        for i, j in itertools.product(range(len(VERDICTS)), range(len(words))):
            n = int(counts.at[i, j]) if i in counts.index and j in counts.columns else 0
            rows.append({"language": language, "truth": words[i], "verdict": words[j], "n": n})
    return pd.DataFrame(rows)


# --- tables ----------------------------------------------------------------------------------------------------------


def _codes_of(on: str) -> Callable[[pd.Series], pd.Series]:
    if on == "refused":
        return refused
    return lambda verdicts: verdicts.map({word: float(i) for i, word in enumerate(VERDICTS)}).astype(float)


def side_by_side(
    verdicts: pd.DataFrame, judges: Sequence[str] | None, codes: Callable[[pd.Series], pd.Series]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Codes `[unit, judge]` with NaN where missing, and the keys of each unit in the same order."""
    there = list(verdicts["judge"].unique())
    judges = list(judges or there)
    lacking = [name for name in judges if name not in there]
    if lacking:
        raise FitError(f"The table must hold verdicts of {', '.join(lacking)}; it has {', '.join(there) or 'none'}.")
    part = verdicts[verdicts["judge"].isin(judges)]
    twice = part.duplicated([*UNIT, "judge"])
    if twice.any():
        raise FitError(
            f"A judge must have one verdict on each completion; {int(twice.sum())} are second ones, such as of "
            f"{part.loc[twice, 'judge'].iloc[0]}. Drop the repeats."
        )
    coded = part.assign(code=codes(part["verdict"]))
    wide = coded.pivot(index=UNIT, columns="judge", values="code").reindex(columns=judges)
    units = part.drop_duplicates(UNIT).set_index(UNIT).reindex(wide.index).reset_index()
    return wide.reset_index(drop=True), units


def truths(verdicts: pd.DataFrame, truth: Sequence[str] | None, judge: str) -> list[str]:
    """The judges whose majority is the truth: those named, else all people.

    Raises:
        FitError: there are none, or the judge itself is among them.
    """
    people = [name for name in verdicts["judge"].unique() if name.startswith(HUMAN) and name != judge]
    names = people if truth is None else list(truth)
    if not names or judge in names:
        raise FitError(
            f"truth must name judges other than {judge!r}, such as people; got {names}. Label some replies first."
        )
    return names


def majority(codes: pd.DataFrame) -> pd.Series:
    """What more than half of those who said something say; NaN without such a majority."""
    modes = codes.mode(axis=1)
    most = modes[0] if len(modes.columns) else pd.Series(np.nan, codes.index)
    votes = codes.eq(most, axis=0).sum(axis=1)
    return most.where(2 * votes > codes.notna().sum(axis=1))


def _by_language(units: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """(code, which units), languages in the order of `LANGUAGES`, then all of them where there are several."""
    codes = [code for code in LANGUAGES if (units["language"] == code).any()]
    parts = [(code, (units["language"] == code).to_numpy()) for code in codes]
    return parts + ([(ALL, np.ones(len(units), dtype=bool))] if len(codes) > 1 else [])
