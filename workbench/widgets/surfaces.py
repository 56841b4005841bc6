"""AUROC over languages, positions and layers as an array, cut from the table of a sweep once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from workbench.languages import LANGUAGES, TIERS
from workbench.widgets.texts import name_of, plot_text


@dataclass(frozen=True, eq=False)
class Surface:
    """AUROC of one method on one split.

    Attributes:
        languages: codes, `[language]`, with `tier` of each.
        tier: code -> tier.
        positions: names.
        layers: numbers.
        auroc: `[language, position, layer]`, as are `low`, `high` and `reason` (why a cell has no number).
    """

    languages: list[str]
    tier: dict[str, str]
    positions: list[str]
    layers: list[int]
    auroc: np.ndarray
    low: np.ndarray
    high: np.ndarray
    reason: np.ndarray
    _said: dict[tuple[str, int], list[str]] = field(default_factory=dict, repr=False)

    @property
    def tiers(self) -> list[str]:
        """Tiers that have languages, richest first."""
        there = set(self.tier.values())
        return [tier for tier in (*TIERS, "outside") if tier in there]

    def groups(self, rows: str) -> list[str]:
        """Names of the rows of a map by `languages` or by `tiers`."""
        return self.languages if rows == "languages" else [f"tier:{tier}" for tier in self.tiers]

    def members(self, group: str) -> list[str]:
        """Codes of a group."""
        if group in self.tier:
            return [group]
        wanted = group.removeprefix("tier:")
        return [code for code in self.languages if group == "all" or self.tier[code] == wanted]

    def mean(self, members: Sequence[str]) -> np.ndarray:
        """Unweighted mean over languages, `[position, layer]`; NaN where one of them has no number."""
        return self.auroc[[self.languages.index(code) for code in members]].mean(0)

    def words_of(self, group: str, place: int) -> list[str]:
        """What the cells of a group hold at a position, layer by layer; put together once."""
        if (group, place) not in self._said:
            members = self.members(group)
            self._said[group, place] = [self.words(members, place, layer) for layer in range(len(self.layers))]
        return self._said[group, place]

    def words(self, members: Sequence[str], place: int, layer: int) -> str:
        """What a cell holds, in plotly's markup."""
        at = [self.languages.index(code) for code in members]
        values, where = self.auroc[at, place, layer], f"layer {self.layers[layer]}, {plot_text(self.positions[place])}"
        if np.isnan(values).any():
            first = int(np.argmax(np.isnan(values)))
            return f"{where}<br>no number in {plot_text(members[first])}: {plot_text(self.reason[at[first], place, layer], 120)}"
        if len(at) == 1:
            low, high = self.low[at[0], place, layer], self.high[at[0], place, layer]
            return f"{plot_text(name_of(members[0]))}<br>{where}<br>AUROC {values[0]:.3f} [{low:.3f}, {high:.3f}]"
        worst = int(values.argmin())
        lowest = f"lowest {plot_text(name_of(members[worst]))} {values[worst]:.3f}"
        return f"mean of {len(at)} languages<br>{where}<br>AUROC {values.mean():.3f}<br>{lowest}"


def surfaces(sweep: pd.DataFrame | None) -> dict[tuple[str, str], Surface]:
    """Method and split -> surface; all on the same languages, positions and layers."""
    if sweep is None or sweep.empty:
        return {}
    known = sweep.drop_duplicates("language")
    codes = sorted((str(code) for code in known["language"]), key=lambda c: [*LANGUAGES, c].index(c))
    tier = {str(row.language): str(row.tier) for row in known.itertuples()}
    positions = [str(place) for place in sweep["position"].drop_duplicates()]
    layers = sorted(int(layer) for layer in sweep["layer"].unique())
    found = {}
    for (method, split), part in sweep.groupby(["method", "split"], sort=False):
        at = tuple(
            pd.Index(names).get_indexer(part[column])
            for names, column in ((codes, "language"), (positions, "position"), (layers, "layer"))
        )
        shape = (len(codes), len(positions), len(layers))
        arrays = [np.full(shape, np.nan) for _ in range(3)]
        for array, name in zip(arrays, ("auroc", "low", "high"), strict=True):
            array[at] = part[name]
        reason = np.full(shape, "not in the sweep", dtype=object)
        reason[at] = part["reason"].astype(object) if "reason" in part else ""
        found[str(method), str(split)] = Surface(codes, tier, positions, layers, *arrays, reason)
    return found
