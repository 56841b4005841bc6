"""Measures of runs on the same prompts: ratios of sums over prompts, by language and tier, absolute and against a baseline.

A run is one way of treating a model; outcomes are what it did to each prompt, as numbers, NaN where nobody can say. Every
change is paired: over the prompts known in both runs, under the same draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from workbench.errors import FitError, nearest
from workbench.intervals import Interval, difference, paired_difference, percentile, rate, resample
from workbench.languages import LANGUAGES, TIERS
from workbench.rows import groups

BASELINE = "baseline"
"""Name of the run with nothing on."""

MEASURE_COLUMNS = (
    *("name", "dataset", "language", "tier", "measure", "relative_to"),
    *("value", "low", "high", "n", "n_missing", "n_degenerate"),
)
"""Columns of a table of measures: a row per run, measure and language, and per tier (`language` empty)."""


@dataclass(frozen=True)
class Ratio:
    """A measure that is the sum of one column over the sum of another.

    Attributes:
        top: column summed above.
        bottom: column summed below; a row with NaN in either takes no part.
        label: rows of this label only; empty for all.
        missing: boolean column that says which rows are missing, and not merely outside.
        share: whether `top` is 0 or 1 and `bottom` 1, so that the measure is a rate.
        paired: whether a change needs a row to be known in both runs; if not, each run has rows of its own.
        log: whether the ratio is the logarithm of the measure.
    """

    top: str
    bottom: str = "one"
    label: str = ""
    missing: str = "no_verdict"
    share: bool = False
    paired: bool = True
    log: bool = False

    def of(self, weights: np.ndarray, rows: pd.DataFrame) -> np.ndarray:
        """The measure under weights `[draw, row]`, `[draw]`; NaN where nothing is below."""
        here = self.known(rows)
        top, bottom = (rows[name].to_numpy(float)[here] for name in (self.top, self.bottom))
        below = weights[:, here] @ bottom
        found = np.divide(weights[:, here] @ top, below, out=np.full(len(weights), np.nan), where=below > 0)
        return np.exp(found) if self.log else found

    def known(self, rows: pd.DataFrame) -> np.ndarray:
        """Rows it rests on, `[row]`."""
        return self._side(rows) & (rows[self.top].notna() & rows[self.bottom].notna()).to_numpy()

    def successes(self, rows: pd.DataFrame) -> tuple[int, int]:
        """Of a rate, successes and n."""
        here = self.known(rows)
        return int(rows[self.top][here].sum()), int(here.sum())

    def counts(self, rows: pd.DataFrame) -> tuple[int, int, int]:
        """n, n_missing, n_degenerate."""
        side = self._side(rows)
        missing, degenerate = ((side & rows[name].eq(1)).sum() for name in (self.missing, "degenerate"))
        return int(self.known(rows).sum()), int(missing), int(degenerate)

    def _side(self, rows: pd.DataFrame) -> np.ndarray:
        return (rows["label"] == self.label).to_numpy() if self.label else np.full(len(rows), True)


@dataclass(frozen=True)
class Contrast:
    """A measure that is the difference of two others, of rates on different prompts.

    Attributes:
        first: name of the one.
        second: name of what is subtracted.
    """

    first: str
    second: str


Measures = Mapping[str, Ratio | Contrast]


@dataclass(frozen=True, eq=False)
class Cell:
    """One measure of one language: its interval, its draws `[draw]`, and n, n_missing, n_degenerate."""

    interval: Interval
    drawn: np.ndarray
    counts: tuple[int, int, int]


def measured(
    outcomes: pd.DataFrame, measures: Measures, *, baseline: str = BASELINE, draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Measures of every run by language and tier, and their change against the baseline.

    Rates get Wilson's interval and their contrasts Newcombe's; changes of them the hull of Newcombe's paired interval and
    of a bootstrap of whole groups; other ratios the bootstrap. A tier is the unweighted mean of its languages, with the
    hull of the bootstrap, whose draws the languages of a parallel set share, and of the languages' own half-widths
    added in quadrature.

    Args:
        outcomes: a row per run and prompt: the keys, `name`, `one` (1), `degenerate`, and the columns of `measures`.
        measures: by name; a contrast after what it is made of.
        baseline: name of the run that others are compared with.
        draws: bootstrap resamples.
        seed: of the draws.

    Returns:
        The columns of `MEASURE_COLUMNS`. What rests on no row is left out.

    Raises:
        FitError: there is no baseline, or a run has a prompt twice.
    """
    names = list(outcomes["name"].drop_duplicates())
    if baseline not in names:
        raise FitError(f"Runs must be compared with one; there is none named {baseline!r}. {nearest(baseline, names)}")
    twice = outcomes[outcomes.duplicated(["name", "prompt_id"])]
    if len(twice):
        raise FitError(
            f"A run must hold each prompt once; {twice['name'].iloc[0]!r} has {len(twice)} too many. Drop duplicates of "
            "name and prompt_id, or give runs names of their own."
        )
    runs = {name: part for name, part in outcomes.groupby("name", sort=False)}
    rows: list[dict] = []
    for name, run in runs.items():
        rows += [{"name": name} | row for row in _records(_cells(run, None, measures, draws, seed), measures, "")]
        if name != baseline:
            cells = _cells(run, runs[baseline], measures, draws, seed)
            rows += [{"name": name} | row for row in _records(cells, measures, BASELINE)]
    return pd.DataFrame(rows, columns=list(MEASURE_COLUMNS))


# --- one run, one language -------------------------------------------------------------------------------------------


def _cells(
    run: pd.DataFrame, base: pd.DataFrame | None, measures: Measures, draws: int, seed: int
) -> dict[tuple[str, str, str], dict[str, Cell]]:
    """(data set, language, tier) -> measure -> cell; of changes against `base` where it is given."""
    if base is not None:
        run = run[run["prompt_id"].isin(base["prompt_id"])]
        base = base.set_index("prompt_id")
    order, found = list(LANGUAGES), {}
    keys = run[["dataset", "language", "tier"]].drop_duplicates().itertuples(index=False, name=None)
    for key in sorted(keys, key=lambda key: (key[0], order.index(key[1]))):
        rows = run[(run["dataset"] == key[0]) & (run["language"] == key[1])].reset_index(drop=True)
        other = None if base is None else base.loc[rows["prompt_id"]].reset_index()
        weights = resample(groups(rows), rows["label"], draws, seed)
        # Row 0 is the sample itself, the others are resamples of it.
        weights = np.concatenate([np.ones((1, len(rows)), weights.dtype), weights])
        found[key] = _language(rows, other, measures, weights)
    return found


def _language(
    rows: pd.DataFrame, base: pd.DataFrame | None, measures: Measures, weights: np.ndarray
) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for name, measure in measures.items():
        if isinstance(measure, Contrast):
            if measure.first in cells and measure.second in cells:
                one, other = (measures[which] for which in (measure.first, measure.second))
                newcombe = None if base is not None else difference(*one.successes(rows), *other.successes(rows))
                cells[name] = _contrast(cells[measure.first], cells[measure.second], newcombe)
            continue
        cell = _value(measure, rows, weights) if base is None else _change(measure, rows, base, weights)
        if cell.counts[0]:
            cells[name] = cell
    return cells


def _value(ratio: Ratio, rows: pd.DataFrame, weights: np.ndarray) -> Cell:
    drawn = ratio.of(weights, rows)
    interval = rate(*ratio.successes(rows)) if ratio.share else (float(drawn[0]), *percentile(drawn[1:]))
    return Cell(interval, drawn[1:], ratio.counts(rows))


def _change(ratio: Ratio, rows: pd.DataFrame, base: pd.DataFrame, weights: np.ndarray) -> Cell:
    """`rows` minus `base`, whose rows are the same prompts in the same order."""
    if ratio.paired:
        both = ratio.known(rows) & ratio.known(base)
        lost = {
            name: rows[name].eq(1) | base[name].eq(1) for name in (ratio.missing, "degenerate") if name != ratio.top
        }
        rows, base = (part.assign(**{ratio.top: part[ratio.top].where(both)}, **lost) for part in (rows, base))
    drawn = ratio.of(weights, rows) - ratio.of(weights, base)
    interval = (float(drawn[0]), *percentile(drawn[1:]))
    if ratio.share and ratio.paired:
        interval = _hull(
            paired_difference(*(part[ratio.top][both].to_numpy(float) for part in (rows, base))), drawn[1:]
        )
    elif ratio.share:
        interval = _hull(difference(*ratio.successes(rows), *ratio.successes(base)), drawn[1:])
    n, missing, degenerate = ratio.counts(rows)
    return Cell(interval, drawn[1:], (n if np.isfinite(drawn[0]) else 0, missing, degenerate))


def _contrast(one: Cell, other: Cell, newcombe: Interval | None) -> Cell:
    """One minus the other; of changes by Zou and Donner 2008 (Statistics in Medicine 27:1693) from their intervals."""
    (a, a_low, a_high), (b, b_low, b_high) = one.interval, other.interval
    drawn = one.drawn - other.drawn
    counts = tuple(x + y for x, y in zip(one.counts, other.counts, strict=True))
    closed = (a - b, a - b - float(np.hypot(a - a_low, b_high - b)), a - b + float(np.hypot(a_high - a, b - b_low)))
    return Cell(newcombe or _hull(closed, drawn), drawn, counts)


def _hull(closed: Interval, drawn: np.ndarray) -> Interval:
    """The smallest interval that holds both a closed-form one and that of the draws."""
    low, high = percentile(drawn)
    return float(closed[0]), float(np.fmin(closed[1], low)), float(np.fmax(closed[2], high))


# --- the table -------------------------------------------------------------------------------------------------------


def _records(cells: Mapping[tuple, Mapping[str, Cell]], measures: Measures, relative_to: str) -> Iterator[dict]:
    """Rows of the table: languages, then tiers."""
    for key, found in cells.items():
        for measure, cell in found.items():
            yield _record(key, measure, relative_to, cell)
    for dataset in dict.fromkeys(key[0] for key in cells):
        for tier in (*TIERS, "outside"):
            mine = [found for key, found in cells.items() if (key[0], key[2]) == (dataset, tier)]
            for measure in measures:
                known = [found[measure] for found in mine if measure in found]
                if known:
                    yield _record((dataset, "", tier), measure, relative_to, _mean(known))


def _record(key: tuple[str, str, str], measure: str, relative_to: str, cell: Cell) -> dict:
    about = dict(zip(("dataset", "language", "tier"), key, strict=True))
    about |= {"measure": measure, "relative_to": relative_to}
    about |= dict(zip(("value", "low", "high"), cell.interval, strict=True))
    return about | dict(zip(("n", "n_missing", "n_degenerate"), cell.counts, strict=True))


def _mean(cells: Sequence[Cell]) -> Cell:
    """Unweighted mean of languages."""
    value, low, high = np.array([cell.interval for cell in cells]).T
    mean, m = float(value.mean()), len(cells)
    down, up = (float(np.sqrt(np.nansum(x**2))) / m for x in (value - low, high - value))
    drawn = np.mean([cell.drawn for cell in cells], axis=0)
    counts = tuple(int(total) for total in np.sum([cell.counts for cell in cells], axis=0))
    return Cell(_hull((mean, mean - down, mean + up), drawn), drawn, counts)
