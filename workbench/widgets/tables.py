"""Rows of a DataFrame to look through and choose from, a page at a time: forty thousand are as quick as ten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets

from workbench.widgets.controls import button, row
from workbench.widgets.texts import visible

_STATIC = Path(__file__).parents[1] / "data" / "widgets"


class Grid(anywidget.AnyWidget):
    """The page that is seen; choose with the mouse, arrow keys, Page Up and Down, Home, End, Enter."""

    _esm = _STATIC / "table.js"
    _css = _STATIC / "table.css"
    caption = traitlets.Unicode().tag(sync=True)
    empty = traitlets.Unicode().tag(sync=True)
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)
    page = traitlets.List().tag(sync=True)
    first = traitlets.Int(0).tag(sync=True)
    size = traitlets.Int(10).tag(sync=True)
    total = traitlets.Int(0).tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)


class RowTable(widgets.VBox):
    """A paged table of which one row can be chosen.

    Attributes:
        rows: the DataFrame; set it through `show`.
        chosen: place of the chosen row in it, or -1.
    """

    chosen = traitlets.Int(-1)

    def __init__(self, caption: str, columns: Sequence[str], size: int = 10, empty: str = "No rows."):
        """Columns that the rows lack are left out; texts are shown as texts."""
        self._wanted = tuple(columns)
        self.rows = pd.DataFrame(columns=list(columns))
        self.grid = Grid(caption=caption, empty=empty, size=size)
        self.back = button("Previous", f"Previous page of: {caption}", icon="chevron-left")
        self.forward = button("Next", f"Next page of: {caption}", icon="chevron-right")
        self.where = widgets.Label()
        super().__init__([self.grid, row(self.back, self.forward, self.where)])
        self.back.on_click(lambda _: self.turn(-1))
        self.forward.on_click(lambda _: self.turn(1))
        traitlets.link((self.grid, "chosen"), (self, "chosen"))
        self.observe(self._follow, "chosen")
        self.show(self.rows)

    @property
    def row(self) -> pd.Series | None:
        """The chosen row."""
        return self.rows.iloc[self.chosen] if 0 <= self.chosen < len(self.rows) else None

    def show(self, rows: pd.DataFrame) -> None:
        """Show other rows, from their first page, none chosen."""
        self.rows = rows.reset_index(drop=True)
        self.chosen = -1
        self._page(0)

    def refresh(self, rows: pd.DataFrame) -> None:
        """The same rows with other values: page and choice stay."""
        self.rows = rows.reset_index(drop=True)
        self._page(self.grid.first)

    def turn(self, pages: int) -> None:
        """Go so many pages on or back."""
        last = max(len(self.rows) - 1, 0) // self.grid.size
        self._page(min(max(self.grid.first // self.grid.size + pages, 0), last) * self.grid.size)

    def on_choose(self, call: Callable[[pd.Series | None], None]) -> None:
        """Call with the row whenever another one is chosen; with None when none is."""
        self.observe(lambda _: call(self.row), "chosen")

    def _follow(self, _: Any) -> None:
        if self.chosen >= 0 and self.chosen // self.grid.size != self.grid.first // self.grid.size:
            self._page(self.chosen // self.grid.size * self.grid.size)

    def _page(self, first: int) -> None:
        size, total = self.grid.size, len(self.rows)
        columns = [name for name in self._wanted if name in self.rows]
        part = self.rows.iloc[first : first + size]
        with self.grid.hold_sync():
            self.grid.columns = [name.replace("_", " ") for name in columns]
            self.grid.page = [[cell(value) for value in line] for line in part[columns].itertuples(index=False)]
            self.grid.first, self.grid.total = first, total
        self.where.value = f"{first + 1} to {min(first + size, total)} of {total}" if total else "0 rows"
        self.back.disabled, self.forward.disabled = first == 0, first + size >= total


def cell(value: Any) -> str:
    """What a cell shows: numbers short, missing as a dash, control characters written out."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)) or value is pd.NA:
        return "–"
    if isinstance(value, float | np.floating):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return visible(str(value))
