"""Cosines between the directions of a study, one matrix for each layer and position."""

from __future__ import annotations

import pandas as pd

from workbench.languages import TIERS
from workbench.widgets.texts import name_of

AMONG = {
    "languages": lambda name: name.startswith("harm:") and name[5:] not in TIERS,
    "harm types": lambda name: name.startswith("type:") or name == "harm:high",
    "harmfulness and refusal": lambda name: name.startswith("refusal:") or name[5:] in TIERS,
    "everything": lambda name: True,
}
"""Choice of cosines -> whether a direction takes part."""


class Angles:
    """The table of cosines, cut by place once.

    Attributes:
        places: layers and positions that it has.
    """

    def __init__(self, table: pd.DataFrame | None):
        """From the table `cosines`, or from none."""
        self._table = table
        groups = {} if table is None else table.groupby(["layer", "position"], sort=False).indices
        self._at = {(int(layer), str(position)): at for (layer, position), at in groups.items()}
        self.places = list(self._at)

    def matrix(self, layer: int, position: str, among: str) -> pd.DataFrame:
        """Cosines at a place, names on both sides; empty where there are none."""
        if (layer, position) not in self._at:
            return pd.DataFrame()
        part = self._table.iloc[self._at[layer, position]]
        names = [name for name in part["a"].drop_duplicates() if AMONG[among](name)]
        return part.pivot(index="a", columns="b", values="cosine").reindex(index=names, columns=names)

    def has_refusal(self, layer: int, position: str) -> bool:
        """Whether a refusal direction is defined at a place."""
        return any(name.startswith("refusal:") for name in self.matrix(layer, position, "everything").index)


def direction_name(name: str) -> str:
    """`harm:sw` as Swahili (sw), `type:fraud` as fraud, `refusal:all` as refusal, all."""
    kind, _, rest = name.partition(":")
    if kind == "harm":
        return f"harm, {rest} tier" if rest in TIERS else name_of(rest)
    return rest.replace("_", " ") if kind == "type" else f"{kind}, {rest}"
