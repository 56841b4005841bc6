"""Heat maps of the widgets: cells that say their numbers, the first row on top, the chosen cell in a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.widgets.texts import plot_text

SEQUENTIAL = "Cividis"
"""From little to much; made to look the same to colour-blind readers."""

DIVERGING = "RdBu_r"
"""Below and above zero, blue and red."""

FRAME = "#D55E00"


def heatmap(
    z: np.ndarray,
    x: Sequence[object],
    y: Sequence[object],
    hover: Sequence[Sequence[str]],
    limits: tuple[float, float],
    unit: str,
    *,
    scale: str = SEQUENTIAL,
    words: Sequence[Sequence[str]] | None = None,
) -> dict[str, Any]:
    """A plotly heat map.

    Args:
        z: values, `[row, column]`; NaN leaves a gap.
        x: names of the columns; `y`: of the rows, from the top.
        y: names of the rows, from the top.
        hover: what the pointer reads in each cell, plotly markup, `[row, column]`.
        limits: values at the two ends of the colours.
        unit: beside the colour bar.
        scale: `SEQUENTIAL` or `DIVERGING`.
        words: written in the cells, `[row, column]`.
    """
    blank = [[""] * len(x)] * len(y)
    return {
        "type": "heatmap",
        # Upwards, as plotly and the still pictures count rows.
        "z": np.asarray(z, dtype=float)[::-1],
        "x": [plot_text(name, 32) for name in x],
        "y": [plot_text(name, 32) for name in y][::-1],
        "hovertext": list(hover)[::-1],
        "hoverinfo": "text",
        "text": list(blank if words is None else words)[::-1],
        "texttemplate": "%{text}",
        "textfont": {"size": 11},
        "colorscale": scale,
        "zmin": limits[0],
        "zmax": limits[1],
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": unit, "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "showlegend": False,
    }


def cell(trace: Any, point: int | Sequence[int]) -> tuple[int, int]:
    """Row (from the top) and column of a clicked point: a pair from the browser, counted through in tests."""
    up, column = divmod(point, len(trace.x)) if isinstance(point, int) else point
    return len(trace.y) - 1 - int(up), int(column)


def framed(row: int, column: int, rows: int, columns: int = 1) -> dict[str, Any]:
    """A frame round `columns` cells from `column` on, in the row counted from the top of `rows`."""
    up = rows - 1 - row
    return _frame(column - 0.5, column + columns - 0.5, up - 0.5, up + 0.5)


def column(at: int, rows: int) -> dict[str, Any]:
    """A frame round a whole column."""
    return _frame(at - 0.5, at + 0.5, -0.5, rows - 0.5)


def _frame(x0: float, x1: float, y0: float, y1: float) -> dict[str, Any]:
    line = {"color": FRAME, "width": 3}
    return {"type": "rect", "x0": x0, "x1": x1, "y0": y0, "y1": y1, "line": line, "fillcolor": "rgba(0,0,0,0)"}
