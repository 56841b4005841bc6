"""Label replies or review translations with the keyboard, blind and in a shuffled order, saved at every label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets

from workbench.errors import WorkbenchError
from workbench.study import StudyFolder
from workbench.widgets.base import Panel, guarded
from workbench.widgets.controls import button, choice, columns, dropdown, integer, row, text, tick
from workbench.widgets.keys import Keys
from workbench.widgets.queues import Queue, heading, open_queue, shuffled
from workbench.widgets.tables import RowTable
from workbench.widgets.texts import escape, name_of
from workbench.widgets.theme import SERIES

TASKS = ("replies", "translations")
SHOWN = ("not labelled yet", "all", "disagreements")
_MOVES = (("o space", "open"), ("b ArrowLeft", "back"), ("s ArrowRight", "skip"))
_STYLE = """
.workbench-keys { display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 4px 6px; border-radius: 3px; }
.workbench-keys kbd { border: 1px solid currentColor; border-radius: 3px; padding: 0 4px; font-size: 0.9em; }
.workbench-sides { display: flex; flex-wrap: wrap; gap: 4px 16px; }
.workbench-sides > div { flex: 1 1 360px; min-width: 0; }
.workbench-item { margin: 4px 0; min-height: 9em; }
"""
_AGREEMENT = ("language", "a", "b", "n", "same", "kappa", "kappa_low", "kappa_high", "reason")


class Annotator(Panel):
    """A queue of items to label: replies of models, or translations of prompts.

    Whoever labels sees prompt and reply, and neither the model, nor what was done to it, nor what any judge or other
    annotator says. Labels of replies go to the store (`labels.add_label`), reviews of translations to `reviews.jsonl`
    beside the study (`reviews.add_review`), each before the next item is shown.

    Attributes:
        task: one of `TASKS`.
        annotator: name or initials of whoever labels.
        language: of the items; empty for all.
        showing: one of `SHOWN`.
        seed: of the order.
        place: in the queue, from 0.
        unfolded: the texts of this item are open.
        stay_open: the texts of the next item will be, too.
        remark: kept with the next label.
    """

    heading = "Annotator"
    help = "Give your name, open the texts with o or Space, and label with the keys. Every label is saved at once."
    task = traitlets.Enum(TASKS, default_value=TASKS[0])
    annotator = traitlets.Unicode("")
    language = traitlets.Unicode("")
    showing = traitlets.Enum(SHOWN, default_value=SHOWN[0])
    seed = traitlets.Int(0)
    place = traitlets.Int(0)
    unfolded = traitlets.Bool(False)
    stay_open = traitlets.Bool(False)
    remark = traitlets.Unicode("")

    def __init__(self, study: StudyFolder | Path | str, reviews: Path | str | None = None, **state: Any):
        """Opens a study; `reviews`: where reviews of translations are kept, by default beside the study."""
        super().__init__(study)
        self._file = Path(reviews) if reviews is not None else self.opened.path / "reviews.jsonl"
        self._queues: dict[str, Queue] = {}
        self._said: dict[str, dict[str, dict[int, str]]] = {}
        self.order = np.empty(0, dtype=int)
        self._item, self._status, self._progress = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._item.add_class("workbench-item")
        self.pad = Keys()
        self.pad.on_key(self._pressed)
        self.labels_box = row()
        self.chart = self.plot("Labelled so far", "", "items", 220, barmode="stack")
        self.compared = RowTable("Agreement of annotators", _AGREEMENT, 6, "Press Compare.")
        self._lay_out()
        self.watch(self._open, "task")
        self.watch(self._queue, "annotator", "language", "showing", "seed")
        self.watch(self._show, "place", "unfolded")
        self.watch(lambda: self.set_trait("unfolded", self.stay_open), "stay_open")
        self._open()
        self.restore(state)

    # --- controls ------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        style = widgets.HTML(f"<style>{_STYLE}</style>")
        style.layout.display = "none"
        task = self.bind("task", choice("Task", "Judge replies of models, or review translations of prompts", TASKS))
        who = self.bind(
            "annotator", text("Annotator", "Your name or initials, kept with every label", placeholder="name")
        )
        language = self.bind("language", dropdown("Language", "Only items in this language", [("all", "")]))
        showing = self.bind("showing", dropdown("Show", "Which items are in the queue", SHOWN))
        seed = self.bind("seed", integer("Order", "Another number gives another order", 0, 0, 999))
        stay = self.bind("stay_open", tick("Keep texts open", "Open the texts of every item at once"))
        remark = self.bind("remark", text("Note", "Kept with the next label; say here why you are unsure"))
        moves = [
            self.press("open", button("Open", "Show or fold the texts (o, Space)", icon="eye"), self._fold),
            self.press(
                "back", button("Back", "The item before; label it again if you like (b, ←)"), lambda: self._move(-1)
            ),
            self.press("skip", button("Skip", "The next item, without a label (s, →)"), lambda: self._move(1)),
        ]
        words = "Cohen's kappa of every two annotators"
        compare = self.press("compare", button("Compare", words, icon="balance-scale"), self._ask_agreement)
        self.controls |= {"compared": self.compared.grid}
        self.compose(
            style,
            *(row(task, who, language), row(showing, seed, stay), self._progress, self._item),
            *(row(self.labels_box, *moves), row(remark), self.pad, self._status),
            columns(self.chart, widgets.VBox([row(compare), self.compared])),
        )

    def _choose_labels(self, queue: Queue) -> None:
        """A button and two keys for each choice."""
        self.controls = {name: made for name, made in self.controls.items() if not name.startswith("label ")}
        made, caps = [], []
        for place, (name, letter) in enumerate(zip(queue.choices, queue.letters, strict=True), 1):
            words = f"Label as {name}, save it, and go on ({place}, {letter})"
            made.append(
                self.press(f"label {name}", button(name.capitalize(), words), lambda name=name: self._label(name))
            )
            caps.append((f"{place} {letter}", name))
        self.labels_box.children = made
        self.pad.caps, self.pad.label = [*caps, *_MOVES], f"Keys: {queue.asked}"

    # --- the queue -----------------------------------------------------------------------------------------------

    @property
    def queue(self) -> Queue:
        """What there is to label in this task."""
        if self.task not in self._queues:
            tables = self.table("completions"), self.table("prompts")
            self._queues[self.task] = open_queue(self.task, *tables, self._file)
        return self._queues[self.task]

    @property
    def said(self) -> Mapping[int, str]:
        """What this annotator has said: item -> choice."""
        return self._said.get(self.task, {}).get(self.annotator.strip(), {})

    @property
    def item(self) -> int | None:
        """The item that is shown; None at the end of the queue."""
        return int(self.order[self.place]) if 0 <= self.place < len(self.order) else None

    @property
    def disagreements(self) -> pd.DataFrame:
        """The items that annotators label differently, with the choice of each in a column of its own."""
        told = pd.DataFrame(
            {name: pd.Series(said, dtype=object) for name, said in self._said.get(self.task, {}).items()}
        )
        apart = told[told.nunique(axis=1) > 1].sort_index()
        rows = [self.queue.rows(int(item)).assign(**choices) for item, choices in apart.to_dict("index").items()]
        return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=list(told.columns))

    def _open(self) -> None:
        self.order, self.place, self._status.value = np.empty(0, dtype=int), 0, ""
        try:
            queue = self.queue
        except WorkbenchError as error:
            self.note("queue", str(error))
            self._item.value = '<p class="workbench-none">Nothing to label.</p>'
            self.select(pd.DataFrame())
            return
        self.note("queue", "")
        self._choose_labels(queue)
        self._said[self.task] = queue.said()
        codes = list(dict.fromkeys(queue.languages.tolist()))
        wanted = self.language if self.language in codes else ""
        self.controls["language"].options = [("all", ""), *((name_of(code), code) for code in codes)]
        self.language = wanted
        self._queue()

    def _queue(self) -> None:
        """Make the order anew."""
        if self.task not in self._queues:
            return
        queue = self.queue
        if self.showing == "disagreements":
            self._said[self.task] = queue.said()  # the other annotator may sit at another notebook
        order = shuffled(queue, self.seed)
        if self.language:
            order = order[queue.languages[order] == self.language]
        if self.showing != "all":
            keep = (
                self._apart() if self.showing == "disagreements" else set(range(len(queue.languages))) - set(self.said)
            )
            order = order[np.isin(order, np.fromiter(keep, dtype=int))]
        self.order = order
        self.set_trait("unfolded", self.stay_open)
        if self.place:
            self.place = 0
        else:
            self._show()

    def _apart(self) -> set[int]:
        """Items that this annotator and another one label differently."""
        others = [said for name, said in self._said[self.task].items() if name != self.annotator.strip()]
        return {item for item, mine in self.said.items() if any(said.get(item, mine) != mine for said in others)}

    @guarded
    def _show(self) -> None:
        if self.task not in self._queues:
            return
        item, n = self.item, len(self.order)
        self.pad.item = f"{self.task}/{self.place}/{item}/{self.annotator}"
        self._progress.value = self._progress_words(n)
        self._draw()
        if item is None:
            self._item.value = f'<p class="workbench-none">{self._end_words()}</p>'
            self.select(pd.DataFrame())
            return
        queue, mine = self.queue, self.said.get(item)
        code = str(queue.languages[item])
        before = f'<p class="workbench-caption">You said: <strong>{escape(mine)}</strong></p>' if mine else ""
        if self.showing == "disagreements":
            told = ", ".join(f"{name}: {said[item]}" for name, said in self._said[self.task].items() if item in said)
            before = f'<p class="workbench-caption" dir="auto">{escape(told)}</p>'
        body = queue.show(item, folded=not self.unfolded)
        asked = f"<p><strong>{heading(code)}</strong> {escape(queue.asked)}</p>"
        self._item.value = f'{asked}{before}<div data-key="o">{body}</div>'
        self.select(queue.rows(item).assign(said=mine))

    def _end_words(self) -> str:
        if not len(self.queue.languages):
            return "Nothing to label."
        return (
            "No disagreements." if self.showing == "disagreements" and not len(self.order) else "The queue has ended."
        )

    def _progress_words(self, n: int) -> str:
        if not self.annotator.strip():
            return '<p class="workbench-note">Who labels? Give a name or initials first.</p>'
        here = f"no. {self.place + 1} of {n} in this queue; " if self.place < n else ""
        total = len(self.queue.languages)
        return (
            f'<p class="workbench-caption" role="status">{here}{len(self.said)} of {total} items labelled by you.</p>'
        )

    def _draw(self) -> None:
        languages = self.queue.languages
        done = Counter(str(languages[item]) for item in self.said)
        total = Counter(languages.tolist())
        codes = list(total)
        parts = {"labelled": [done[code] for code in codes], "to do": [total[code] - done[code] for code in codes]}
        looks = ({"color": SERIES[0]}, {"color": "rgba(128,128,128,0.35)", "pattern": {"shape": "/"}})
        self.chart.redraw(
            [
                {"type": "bar", "x": codes, "y": values, "name": name, "marker": look, "hovertemplate": "%{x}: %{y}"}
                for (name, values), look in zip(parts.items(), looks, strict=True)
            ]
        )

    # --- labelling -----------------------------------------------------------------------------------------------

    def _pressed(self, name: str) -> None:
        with self.guard():
            moves = {"open": self._fold, "back": lambda: self._move(-1), "skip": lambda: self._move(1)}
            moves.get(name, lambda: self._label(name))()

    def _fold(self) -> None:
        self.unfolded = not self.unfolded

    def _move(self, by: int) -> None:
        self._go(min(max(self.place + by, 0), len(self.order)))

    def _go(self, place: int) -> None:
        """To another place, with its texts folded before they are shown."""
        if place != self.place:
            with self.hold_trait_notifications():
                self.unfolded, self.place = self.stay_open, place

    def _label(self, name: str) -> None:
        item, who = self.item, self.annotator.strip()
        if item is None:
            raise WorkbenchError("There must be an item to label; this is the end of the queue. Go back, or show all.")
        if not who:
            raise WorkbenchError("A label must have an annotator; got no name. Give a name or initials first.")
        if not self.unfolded:
            raise WorkbenchError("A text must be read to be labelled; it is folded. Open it with o or Space first.")
        self.queue.keep(item, name, who, self.remark.strip())
        self._said[self.task].setdefault(who, {})[item] = name
        self.remark = ""
        self._status.value = (
            f'<p class="workbench-caption" role="status">Saved: {escape(name)}, no. {self.place + 1}.</p>'
        )
        self._move(1)

    def _ask_agreement(self) -> None:
        queue = self.queue

        def done(table: pd.DataFrame) -> None:
            self.compared.show(table)
            self._said[self.task] = queue.said()
            self._show()

        self.run_job("Comparing annotators", lambda job: queue.agreement(), done)
