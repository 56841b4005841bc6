"""What an intervention does and what it costs, in one table: table -> table, each change paired prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from workbench.errors import FitError
from workbench.measures import BASELINE, MEASURE_COLUMNS, Contrast, Ratio, measured
from workbench.verdicts import refused

_RATIOS: dict[str, Ratio | Contrast] = {
    "harmful_refusal": Ratio("refused", label="harmful", share=True),
    "harmless_refusal": Ratio("refused", label="harmless", share=True),
    "delta": Contrast("harmful_refusal", "harmless_refusal"),
    "own_language": Ratio("own", label="harmful", missing="no_language", share=True, paired=False),
    "degenerate": Ratio("degenerate", share=True),
    "perplexity": Ratio("nll", "n_reply_tokens", missing="no_tokens", log=True),
    "kl": Ratio("kl", label="harmless", missing="no_kl"),
}

EFFECTS = (*_RATIOS, "seconds")
"""What is measured.

harmful_refusal, harmless_refusal: share refused, in [0, 1]; on XSTest the second is its over-refusal. delta: refusal
selectivity, the first minus the second. own_language: share of the refused harmful prompts whose refusal is in the
prompt's language. degenerate: share of replies that are none. perplexity: of all replies under the model itself, by
token. kl: nats, of the first token on harmless prompts, from the model itself to the changed one. seconds: per prompt.
"""

UNITS = dict.fromkeys(EFFECTS, "share") | {
    "delta": "difference of shares",
    "perplexity": "perplexity",
    "kl": "nats",
    "seconds": "seconds per prompt",
}
"""Unit of each measure, for axis labels."""

EFFECT_COLUMNS = ("name", "judge", *MEASURE_COLUMNS[1:])
"""Columns of the effects table: a row per run, judge, measure and language, and per tier (`language` empty).

name: of the run. relative_to: empty, or `baseline` where it is the change against that run, over the prompts known in
both, so that it may differ from the difference of two rows. n: rows it rests on. n_missing: rows without a verdict (of
own_language: refusals whose language nobody can say; of perplexity: replies without a token). n_degenerate: degenerate
replies, which leave the refusal rates. Of `seconds`: judge, language and tier empty, n the repeats, low and high the
extremes.
"""


def effect_table(
    verdicts: pd.DataFrame,
    damage: pd.DataFrame | None = None,
    seconds: pd.DataFrame | None = None,
    *,
    baseline: str = BASELINE,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Effect, damage and cost of every run, by language and tier, absolute and against the baseline.

    The rates of the baseline and their intervals are those of the gap table; other intervals are as `measured` says.

    Args:
        verdicts: a table from `judge` with a column `name`, of one judge or several, of one model.
        damage: from `damage`, with the same `name`.
        seconds: from `timing`: `name`, `repeat`, `seconds`.
        baseline: name of the run that others are compared with.
        draws: bootstrap resamples.
        seed: of the draws.

    Returns:
        The columns of `EFFECT_COLUMNS`.

    Raises:
        FitError: there is no baseline, several models are mixed, or a prompt has two verdicts in one run.
    """
    if verdicts["model"].nunique() != 1:
        raise FitError(f"Effects must be of one model; there are {verdicts['model'].nunique()}. Select one first.")
    parts = [
        measured(_outcomes(judged, damage), _RATIOS, baseline=baseline, draws=draws, seed=seed).assign(judge=judge)
        for judge, judged in verdicts.groupby("judge", sort=False)
    ]
    if seconds is not None:
        parts.append(pd.DataFrame(_seconds(seconds, baseline)).assign(judge=""))
    return pd.concat(parts, ignore_index=True)[list(EFFECT_COLUMNS)]


def _outcomes(verdicts: pd.DataFrame, damage: pd.DataFrame | None) -> pd.DataFrame:
    """What each run did to each prompt, as numbers; NaN where nobody can say."""
    verdict, reply = verdicts["verdict"], verdicts["reply_language"]
    was, known = refused(verdict), verdict.notna()
    own = (reply == verdicts["language"]).astype(float)
    rows = verdicts.assign(
        one=1.0,
        refused=was,
        degenerate=(verdict == "degenerate").astype(float).where(known),
        own=own.where((was == 1) & reply.notna()),
        no_verdict=~known,
        no_language=(was == 1) & reply.isna(),
    )
    names = ["nll", "n_reply_tokens", "kl"]
    if damage is None:
        return rows.assign(**dict.fromkeys(names, np.nan), no_tokens=False, no_kl=False)
    rows = rows.merge(damage[["name", "prompt_id", *names]], on=["name", "prompt_id"], how="left")
    return rows.assign(no_tokens=rows["nll"].isna(), no_kl=rows["kl"].isna())


def _seconds(table: pd.DataFrame, baseline: str) -> Iterator[dict]:
    """Median and extremes over repeats, and of the change repeat by repeat."""
    wide = table.pivot(index="repeat", columns="name", values="seconds")
    for name in table["name"].drop_duplicates():
        versions = {"": wide[name]}
        if name != baseline and baseline in wide:
            versions[BASELINE] = wide[name] - wide[baseline]
        for relative_to, values in versions.items():
            about = {"name": name, "dataset": "", "language": "", "tier": "", "measure": "seconds"}
            limits = {"value": float(values.median()), "low": float(values.min()), "high": float(values.max())}
            counts = {"n": int(values.notna().sum()), "n_missing": int(values.isna().sum()), "n_degenerate": 0}
            yield about | {"relative_to": relative_to} | limits | counts


# --- effect against damage -------------------------------------------------------------------------------------------


def trade_off(
    table: pd.DataFrame, gain: str = "delta", cost: str = "perplexity", relative_to: str = ""
) -> pd.DataFrame:
    """Effect against damage of every run in one row, and which runs no other beats at both.

    Args:
        table: from `effect_table`.
        gain: a measure; more is better.
        cost: a measure; less is better.
        relative_to: empty, or `baseline` for changes.

    Returns:
        A row per judge, data set, language or tier, and run that has both measures: `gain` and `cost` with `_low` and
        `_high`, and `on_front`, whether it is on the Pareto front of its language or tier.

    Raises:
        FitError: no run has both measures.
    """
    keys = ["judge", "dataset", "language", "tier", "name"]
    part = table[table["relative_to"] == relative_to]
    sides = [
        part[part["measure"] == measure]
        .set_index(keys)[["value", "low", "high"]]
        .set_axis([side, f"{side}_low", f"{side}_high"], axis=1)
        for side, measure in (("gain", gain), ("cost", cost))
    ]
    both = sides[0].join(sides[1], how="inner").reset_index()
    if both.empty:
        there = ", ".join(part["measure"].unique())
        raise FitError(f"A trade-off needs runs with {gain!r} and {cost!r}; the table has {there or 'nothing'}.")
    front = [pareto(p["gain"].to_numpy(), p["cost"].to_numpy()) for _, p in both.groupby(keys[:-1], sort=False)]
    at = np.concatenate([p.index for _, p in both.groupby(keys[:-1], sort=False)])
    return both.assign(on_front=pd.Series(np.concatenate(front), index=at))


def pareto(gain: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Which points are on the Pareto front, `[point]`: none has as much gain at less cost, or more gain at no more cost.

    A point with NaN is never on it, nor keeps another off.
    """
    known = ~(np.isnan(gain) | np.isnan(cost))
    no_worse = (gain[:, None] >= gain[None]) & (cost[:, None] <= cost[None])
    better = (gain[:, None] > gain[None]) | (cost[:, None] < cost[None])
    return known & ~(no_worse & better & known[:, None]).any(0)
