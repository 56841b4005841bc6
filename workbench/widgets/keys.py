"""Keys of a panel: pressed anywhere inside it but in its fields, each sent once, with what was on the screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

_STATIC = Path(__file__).parents[1] / "data" / "widgets"


class Keys(anywidget.AnyWidget):
    """A bar that names the keys; wherever it is shown, its panel listens to them.

    Attributes:
        label: what the keys are for, for screen readers.
        caps: (keys, what they do): keys of one line are separated by spaces, as in `1 r` or `o space`.
        item: names what is on the screen; a key that was pressed before the screen changed is dropped.
    """

    _esm = _STATIC / "keys.js"
    label = traitlets.Unicode("Keys").tag(sync=True)
    caps = traitlets.List(traitlets.Tuple(traitlets.Unicode(), traitlets.Unicode())).tag(sync=True)
    item = traitlets.Unicode().tag(sync=True)

    def on_key(self, call: Callable[[str], Any]) -> None:
        """Call with what a key does whenever it is pressed."""

        def received(_: Any, content: Any, buffers: Any) -> None:
            if isinstance(content, dict) and content.get("item") == self.item:
                for keys, name in self.caps:
                    if content.get("key") in keys.split(" "):
                        call(name)

        self.on_msg(received)

    def press(self, key: str, item: str | None = None) -> None:
        """What a press of a key does; for scripts and tests."""
        self._handle_custom_msg({"key": key, "item": self.item if item is None else item}, [])
