"""What slips through under each allocation, as arrays cut from the table of allocations once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from workbench.errors import WorkbenchError
from workbench.languages import LANGUAGES
from workbench.widgets.texts import name_of

DIFFERENCE = "deep - broad"


@dataclass(frozen=True, eq=False)
class Slips:
    """The table of allocations as arrays.

    Attributes:
        pairs: calibrated and judged languages; those judged in themselves first.
        kinds: harm types.
        values: measure and k -> value, lower and upper limit `[pair, broad and each deep type, judged type, 3]`.
        contrasts: measure and k -> calibrated, judged, `inside` or `outside` -> value, lower and upper limit `[3]`.
    """

    pairs: list[tuple[str, str]]
    kinds: list[str]
    values: dict[tuple[str, int], np.ndarray]
    contrasts: dict[tuple[str, int], dict[tuple[str, str, str], np.ndarray]]

    @classmethod
    def of(cls, table: pd.DataFrame) -> Slips:
        """From a table of `allocation`, of one k or several."""
        cells = table[table["allocation"] != DIFFERENCE]
        kinds = [str(kind) for kind in cells["harm_type"].drop_duplicates()]
        pairs = _pairs(cells)
        index, values = pd.MultiIndex.from_tuples(pairs), {}
        for (measure, k), part in cells.groupby(["measure", "k"], sort=False):
            cube = np.full((len(pairs), 1 + len(kinds), len(kinds), 3), np.nan)
            at = index.get_indexer(pd.MultiIndex.from_frame(part[["calibrated", "judged"]].astype(object)))
            source = pd.Index(["", *kinds]).get_indexer(part["calibrated_type"])
            cube[at, source, pd.Index(kinds).get_indexer(part["harm_type"])] = part[["value", "low", "high"]]
            values[str(measure), int(k)] = cube
        contrasts: dict = {}
        for line in table[table["allocation"] == DIFFERENCE].itertuples():
            here = contrasts.setdefault((str(line.measure), int(line.k)), {})
            here[line.calibrated, line.judged, line.harm_type] = np.array([line.value, line.low, line.high])
        return cls(pairs, kinds, values, contrasts)

    def cube(self, measure: str, k: int) -> np.ndarray:
        """Values of a measure at k examples per class, `[pair, broad and each deep type, judged type, 3]`.

        Raises:
            WorkbenchError: the table has none.
        """
        if (measure, k) not in self.values:
            raise WorkbenchError(
                f"The table of allocations must hold what is shown; it has no {measure} at {k} per class."
            )
        return self.values[measure, k]

    def place(self, pair: str) -> int:
        """Place of a pair written as `sw/yo`.

        Raises:
            WorkbenchError: there is no such pair.
        """
        names = ["/".join(one) for one in self.pairs]
        if pair not in names:
            raise WorkbenchError(f"The language must be one of {', '.join(names)}; got {pair!r}.")
        return names.index(pair)

    def contrast(self, measure: str, k: int, pairs: list[tuple[str, str]], where: str) -> np.ndarray:
        """Deep minus broad of pairs, `inside` or `outside` the type of the examples, `[pair, 3]`; NaN where not known."""
        here, unknown = self.contrasts.get((measure, k), {}), np.full(3, np.nan)
        return np.stack([here.get((*pair, where), unknown) for pair in pairs])

    def means(self, measure: str, k: int) -> list[tuple[str, str]]:
        """Means over the calibrated languages that the table has, in the form of a pair."""
        known = self.contrasts.get((measure, k), {})
        return [("all", word) for word in ("itself", "related") if ("all", word, "inside") in known]


def pair_name(code: str, judged: str) -> str:
    """`Swahili (sw)`, `Swahili (sw) → yo`, `mean, judged in related`."""
    if code == "all":
        return f"mean, judged in {judged}"
    return name_of(code) if code == judged else f"{name_of(code)} → {judged}"


def _pairs(cells: pd.DataFrame) -> list[tuple[str, str]]:
    found = cells[["calibrated", "judged"]].drop_duplicates().astype(str).itertuples(index=False)
    pairs = [(str(one), str(other)) for one, other in found]
    order = [*LANGUAGES, *(one for one, _ in pairs if one not in LANGUAGES)]
    return sorted(pairs, key=lambda pair: (pair[0] != pair[1], order.index(pair[0])))
