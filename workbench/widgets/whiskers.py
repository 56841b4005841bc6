"""Values with their intervals, and the lines and stripes behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.widgets.texts import plot_text
from workbench.widgets.theme import GREY


def whiskers(
    places: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    name: str,
    colour: str,
    symbol: str,
    *,
    upright: bool = False,
    band: bool = False,
) -> dict[str, Any]:
    """A plotly trace of values with intervals.

    Args:
        places: along the other axis, `[row]`.
        values: value, lower and upper limit, `[row, 3]`.
        names: of the rows, for the pointer, `[row]`.
        name: of the trace.
        colour: of points and intervals, `#rrggbb`.
        symbol: plotly's name of a marker.
        upright: values go upwards instead of to the right.
        band: intervals are drawn as broad pale bands, for what a result is compared with.
    """
    along, across = ("y", "x") if upright else ("x", "y")
    value, low, high = values.T
    bar = (
        {"thickness": 6, "width": 0, "color": _pale(colour)}
        if band
        else {"thickness": 1.5, "width": 3, "color": colour}
    )
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plot_text(name),
        along: value,
        across: places,
        "hovertext": [
            f"{plot_text(row)}<br>{plot_text(name)}<br>{limits(line)}" for row, line in zip(names, values, strict=True)
        ],
        "hoverinfo": "text",
        "marker": {"color": colour, "symbol": symbol, "size": 5 if band else 9},
        f"error_{along}": {"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low} | bar,
    }


def limits(values: np.ndarray) -> str:
    """`value [low, high]`, with as many decimals as the size asks for."""
    places = 3 if np.nanmax(np.abs(values), initial=0.0) <= 1 else 1
    return f"{values[0]:.{places}f} [{values[1]:.{places}f}, {values[2]:.{places}f}]"


def named_rows(names: Sequence[str]) -> dict[str, Any]:
    """Changes of a layout whose y axis has rows named from the top; row `i` is at `len(names) - 1 - i`."""
    return {
        "yaxis_tickvals": list(range(len(names)))[::-1],
        "yaxis_ticktext": [plot_text(name, 32) for name in names],
        "yaxis_range": [-0.6, len(names) - 0.4],
    }


def line(at: float, *, upright: bool = False) -> dict[str, Any]:
    """A dotted line through the whole figure, at a value to the right, or upwards."""
    along, across = ("y", "x") if upright else ("x", "y")
    ends = {f"{across}ref": "paper", f"{across}0": 0, f"{across}1": 1, f"{along}0": at, f"{along}1": at}
    return {"type": "line", "line": {"color": GREY, "width": 1, "dash": "dot"}, **ends}


def stripe(at: float) -> dict[str, Any]:
    """A pale stripe behind a row."""
    ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": at - 0.5, "y1": at + 0.5}
    return {"type": "rect", "fillcolor": "rgba(128,128,128,0.15)", "line": {"width": 0}, "layer": "below", **ends}


def _pale(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.45)"
