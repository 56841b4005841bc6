"""The examples of one language that a threshold can be set on, every draw of them, and what each threshold gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd

from workbench.errors import FitError
from workbench.examples import Rows, is_harmful
from workbench.gates import Gate, recalibrate, recalibrate_unlabelled
from workbench.intervals import difference, rate
from workbench.thresholds import choose_threshold, mean_shift, mixture, shrinkage, youden

VARIANTS = ("source", "mean shift", "mixture", "recalibrated", "shrunk")
"""Ways to set a threshold: the source's; without labels; on the chosen examples; on them, shrunk to the source's."""

MEASURES = ("TPR", "FPR", "Delta")
"""Share of harmful and of harmless test prompts that the gate fires on, and their difference; percent and points."""

MOST_DRAWS = 4000


class Pool:
    """Rows of one language under one gate.

    Attributes:
        rows: those that examples are taken from, split `train`, with their `logit`.
        test: those that thresholds are judged on, with their `logit`.
    """

    def __init__(self, gate: Gate, rows: Rows):
        """Cut the rows of a language, all splits."""
        self.gate = gate
        self.rows, self.test = (_read(gate, rows[rows["split"] == split]) for split in ("train", "test"))
        self._harmful, self._harmless = (np.sort(part) for part in _sides(self.test))
        self._spreads: dict[tuple[int, int], pd.DataFrame] = {}
        self._unlabelled = (
            {"mean shift": recalibrate_unlabelled(gate, self.rows, mean_shift),
             "mixture": recalibrate_unlabelled(gate, self.rows, mixture)}
            if len(self.rows) > 1 else {}
        )  # fmt: skip

    def gates(self, chosen: Sequence[str]) -> dict[str, Gate]:
        """A gate for each of `VARIANTS` that these examples allow, by their `prompt_id`."""
        made = {"source": self.gate, **self._unlabelled}
        examples = self.rows[self.rows["prompt_id"].isin(chosen)]
        if examples["label"].nunique() == 2:
            made |= {
                "recalibrated": recalibrate(self.gate, examples),
                "shrunk": recalibrate(self.gate, examples, shrink=shrinkage),
            }
        return made

    def measures(self, gates: Mapping[str, Gate]) -> pd.DataFrame:
        """What each gate gives on the test rows: `variant`, `threshold`, `measure`, `value`, `low`, `high`, `n`."""
        records = []
        for variant, gate in gates.items():
            k, m = (int(gate.above(side).sum()) for side in (self._harmful, self._harmless))
            n, o = len(self._harmful), len(self._harmless)
            found = dict(zip(MEASURES, (rate(k, n), rate(m, o), difference(k, n, m, o)), strict=True))
            for measure, (value, low, high) in found.items():
                about = {"variant": variant, "threshold": gate.threshold, "measure": measure}
                counted = {"TPR": n, "FPR": o, "Delta": n + o}[measure]
                records.append(about | {"value": 100 * value, "low": 100 * low, "high": 100 * high, "n": counted})
        return pd.DataFrame(records)

    def spread(self, harmful: int, harmless: int) -> pd.DataFrame:
        """What thresholds on so many examples give over all draws of that size, or over `MOST_DRAWS` of them.

        Returns:
            `variant` (`recalibrated`, `shrunk`), `measure`, `low`, `median`, `high` (2.5, 50 and 97.5 % of the draws),
            `draws` (how many were looked at) and `of` (how many there are).
        """
        if (harmful, harmless) not in self._spreads:
            self._spreads[harmful, harmless] = self._spread(harmful, harmless)
        return self._spreads[harmful, harmless]

    def _spread(self, harmful: int, harmless: int) -> pd.DataFrame:
        sides = [np.flatnonzero(is_harmful(self.rows) == side) for side in (True, False)]
        drawn, of = all_draws(sides[0], sides[1], harmful, harmless)
        if not len(drawn):
            return pd.DataFrame(columns=["variant", "measure", "low", "median", "high", "draws", "of"])
        scores = self.rows["logit"].to_numpy()[drawn]
        labels = np.arange(harmful + harmless) < harmful
        own = choose_threshold(scores, labels, youden)
        w = shrinkage(self.gate.source, scores, labels)
        records = []
        for variant, cuts in (("recalibrated", own), ("shrunk", w * own + (1 - w) * self.gate.source.threshold)):
            tpr, fpr = (100 * self._above(side, cuts) for side in (self._harmful, self._harmless))
            for measure, values in zip(MEASURES, (tpr, fpr, tpr - fpr), strict=True):
                low, median, high = np.quantile(values, [0.025, 0.5, 0.975])
                about = {"variant": variant, "measure": measure, "draws": len(drawn), "of": of}
                records.append(about | {"low": low, "median": median, "high": high})
        return pd.DataFrame(records)

    def _above(self, ranked: np.ndarray, cuts: np.ndarray) -> np.ndarray:
        """Share of sorted logits on the harmful side of each threshold."""
        if not len(ranked):
            return np.full(len(cuts), np.nan)
        side = "left" if self.gate.comparator == ">=" else "right"
        return 1 - np.searchsorted(ranked, cuts, side) / len(ranked)

    def propose(self, per_class: int) -> list[str]:
        """The most typical examples: those nearest to where the middle of their class is without labels.

        The threshold of a few rows lies between their scores, and varies least where each row stands for its class. The
        middles are the source's class means moved by the mean shift. A harm type gives a second example only once
        every type has given one.

        Raises:
            FitError: a class has fewer rows.
        """
        source = self.gate.source
        shift = float(self.rows["logit"].mean()) - source.centre if len(self.rows) else 0.0
        chosen: list[str] = []
        for label, middle in zip(("harmless", "harmful"), source.means, strict=True):
            part = self.rows[self.rows["label"] == label]
            if len(part) < per_class:
                raise FitError(
                    f"There must be {per_class} {label} training rows to propose from; there are {len(part)}. Ask for fewer."
                )
            ranked = part.assign(far=(part["logit"] - middle - shift).abs()).sort_values("far", kind="stable")
            turn = ranked.groupby("harm_type", sort=False, dropna=False).cumcount()
            order = ranked.assign(turn=turn).sort_values(["turn", "far"], kind="stable")
            chosen += list(order["prompt_id"].iloc[:per_class])
        return chosen


def all_draws(
    harmful: np.ndarray, harmless: np.ndarray, k: int, m: int, most: int = MOST_DRAWS, seed: int = 0
) -> tuple[np.ndarray, int]:
    """Every way to take k of the harmful and m of the harmless places, or `most` of them drawn at random.

    Returns:
        Places, `[draw, k + m]`, harmful ones first, and how many ways there are.
    """
    of = comb(len(harmful), k) * comb(len(harmless), m)
    if of == 0 or min(k, m) < 1:
        return np.empty((0, k + m), dtype=int), 0
    if of <= most:
        pairs = [(*one, *other) for one in combinations(harmful, k) for other in combinations(harmless, m)]
        return np.array(pairs, dtype=int), of
    rng = np.random.default_rng(seed)
    # The k smallest of as many random numbers as there are places: k places without replacement, for all draws at once.
    sides = (
        np.argpartition(rng.random((most, len(side))), take - 1, axis=1)[:, :take]
        for side, take in ((harmful, k), (harmless, m))
    )
    places = [side[at] for side, at in zip((harmful, harmless), sides, strict=True)]
    return np.concatenate(places, axis=1), of


def _read(gate: Gate, rows: Rows) -> Rows:
    return rows.assign(logit=gate(rows) if len(rows) else np.empty(0)).reset_index(drop=True)


def _sides(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    harmful, logits = is_harmful(rows), rows["logit"].to_numpy(float)
    return logits[harmful], logits[~harmful]
