"""Any number of named things to switch on, each with a strength."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ipywidgets as widgets
import traitlets

from workbench.errors import WorkbenchError, nearest
from workbench.widgets.controls import row, tick


def strength_box(label: str, tooltip: str, value: float) -> widgets.FloatText:
    """A number without bounds, since only the intervention knows its units."""
    box = widgets.FloatText(value=value, step=0.25, continuous_update=False, description=label, tooltip=tooltip)
    box.layout.width, box.style.description_width = "150px", "initial"
    return box


class Doses(widgets.VBox):
    """A tick and a strength for each name.

    Attributes:
        value: name -> strength of what is on, in the order of the names.
    """

    value = traitlets.Dict(key_trait=traitlets.Unicode(), value_trait=traitlets.Float())

    def __init__(self, names: Iterable[str], strength: float = 1.0):
        self._showing = False
        self.ticks: dict[str, widgets.Checkbox] = {}
        self.boxes: dict[str, widgets.FloatText] = {}
        for name in names:
            self.ticks[name] = tick(name, f"Generate with {name!r} on, beside the default")
            self.boxes[name] = strength_box("strength", f"How strong {name!r} is, in its own units", strength)
        super().__init__([row(self.ticks[name], self.boxes[name]) for name in self.ticks])
        for control in (*self.ticks.values(), *self.boxes.values()):
            control.observe(self._collect, "value")

    @traitlets.validate("value")
    def _known(self, proposal: Any) -> dict[str, float]:
        for name in proposal["value"]:
            if name not in self.ticks:
                raise WorkbenchError(
                    f"An intervention must be one of the bench's; got {name!r}. {nearest(name, self.ticks)}"
                )
        return {name: float(proposal["value"][name]) for name in self.ticks if name in proposal["value"]}

    @traitlets.observe("value")
    def _show(self, _: Any) -> None:
        self._showing = True
        try:
            for name, box in self.ticks.items():
                box.value = name in self.value
                self.boxes[name].value = self.value.get(name, self.boxes[name].value)
        finally:
            self._showing = False

    def _collect(self, _: Any) -> None:
        # A value that is half shown is not one that was chosen.
        if not self._showing:
            self.value = {name: self.boxes[name].value for name, box in self.ticks.items() if box.value}
