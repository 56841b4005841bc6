"""plotly `FigureWidget`s that share one copy of plotly.js, redraw in place and answer to clicks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import plotly
import plotly.graph_objects as go
import traitlets

from workbench.widgets.theme import layout

_BUNDLE = Path(plotly.__file__).parent / "package_data" / "widgetbundle.js"


class Library(anywidget.AnyWidget):
    """The text of plotly's bundle, five megabytes, sent and saved once rather than with every figure."""

    _esm = "export default { render() {} }"
    source = traitlets.Unicode().tag(sync=True)


@lru_cache(maxsize=1)
def library() -> Library:
    """The one copy of the bundle in this kernel."""
    return Library(source=_BUNDLE.read_text(encoding="utf-8"))


class Figure(go.FigureWidget):
    """A `FigureWidget` without a copy of plotly.js of its own."""

    _esm = """
    const KEY = "__workbench_plotly__";
    function bundle(model) {
      globalThis[KEY] ??= model.widget_manager.get_model(model.get("library")).then((shared) => {
        const file = new Blob([shared.get("source")], { type: "text/javascript" });
        const url = URL.createObjectURL(file);
        return import(url).finally(() => URL.revokeObjectURL(url));
      });
      return globalThis[KEY];
    }
    export default () => {
      let figure;
      return {
        async initialize(context) {
          try {
            figure = (await bundle(context.model)).default();
          } catch (error) {
            delete globalThis[KEY];
            throw error;
          }
          return figure.initialize(context);
        },
        render(context) {
          const remove = figure.render(context);
          context.model.set("drawn", true);
          context.model.save_changes();
          // plotly follows the window only; a figure in a row of boxes gets its width later, and another one at times.
          let width = 0, due = 0;
          const observer = new ResizeObserver(([entry]) => {
            if (Math.abs(entry.contentRect.width - width) < 1) return;
            width = entry.contentRect.width;
            clearTimeout(due);
            due = setTimeout(() => window.dispatchEvent(new Event("resize")), 50);
          });
          observer.observe(context.el);
          return () => { observer.disconnect(); clearTimeout(due); remove?.(); };
        },
      };
    };
    """
    library = traitlets.Unicode().tag(sync=True)
    drawn = traitlets.Bool(False).tag(sync=True)

    @traitlets.default("library")
    def _library(self) -> str:
        # A default, so that the page hears of the library before it hears of the figure.
        return library().model_id

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._config = {"displaylogo": False, "responsive": True, "scrollZoom": False}
        self._on_point: list[Callable[[Any, Any], None]] = []
        self.add_class("workbench-figure")

    def on_point(self, call: Callable[[Any, Any], None]) -> None:
        """Call `call(trace, index of the point)` when a point is clicked, whatever is drawn by then."""
        self._on_point.append(call)

    def click(self, trace: int, point: Any) -> None:
        """What a click on a point does; for scripts and tests. Of a heat map the point is `[row, column]`."""
        for call in self._on_point:
            call(self.data[trace], point)

    @traitlets.observe("_js2py_pointsCallback")
    def _clicked(self, change: Any) -> None:
        event = change["new"]
        if not event or event["event_type"] != "plotly_click" or not event["points"]["trace_indexes"]:
            return
        self.click(event["points"]["trace_indexes"][0], event["points"]["point_indexes"][0])

    def redraw(self, traces: Sequence[Any], shapes: Sequence[dict] | None = None, **changes: Any) -> None:
        """Show these traces in place of what is shown, with one message where their number and kinds are the same.

        Args:
            traces: plotly traces or dictionaries with a `type`.
            shapes: lines and areas that replace the layout's.
            changes: of the layout, as `update_layout` takes them.
        """
        new = [trace.to_plotly_json() if hasattr(trace, "to_plotly_json") else dict(trace) for trace in traces]
        if self.drawn:
            self._change(new, shapes, changes)
            return
        # A page that has not drawn the figure yet would miss changes; it is told of the whole instead.
        with self.hold_sync():
            self._change(new, shapes, changes)
            self._settle()

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The state as it is now, for a page that opens late; plotly's own keeps what the figure began with."""
        if key is None and "_layout_obj" in self.__dict__:
            # Past the traits: a change of theirs would be sent to pages that have it already.
            layout, data = deepcopy(self._layout_obj._props), deepcopy(self._data)
            self._trait_values |= {"_widget_layout": layout, "_widget_data": data}
        return super().get_state(key, drop_defaults)

    def _settle(self) -> None:
        self._widget_layout, self._widget_data = deepcopy(self._layout_obj._props), deepcopy(self._data)

    def _change(self, new: list[dict], shapes: Sequence[dict] | None, changes: dict) -> None:
        old = list(self.data)
        if [trace.type for trace in old] == [trace.get("type", "scatter") for trace in new]:
            with self.batch_update():
                for before, after in zip(old, new, strict=True):
                    _assign(before, after)
                self._relayout(shapes, changes)
            return
        self.data = []
        self.add_traces(new)
        with self.batch_update():
            self._relayout(shapes, changes)

    def _relayout(self, shapes: Sequence[dict] | None, changes: dict) -> None:
        if shapes is not None:
            self.layout.shapes = list(shapes)
        if changes:
            self.update_layout(**changes)


def figure(x: str = "", y: str = "", height: int = 340, **more: Any) -> Figure:
    """An empty figure in the widgets' style. `x`, `y`: axis titles with units; `more`: of the plotly layout."""
    return Figure(layout=layout(x, y, height, **more))


def _assign(trace: Any, values: dict) -> None:
    """Set every leaf of a trace that differs, by its path, since plotly.js restyles leaves."""
    for path, value in _leaves(values):
        if path not in ("type", "uid") and not _same(_there(trace, path), value):
            trace[path] = value


def _leaves(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and "bdata" not in value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _there(trace: Any, path: str) -> Any:
    """What is set at a path; reading plotly's own dictionaries spares its validators, which are slow."""
    found = trace._props
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, np.ndarray) or isinstance(after, np.ndarray):
        one, other = np.asarray(before), np.asarray(after)
        return one.shape == other.shape and one.dtype.kind == other.dtype.kind and bool((one == other).all())
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        return list(before) == list(after)
    return before is not None and type(before) is type(after) and before == after
