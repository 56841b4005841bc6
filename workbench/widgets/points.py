"""Prompts on maps of all layers: their rows, what the pointer reads, and the colours and symbols of groups."""

from __future__ import annotations

import numpy as np
import pandas as pd

from workbench.errors import WorkbenchError
from workbench.languages import LANGUAGES, TIERS
from workbench.verdicts import VERDICTS
from workbench.widgets import theme
from workbench.widgets.texts import name_of, plot_text

COLOURS = {
    "language": "language",
    "tier": "tier",
    "label": "label",
    "harm type": "harm_type",
    "verdict": "verdict",
    "quadrant": "quadrant",
}
"""What points are coloured by -> column."""

ORDERS = {
    "language": tuple(LANGUAGES),
    "tier": (*TIERS, "outside"),
    "label": tuple(theme.LABEL_COLOURS),
    "verdict": (*VERDICTS, "missing"),
    "quadrant": tuple(theme.QUADRANT_COLOURS),
}
_FIXED = {
    "tier": theme.TIER_COLOURS,
    "label": theme.LABEL_COLOURS,
    "verdict": theme.VERDICT_COLOURS,
    "quadrant": theme.QUADRANT_COLOURS,
}
_SYMBOLS = ("circle", "square", "diamond", "x", "triangle-up", "cross", "star")
LEDGER = ("score", "logit", "threshold", "fired", "verdict", "reply_language", "quadrant")


class Points:
    """The maps of a study, every layer with the same prompts in the same order.

    Attributes:
        layers: layer -> keys, `p0` .. `p9`, `pca_x`, `pca_y`, ledger columns (missing where a prompt is not in the
            ledger) and `hover`, a row for each prompt.
    """

    def __init__(self, maps: pd.DataFrame | None, ledger: pd.DataFrame | None):
        """From the tables `maps` and `ledger`, or from none."""
        self.layers = {} if maps is None or maps.empty else _by_layer(maps, ledger)
        self._groups: dict[str, tuple[list[str], np.ndarray]] = {}
        parts = [part[["pca_x", "pca_y"]].to_numpy() for part in self.layers.values()]
        self._ends = np.array([[part.min(0), part.max(0)] for part in parts])

    def rows(self, layer: int) -> pd.DataFrame:
        """Rows of a layer.

        Raises:
            WorkbenchError: there is no map of it.
        """
        if layer not in self.layers:
            raise WorkbenchError(
                f"The layer must be one that has a map; got {layer}. There are maps of {min(self.layers)} to {max(self.layers)}."
            )
        return self.layers[layer]

    def flat(self, layer: int) -> np.ndarray:
        """Places on the map by principal components, `[prompt, 2]`."""
        return self.rows(layer)[["pca_x", "pca_y"]].to_numpy()

    def wide(self, layer: int) -> np.ndarray:
        """The principal components that UMAP starts from, `[prompt, component]`."""
        rows = self.rows(layer)
        return rows[[f"p{k}" for k in range(10) if f"p{k}" in rows]].to_numpy()

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest place over all layers, `[2]` each."""
        return self._ends[:, 0].min(0), self._ends[:, 1].max(0)

    def groups(self, column: str) -> tuple[list[str], np.ndarray]:
        """Values of a column in their order, and which of them each prompt has, `[prompt]`."""
        if column not in self._groups:
            values = next(iter(self.layers.values()))[column]
            values = values.astype(object).where(values.notna(), "missing").astype(str)
            there = list(values.drop_duplicates())
            known = [name for name in ORDERS.get(column, ()) if name in there]
            names = [*known, *sorted(set(there) - set(known) - {"missing"})]
            names += ["missing"] if "missing" in there and "missing" not in known else []
            self._groups[column] = names, pd.Index(names).get_indexer(values)
        return self._groups[column]

    def columns(self) -> dict[str, str]:
        """What points can be coloured by -> column, where the study knows it of any prompt."""
        first = next(iter(self.layers.values()))
        return {words: name for words, name in COLOURS.items() if first[name].notna().any()}


def look(column: str, name: str, place: int) -> tuple[str, str]:
    """Colour and symbol of a value of a column that is the `place`-th in its order."""
    fixed = _FIXED.get(column, {})
    colour = fixed.get(name, theme.GREY if name == "missing" else theme.SERIES[place % len(theme.SERIES)])
    return colour, _symbol(column, name, place, bool(fixed))


def _by_layer(maps: pd.DataFrame, ledger: pd.DataFrame | None) -> dict[int, pd.DataFrame]:
    """Layer -> rows of its map with their ledger columns and what hovering shows; every layer has the same prompts."""
    position = maps["position"].iloc[0]
    maps = maps[maps["position"] == position]
    layers = {int(layer): part.reset_index(drop=True) for layer, part in maps.groupby("layer")}
    first = next(iter(layers.values()))
    known = pd.DataFrame(index=first.index)
    if ledger is not None:
        more = [name for name in ledger if name in LEDGER]
        known = first[["prompt_id"]].merge(ledger[["prompt_id", *more]], on="prompt_id", how="left")[more]
    for name in ("verdict", "quadrant"):
        if name not in known:
            known[name] = None
    known["hover"] = _hover(first.assign(verdict=known["verdict"]))
    ids = first["prompt_id"].to_numpy()
    return {
        layer: pd.concat([part if (part["prompt_id"].to_numpy() == ids).all() else _aligned(part, ids), known], axis=1)
        for layer, part in layers.items()
    }


def _aligned(part: pd.DataFrame, ids: np.ndarray) -> pd.DataFrame:
    return part.set_index("prompt_id").loc[ids].reset_index()


def _hover(rows: pd.DataFrame) -> np.ndarray:
    """What the pointer reads at each point: keys only, never texts."""
    parts = []
    for column in ("language", "label", "harm_type", "verdict"):
        values = rows[column].astype(object).where(rows[column].notna(), "–").astype(str)
        words = {value: plot_text(label_of(column, value)) for value in values.unique()}
        parts.append(values.map(words))
    parts.append(rows["prompt_id"].astype(str).map(plot_text))
    return parts[0].str.cat(parts[1:], sep="<br>").to_numpy(dtype=object)


def label_of(column: str, value: str) -> str:
    """A value of a column in words."""
    return name_of(value) if column == "language" else value.replace("_", " ") if column == "harm_type" else value


def _symbol(column: str, name: str, place: int, fixed: bool) -> str:
    if column == "tier":
        return theme.TIER_SYMBOLS.get(name, "x")
    if fixed:
        return _SYMBOLS[place % len(_SYMBOLS)]
    # Colours go round first: two neighbours in the list never share both.
    return _SYMBOLS[(place + place // len(theme.SERIES)) % len(_SYMBOLS)]
