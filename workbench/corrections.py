"""Refusal rates corrected for a judge's errors, where people have labelled replies in that language."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from workbench.agreements import majority, side_by_side, truths
from workbench.analysis import refusal_rates
from workbench.errors import FitError
from workbench.intervals import Interval, rate
from workbench.verdicts import refused


def corrected_rates(
    verdicts: pd.DataFrame, judge: str, truth: Sequence[str] | None = None, *, at_least: int = 5
) -> pd.DataFrame:
    """Refusal rates per language and label, corrected for the judge's errors as labels in that language show them.

    Rogan and Gladen 1978 (American Journal of Epidemiology 107:71): p = (share + Sp - 1) / (Se + Sp - 1), with Se the share
    of refusals that the judge calls refused and Sp that of other replies that it calls not refused, among the labelled
    replies of the language (both labels together). Intervals after Lang and Reiczigel 2014 (Preventive Veterinary
    Medicine 113:13), which widen with the uncertainty of Se and Sp; never narrower than Wilson's of the raw share.

    The labelled replies must be like the others: drawn at random within what truth says, not picked by what the judge
    says. Degenerate replies, by either, leave all counts.

    Args:
        verdicts: tables from `judge` and `read_labels`, one below the other, of one model and one intervention. Labels
            may be on some replies only.
        judge: whose rates are corrected.
        truth: judges whose majority is the truth; by default all people (`human:...`).
        at_least: fewest labelled refusals, and fewest other labelled replies, in a language.

    Returns:
        The columns of `refusal_rates`, then `sensitivity`, `specificity`, `n_sensitivity`, `n_specificity`, `corrected`,
        `corrected_low`, `corrected_high` (shares; NaN where they cannot be told) and `reason`, which says why.

    Raises:
        FitError: several models or interventions, no such judge, or no labels at all.
    """
    for column in ("model", "intervention"):
        if verdicts[column].nunique() > 1:
            raise FitError(f"Rates must be of one {column}; there are {verdicts[column].nunique()}. Select one first.")
    wide, units = side_by_side(verdicts, [judge, *truths(verdicts, truth, judge)], refused)
    right, said = majority(wide.drop(columns=judge)), wide[judge]
    rates = refusal_rates(verdicts[verdicts["judge"] == judge])
    rows = []
    for row in rates.to_dict("records"):
        mine = (units["language"] == row["language"]) & right.notna() & said.notna()
        caught = said[mine & (right == 1)]
        passed = 1 - said[mine & (right == 0)]
        rows.append(row | _corrected(row["n_refused"], row["n"], caught, passed, at_least))
    return pd.DataFrame(rows)


def _corrected(n_refused: int, n: int, caught: pd.Series, passed: pd.Series, at_least: int) -> dict:
    known = {
        "sensitivity": float(caught.mean()) if len(caught) else np.nan,
        "specificity": float(passed.mean()) if len(passed) else np.nan,
        "n_sensitivity": len(caught),
        "n_specificity": len(passed),
    }
    value = (np.nan, np.nan, np.nan)
    if len(caught) < at_least or len(passed) < at_least:
        reason = (
            f"{len(caught)} labelled refusals and {len(passed)} other labelled replies; {at_least} of each are needed"
        )
    elif n == 0:
        reason = "the judge has no verdicts here"
    else:
        value = rogan_gladen(n_refused, n, int(caught.sum()), len(caught), int(passed.sum()), len(passed))
        reason = "the judge is no better than chance here" if np.isnan(value[0]) else ""
    return known | dict(zip(("corrected", "corrected_low", "corrected_high"), value, strict=True)) | {"reason": reason}


def rogan_gladen(
    k: int, n: int, caught: int, n_positive: int, passed: int, n_negative: int, level: float = 0.95
) -> Interval:
    """A share corrected for a test's errors, (value, low, high) in [0, 1].

    Value: Rogan and Gladen 1978. Interval: Lang and Reiczigel 2014, equations 4, 6, 7, 16 and 17, with the (1 - p)^2 that
    equation 4 means; widened to hold the value, and where it is narrower than Wilson's, to that width.

    Args:
        k: positives among the tested.
        n: tested.
        caught: positives among the truly positive.
        n_positive: truly positive.
        passed: negatives among the truly negative.
        n_negative: truly negative.
        level: coverage.

    Returns:
        NaN three times where the test tells no better than chance, with pseudo-counts or without.
    """
    assert min(n, n_positive, n_negative) > 0, (n, n_positive, n_negative)
    z = float(stats.norm.ppf((1 + level) / 2))
    raw = caught / n_positive + passed / n_negative - 1
    se, sp = (caught + 1) / (n_positive + 2), (passed + 1) / (n_negative + 2)
    telling = se + sp - 1
    if raw <= 0 or telling <= 0:
        return float("nan"), float("nan"), float("nan")
    value = (k / n + passed / n_negative - 1) / raw
    tested = n + z * z
    share = (k + z * z / 2) / tested
    p = (share + sp - 1) / telling
    by_se, by_sp = se * (1 - se) / (n_positive + 2), sp * (1 - sp) / (n_negative + 2)
    spread = np.sqrt(share * (1 - share) / tested + p * p * by_se + (1 - p) ** 2 * by_sp) / telling
    middle = p + 2 * z * z * (p * by_se - (1 - p) * by_sp)
    value = float(np.clip(value, 0, 1))
    low, high = (float(np.clip(end, 0, 1)) for end in (middle - z * spread, middle + z * spread))
    return _no_narrower(value, min(low, value), max(high, value), rate(k, n, level))


def _no_narrower(value: float, low: float, high: float, raw: Interval) -> Interval:
    """The interval, stretched about its middle within [0, 1] where cutting at 0 or 1 left it narrower than the raw one."""
    lacking = (raw[2] - raw[1]) - (high - low)
    if lacking > 0:
        low, high = low - lacking / 2, high + lacking / 2
        low, high = (0.0, high - low) if low < 0 else (1 - (high - low), 1.0) if high > 1 else (low, high)
    return value, low, high
