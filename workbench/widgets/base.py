"""What every widget is: a box with a title, controls tied to traits, errors in words, a readable selection, a still picture.

A widget's whole state is in its traits. A control is tied to the trait of its name (`bind`), a trait is watched by what
it changes (`watch`), and whatever a callback raises is shown in the widget, which lives on. Its current selection is a
DataFrame (`selection`). Slow work goes through `run_job`. Nothing here computes.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import traitlets

from workbench.errors import WorkbenchError, nearest
from workbench.study import StudyFolder, open_study
from workbench.widgets import stills
from workbench.widgets.controls import row
from workbench.widgets.figures import Figure, figure
from workbench.widgets.jobs import Job, JobBar
from workbench.widgets.tables import RowTable
from workbench.widgets.texts import escape, show_error
from workbench.widgets.theme import STYLE_SHEET


def guarded(method: Callable) -> Callable:
    """A method of a panel whose errors are shown in the panel instead of being raised."""

    @functools.wraps(method)
    def call(self: Panel, *args: Any, **kwargs: Any) -> Any:
        with self.guard():
            return method(self, *args, **kwargs)

    return call


class Panel(widgets.VBox):
    """The base of all widgets.

    Class attributes:
        heading: title.
        help: one line on what it shows and how to begin.

    Attributes:
        controls: name -> control; those tied to a trait have its name.
        figures: title -> figure.
        selection_count: rows in `selection`.
        error: words of the last error; empty where the last callback went well.
        jobs: the progress bar of slow work.
    """

    heading = "Panel"
    help = ""
    selection_count = traitlets.Int(0, read_only=True)
    error = traitlets.Unicode("", read_only=True)

    def __init__(self, study: StudyFolder | Path | str | None = None):
        """Opens the study, where one is given; its tables are read when they are asked for."""
        self.opened = study if isinstance(study, StudyFolder) or study is None else open_study(study)
        self.controls: dict[str, widgets.Widget] = {}
        self.figures: dict[str, Figure] = {}
        self._tables: dict[str, pd.DataFrame | None] = {}
        self._absent: dict[str, str] = {}
        self._selection = pd.DataFrame()
        self._depth = 0
        self._style = widgets.HTML()
        self._head = widgets.HTML(
            f'<p class="workbench-title" role="heading" aria-level="2">{escape(self.heading)}</p>'
            f'<p class="workbench-help">{escape(self.help)}</p>'
        )
        self._notes, self._errors = widgets.HTML(), widgets.HTML()
        self._tally = widgets.HTML()
        self.jobs = JobBar()
        self._still = stills.LastView(self.heading, self.figures)
        super().__init__()
        self._style.value = f"<style>{STYLE_SHEET} .{self._still.name} {{ display: none; }}</style>"
        self._style.layout.display = "flex"
        self.add_class("workbench-panel")
        self.layout.width = "100%"
        self.compose()
        self._say_tally()

    # --- building ------------------------------------------------------------------------------------------------

    def compose(self, *body: widgets.Widget) -> None:
        """Lay out the widget: title, notes, errors, then `body`, then progress and the size of the selection."""
        fixed = (self._style, self._head, self._notes, self._errors)
        self.children = (*fixed, *body, self.jobs, self._tally)

    def bind(self, name: str, control: Any) -> Any:
        """Tie a control to the trait of this name, both ways, and register it; the control has its value first."""
        assert self.has_trait(name), f"{type(self).__name__} must have a trait {name!r} to tie a control to"
        if hasattr(control, "options"):
            self._register_validator(_one_of(name, control), (name,))
        # The trait first: values that it was given in the constructor win where the control knows them.
        traitlets.link((control, "value"), (self, name))
        return self.add(name, control)

    def add(self, name: str, control: Any) -> Any:
        """Register a control that is tied to no trait, so that tests and benchmarks find it."""
        self.controls[name] = control
        return control

    def press(self, name: str, control: widgets.Button, call: Callable[[], Any]) -> widgets.Button:
        """Register a button and what it does."""

        def pressed(_: Any) -> None:
            with self.guard():
                call()

        control.on_click(pressed)
        return self.add(name, control)

    def watch(self, call: Callable[[], Any], *traits: str) -> None:
        """Call, guarded, whenever one of these traits changes."""

        def changed(_: Any) -> None:
            with self.guard():
                call()

        self.observe(changed, list(traits))

    def plot(self, title: str, x: str = "", y: str = "", height: int = 340, **more: Any) -> Figure:
        """A figure of this widget, also drawn on its still picture. See `figures.figure`."""
        made = figure(x, y, height, **more)
        self.figures[title] = made
        return made

    def row_table(self, name: str, table: RowTable, call: Callable[[pd.Series | None], Any]) -> RowTable:
        """Register a paged table and what happens, guarded, when a row of it is chosen."""

        def chosen(found: pd.Series | None) -> None:
            with self.guard():
                call(found)

        table.on_choose(chosen)
        self.controls |= {name: table.grid, f"{name}_back": table.back, f"{name}_forward": table.forward}
        return table

    @property
    def state(self) -> dict[str, Any]:
        """Values of the traits that controls are tied to; `restore` takes them back."""
        return {name: getattr(self, name) for name in self.controls if self.has_trait(name)}

    def restore(self, state: dict[str, Any]) -> None:
        """Set traits, guarded each: a value that this study does not know is said and left.

        Args:
            state: trait -> value, as from `state`.
        """
        for name, value in state.items():
            if not self.has_trait(name):
                known = ", ".join(self.state)
                raise WorkbenchError(
                    f"{type(self).__name__} must be given traits it has; got {name!r}. Known: {known}."
                )
            with self.guard():
                setattr(self, name, value)

    # --- tables --------------------------------------------------------------------------------------------------

    def table(self, name: str) -> pd.DataFrame | None:
        """A table of the study, read once; None where the study has none, which is said in words above the figures."""
        if name not in self._tables:
            try:
                self._tables[name] = None if self.opened is None else self.opened.table(name)
            except WorkbenchError:
                self._tables[name] = None
                self.note(f"table {name}", f"This study has no table '{name}': what rests on it is left out.")
        return self._tables[name]

    def note(self, key: str, words: str) -> None:
        """Say something that stays in sight, such as what is missing; no words take it away."""
        self._absent = {**self._absent, key: words} if words else {k: v for k, v in self._absent.items() if k != key}
        self._notes.value = "".join(f'<p class="workbench-note">{escape(said)}</p>' for said in self._absent.values())

    # --- selection -----------------------------------------------------------------------------------------------

    @property
    def selection(self) -> pd.DataFrame:
        """The rows that are selected now, as a table of one's own."""
        return self._selection.copy()

    def select(self, rows: pd.DataFrame) -> None:
        """Make these rows the selection."""
        self._selection = rows.reset_index(drop=True)
        self.set_trait("selection_count", len(rows))
        self._say_tally()

    def _say_tally(self) -> None:
        n, name = self.selection_count, escape(type(self).__name__)
        words = f"Selection: {n} {'row' if n == 1 else 'rows'}, read it with <code>.selection</code>"
        self._tally.value = f'<p class="workbench-count" role="status" data-widget="{name}">{words}</p>'

    # --- errors and slow work ------------------------------------------------------------------------------------

    @contextmanager
    def guard(self) -> Iterator[None]:
        """What is raised inside is shown in the widget: users' mistakes in words, others with a folded traceback."""
        self._depth += 1
        if self._depth == 1:
            self._say_error("", "")
        try:
            yield
        except Exception as error:
            self.fail(error)
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._still.later()

    def fail(self, error: BaseException) -> None:
        """Show an error."""
        ours = isinstance(error, WorkbenchError)
        words = str(error) if ours else f"{error} (the widget goes on; try another choice)"
        trace = "" if ours else "".join(traceback.format_exception(error))
        self._say_error(f"{type(error).__name__}: {error}", show_error(error, words, trace))

    def _say_error(self, words: str, html: str) -> None:
        self.set_trait("error", words)
        if self._errors.value != html:
            self._errors.value = html

    def run_job(self, words: str, work: Callable[[Job], Any], done: Callable[[Any], Any]) -> Job:
        """Do slow work in a thread, with progress and a stop button; `done(result)` runs, guarded, in the main thread.

        Args:
            words: what is being done.
            work: called with the job; calls `job.step(done, of)` now and then, touches no widget.
            done: what to do with its result.
        """

        def finish(result: Any) -> None:
            with self.guard():
                done(result)

        return self.jobs.start(words, work, finish, self.fail)

    # --- pictures ------------------------------------------------------------------------------------------------

    def still(self) -> bytes:
        """The figures as they are now, as a PNG."""
        return stills.png(self.figures, self.heading)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)
        self._still.show()


def _one_of(name: str, control: Any) -> Callable[[Any, Any], Any]:
    """A validator that lets a trait have no value that its control does not offer."""

    def check(_: Any, proposal: Any) -> Any:
        known = [value for _, value in control._options_full]
        value = proposal["value"]
        several = isinstance(control, widgets.SelectMultiple)
        if not all(one in known for one in (value if several else [value])):
            raise WorkbenchError(
                f"{name} must be one of what this study has; got {value!r}. {nearest(str(value), map(str, known))}"
            )
        return value

    return check


__all__ = ["Panel", "guarded", "row"]
