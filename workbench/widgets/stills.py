"""Plotly figures drawn again by matplotlib: the picture that a saved notebook shows where no widget can be shown."""

from __future__ import annotations

import asyncio
import base64
import io
import math
import threading
import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.widgets.texts import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "x": "x", "cross": "P", "triangle-up": "^", "star": "*"}
_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": "--", "longdashdot": "-."}
_COLUMNS = 2

AFTER = 1.5
"""Seconds without a change after which the still picture is drawn again."""


def png(figures: Mapping[str, Any], title: str = "") -> bytes:
    """A PNG of plotly figures side by side: scatters, lines, bars, heat maps; other traces are left out.

    Args:
        figures: title of each -> plotly figure; those without points are left out.
        title: over all of them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = {name: figure for name, figure in figures.items() if any(_visible(trace) for trace in figure.data)}
    columns = min(_COLUMNS, max(len(drawn), 1))
    rows = max(math.ceil(len(drawn) / columns), 1)
    # Figure and canvas without pyplot: nothing global, so that a thread may draw.
    sheet = Figure(figsize=(5 * columns, 3.1 * rows + 0.4), dpi=90, layout="constrained")
    FigureCanvasAgg(sheet)
    if title:
        sheet.suptitle(title, fontsize=10)
    for place, (name, figure) in enumerate(drawn.items()):
        _draw(sheet.add_subplot(rows, columns, place + 1), name, figure)
    file = io.BytesIO()
    sheet.savefig(file, format="png", facecolor="white")
    return file.getvalue()


def html(picture: bytes, alternative: str) -> str:
    """An `img` element that holds the picture; `alternative` must be escaped."""
    data = base64.b64encode(picture).decode()
    return f'<img style="max-width:100%" alt="{alternative}" src="data:image/png;base64,{data}">'


class LastView:
    """The picture beside a widget, which the widget's style sheet hides as long as the widget itself is seen."""

    def __init__(self, heading: str, figures: Mapping[str, Any]):
        """The name of the widget, and its figures by title, which may still be added to."""
        self.heading, self.figures, self.name = heading, figures, f"workbench-still-{uuid.uuid4().hex[:12]}"
        self.handle: Any = None
        self._timer: asyncio.TimerHandle | None = None

    def show(self) -> None:
        """Display it below the widget."""
        from IPython.display import display

        self.handle = display(self._bundle(png(self.figures, self.heading)), raw=True, display_id=True)

    def later(self) -> None:
        """Draw again once nothing has changed for a while; only where it was displayed, on the kernel's loop."""
        if self.handle is None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(AFTER, self._redraw, loop)

    def _redraw(self, loop: asyncio.AbstractEventLoop) -> None:
        import plotly.graph_objects as go

        # Copied here, drawn there: the figures may change while the thread draws.
        copies = {name: figure.to_dict() for name, figure in self.figures.items()}

        def work() -> None:
            picture = png({name: go.Figure(copy, skip_invalid=True) for name, copy in copies.items()}, self.heading)
            loop.call_soon_threadsafe(lambda: self.handle.update(self._bundle(picture), raw=True))

        threading.Thread(target=work, daemon=True).start()

    def _bundle(self, picture: bytes) -> dict[str, str]:
        words = f"{self.heading}: the last view, as a picture"
        element = f'<div class="{self.name}">{html(picture, escape(words))}</div>'
        return {"text/html": element, "text/plain": words}


def _draw(ax: Axes, name: str, figure: Any) -> None:
    ax.set_title(name, fontsize=9, loc="left")
    base: dict[Any, float] = {}
    for trace in figure.data:
        if not _visible(trace):
            continue
        if trace.type in ("scatter", "scattergl"):
            _scatter(ax, trace)
        elif trace.type == "bar":
            _bar(ax, trace, base, figure.layout.barmode in ("stack", "relative"))
        elif trace.type == "heatmap":
            _heatmap(ax, trace)
    for shape in figure.layout.shapes:
        _shape(ax, shape)
    _axes(ax, figure.layout)
    handles, labels = ax.get_legend_handles_labels()
    if 1 < len(labels) <= 12:
        ax.legend(handles, labels, fontsize=6, framealpha=0.6)


def _shape(ax: Axes, shape: Any) -> None:
    """Upright and level lines, and frames."""
    from matplotlib.patches import Rectangle

    if shape.visible is False or (shape.x0 is None and shape.y0 is None):
        return
    look = {"linewidth": 1, "linestyle": _DASHES.get(shape.line.dash, "-")}
    if shape.type == "line" and shape.x0 == shape.x1:
        ax.axvline(shape.x0, color=_colour(shape.line.color), **look)
    elif shape.type == "line" and shape.y0 == shape.y1:
        ax.axhline(shape.y0, color=_colour(shape.line.color), **look)
    elif shape.type == "rect" and isinstance(shape.x0, int | float) and isinstance(shape.y0, int | float):
        corner, size = (shape.x0, shape.y0), (shape.x1 - shape.x0, shape.y1 - shape.y0)
        ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=_colour(shape.line.color), **look))


def _axes(ax: Axes, layout: Any) -> None:
    """Titles, named ticks and equal scales, as in the plotly layout."""
    sides = (("xaxis", ax.set_xlabel, ax.set_xticks), ("yaxis", ax.set_ylabel, ax.set_yticks))
    for name, set_label, set_ticks in sides:
        axis = layout[name]
        set_label(axis.title.text or "", fontsize=8)
        if axis.tickvals is not None and axis.ticktext is not None:
            set_ticks(list(axis.tickvals), [str(word) for word in axis.ticktext])
    ax.tick_params(labelsize=7)
    if any(len(label.get_text()) > 6 for label in ax.get_xticklabels()):
        ax.tick_params(axis="x", rotation=abs(layout.xaxis.tickangle or 30))
    if layout.yaxis.scaleanchor == "x":
        ax.set_aspect("equal", "datalim")


def _visible(trace: Any) -> bool:
    return trace.visible in (None, True) and any(
        getattr(trace, name, None) is not None and len(getattr(trace, name)) for name in ("x", "y", "z")
    )


def _label(trace: Any) -> str | None:
    return str(trace.name) if trace.name and trace.showlegend is not False else None


def _colour(colour: Any, default: str = "#7a7a7a") -> Any:
    """A colour matplotlib knows; plotly's `rgba(...)` is turned, lists and scales fall back."""
    if isinstance(colour, str) and colour.startswith("rgb"):
        parts = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")]
        return (*(value / 255 for value in parts[:3]), parts[3] if len(parts) > 3 else 1.0)
    return colour if isinstance(colour, str) else default


def _scatter(ax: Axes, trace: Any) -> None:
    x, y = _values(trace.x), _values(trace.y)
    mode, colour = trace.mode or "markers", _colour(trace.marker.color or trace.line.color)
    symbol = trace.marker.symbol if isinstance(trace.marker.symbol, str) else "circle"
    line = _DASHES.get(trace.line.dash, "-") if "lines" in mode else "none"
    marker = _MARKERS.get(symbol, "o") if "markers" in mode else ""
    errors = {axis: _errors(getattr(trace, f"error_{axis}")) for axis in "xy"}
    ax.errorbar(
        *(x, y), xerr=errors["x"], yerr=errors["y"], color=colour, linestyle=line, marker=marker, markersize=4, linewidth=1,
        elinewidth=0.6, label=_label(trace),
    )  # fmt: skip
    if "text" in mode and trace.text is not None and not isinstance(trace.text, str) and len(x) <= 60:
        for across, up, word in zip(x, y, trace.text, strict=False):
            ax.annotate(str(word), (across, up), fontsize=6, xytext=(2, 2), textcoords="offset points")


def _errors(bar: Any) -> np.ndarray | None:
    if bar.array is None:
        return None
    above = np.asarray(bar.array, dtype=float)
    below = above if bar.arrayminus is None else np.asarray(bar.arrayminus, dtype=float)
    return np.clip(np.nan_to_num(np.stack([below, above])), 0, None)


def _bar(ax: Axes, trace: Any, base: dict[Any, float], stacked: bool) -> None:
    sideways = trace.orientation == "h"
    places, sizes = (trace.y, trace.x) if sideways else (trace.x, trace.y)
    keys = [str(place) for place in places]
    heights = np.nan_to_num(np.asarray(sizes, dtype=float))
    # Parts above and below zero pile up apart, as plotly's do.
    sides = [(key, height < 0) for key, height in zip(keys, heights, strict=True)]
    start = [base.get(side, 0.0) if stacked else 0.0 for side in sides]
    look = {"color": _colour(trace.marker.color), "label": _label(trace)}
    if sideways:
        ax.barh(keys, heights, left=start, **look)
    else:
        ax.bar(keys, heights, bottom=start, **look)
    for side, height in zip(sides, heights, strict=True):
        base[side] = base.get(side, 0.0) + float(height)


def _heatmap(ax: Axes, trace: Any) -> None:
    z = np.asarray([list(line) for line in trace.z], dtype=float)
    # About zero, both ways: a scale with a middle.
    about_zero = trace.zmid == 0 or (trace.zmin is not None and trace.zmax is not None and trace.zmin == -trace.zmax)
    colours = "RdBu_r" if about_zero else "cividis"
    shown = ax.imshow(z, aspect="auto", cmap=colours, origin="lower", vmin=trace.zmin, vmax=trace.zmax)
    ax.figure.colorbar(shown, ax=ax, fraction=0.05).ax.tick_params(labelsize=6)
    for labels, ticks in ((trace.x, ax.set_xticks), (trace.y, ax.set_yticks)):
        if labels is not None and len(labels) <= 30:
            ticks(range(len(labels)), [str(label) for label in labels])


def _values(values: Iterable[Any] | None) -> np.ndarray:
    found = np.asarray([] if values is None else list(values))
    return found if found.dtype.kind in "fiub" else found.astype(str) if found.dtype.kind != "O" else _numbers(found)


def _numbers(values: np.ndarray) -> np.ndarray:
    """Objects as floats, None as a gap, where they are numbers; else as words."""
    try:
        return np.asarray([np.nan if value is None else float(value) for value in values])
    except (TypeError, ValueError):
        return np.asarray([str(value) for value in values])
