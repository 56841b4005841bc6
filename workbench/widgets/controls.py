"""Controls with a label and a tooltip, neither of which can be left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from workbench.widgets.texts import escape

Options = Sequence[Any]
"""Values, or (label, value) pairs."""


def dropdown(label: str, tooltip: str, options: Options, **more: Any) -> widgets.Dropdown:
    """One of several values; opens with the keyboard."""
    return _finish(widgets.Dropdown(options=options, **_about(label, tooltip), **more))


def slider(label: str, tooltip: str, options: Options, **more: Any) -> widgets.SelectionSlider:
    """One of several values in order: layers, budgets."""
    return _finish(widgets.SelectionSlider(options=options, **_about(label, tooltip), **more), "300px")


def number(label: str, tooltip: str, value: float, low: float, high: float, step: float, **more: Any) -> Any:
    """A float on a slider with a box to type into. Continuous updates are on: answers are fast."""
    limits = {"value": value, "min": low, "max": high, "step": step}
    return _finish(widgets.FloatSlider(**limits, **_about(label, tooltip), **more), "320px")


def integer(label: str, tooltip: str, value: int, low: int, high: int, **more: Any) -> widgets.IntSlider:
    """A whole number on a slider with a box to type into."""
    return _finish(widgets.IntSlider(value=value, min=low, max=high, **_about(label, tooltip), **more), "300px")


def choice(label: str, tooltip: str, options: Options, **more: Any) -> widgets.ToggleButtons:
    """One of a few values, all seen at once."""
    made = widgets.ToggleButtons(options=options, **_about(label, tooltip), **more)
    made.style.button_width = "auto"
    made.tooltips = [tooltip] * len(made.options)
    return _finish(made, "auto")


def several(label: str, tooltip: str, options: Options, rows: int = 6, **more: Any) -> widgets.SelectMultiple:
    """Any number of several values; Ctrl and Shift with click or arrow keys."""
    return _finish(widgets.SelectMultiple(options=options, rows=rows, **_about(label, tooltip), **more))


def tick(label: str, tooltip: str, value: bool = False, **more: Any) -> widgets.Checkbox:
    """Yes or no."""
    return _finish(widgets.Checkbox(value=value, indent=False, **_about(label, tooltip), **more), "auto")


def text(label: str, tooltip: str, value: str = "", **more: Any) -> widgets.Text:
    """A line of text, sent when Enter is pressed or the box is left."""
    return _finish(widgets.Text(value=value, continuous_update=False, **_about(label, tooltip), **more), "300px")


def area(label: str, tooltip: str, value: str = "", **more: Any) -> widgets.Textarea:
    """Lines of text, sent when the box is left."""
    return _finish(widgets.Textarea(value=value, continuous_update=False, **_about(label, tooltip), **more), "420px")


def button(label: str, tooltip: str, **more: Any) -> widgets.Button:
    """Something to do; call `.on_click` on it, through `Panel.press`."""
    made = widgets.Button(description=label, tooltip=tooltip, **more)
    made.layout.width = "auto"
    return made


def row(*children: widgets.Widget) -> widgets.HBox:
    """Controls side by side, on as many lines as the width needs."""
    return _box(children, "workbench-row")


def columns(*children: widgets.Widget) -> widgets.HBox:
    """Figures or panes side by side, under one another where there is no room."""
    return _box(children, "workbench-columns")


def _box(children: Sequence[widgets.Widget], name: str) -> widgets.HBox:
    box = widgets.HBox(list(children))
    box.layout.flex_flow, box.layout.width = "row wrap", "100%"
    box.add_class(name)
    return box


def _about(label: str, tooltip: str) -> dict[str, str]:
    assert label and tooltip, f"a control must have a label and a tooltip: {label!r}, {tooltip!r}"
    return {"description": label, "tooltip": tooltip}


def _finish(made: Any, width: str = "240px") -> Any:
    # ipywidgets shows the tooltip of most controls only where they have no label, so the label carries it.
    made.description_allow_html = True
    made.description = f'<span title="{escape(made.tooltip)}">{escape(made.description)}</span>'
    made.style.description_width = "initial"
    made.layout.width, made.layout.max_width = width, "100%"
    return made
