"""What all widgets share: traits and controls, errors in words, selections, background work, texts that stay dead."""

import ast
import importlib
import re
import threading
from html.parser import HTMLParser
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import synthetic
import traitlets
from hypothesis import given
from hypothesis import strategies as st

import workbench
import workbench.widgets
from workbench.errors import WorkbenchError
from workbench.widgets import stills
from workbench.widgets.base import Panel, guarded
from workbench.widgets.controls import button, dropdown, row
from workbench.widgets.figures import Figure, figure, library
from workbench.widgets.jobs import Job
from workbench.widgets.tables import RowTable, cell
from workbench.widgets.texts import escape, plot_text, show_text, visible
from workbench.widgets.theme import STYLE_SHEET


class Small(Panel):
    heading = "Small <one>"
    help = "A widget to test with."
    size = traitlets.Int()

    def __init__(self, **state):
        super().__init__()
        control = self.bind("size", dropdown("Size", "How many rows", [0, 1, 2, 3, 40_000], value=2))
        self.rows = self.row_table("rows", RowTable("Rows", ["number", "text"]), lambda found: None)
        self.chart = self.plot("Numbers", "x (units)", "y")
        explode = self.press("explode", button("Explode", "Raise an error"), self._explode)
        self.watch(self._draw, "size")
        self.compose(row(control, explode), self.chart, self.rows)
        self._draw()
        self.restore(state)

    @guarded
    def _draw(self):
        if self.size == 3:
            raise ValueError("three is <b>not</b> liked")
        if self.size == 1:
            raise WorkbenchError("A size must not be one; got 1. Choose two.")
        table = pd.DataFrame({"number": np.arange(self.size), "text": [synthetic.NASTY] * self.size})
        self.rows.show(table)
        self.chart.redraw(
            [{"type": "scatter", "mode": "markers", "x": np.arange(self.size), "y": np.arange(self.size) * 2.0}]
        )
        self.select(table)

    def _explode(self):
        raise KeyError("gone")


# --- traits, controls, selection -------------------------------------------------------------------------------------


def test_a_trait_moves_its_control_and_a_control_its_trait():
    panel = Small()
    panel.size = 0
    assert panel.controls["size"].value == 0 and panel.selection_count == 0
    panel.controls["size"].value = 2
    assert panel.size == 2 and list(panel.selection["number"]) == [0, 1]


def test_the_state_of_one_widget_restores_another():
    one = Small(size=40_000)
    assert Small(**one.state).selection.equals(one.selection)
    with pytest.raises(WorkbenchError, match="must be given traits it has; got 'colour'"):
        Small(colour=1)


def test_a_selection_is_a_table_of_ones_own():
    panel = Small()
    table = panel.selection
    table["number"] = -1
    assert list(panel.selection["number"]) == [0, 1]


def test_every_control_has_a_label_and_a_tooltip():
    panel = Small()
    for control in panel.controls.values():
        if isinstance(control, ipywidgets.DOMWidget) and hasattr(control, "description"):
            assert control.description and control.tooltip
    with pytest.raises(AssertionError, match="label and a tooltip"):
        dropdown("", "words", [1])


# --- errors ----------------------------------------------------------------------------------------------------------


def test_an_error_is_shown_in_words_with_its_traceback_folded_and_the_widget_lives_on():
    panel = Small()
    panel.size = 3
    assert "three is" in panel.error
    html = panel._errors.value
    assert "<b>not</b>" not in html and "&lt;b&gt;not" in html
    assert html.index("<details") < html.index("Traceback (most recent call last)")
    panel.size = 2
    assert panel.error == "" and panel._errors.value == "" and panel.selection_count == 2


def test_a_users_mistake_is_shown_in_words_only():
    panel = Small(size=1)
    assert panel.error.startswith("WorkbenchError: A size must not be one")
    assert "details" not in panel._errors.value


def test_what_a_button_raises_is_shown_too():
    panel = Small()
    panel.controls["explode"].click()
    assert panel.error == "KeyError: 'gone'"


def test_a_table_that_a_study_lacks_is_said_once_and_is_none(tmp_path):
    panel = Panel(synthetic.study(tmp_path, ("en",), quick=True, without=("cosines",)))
    assert panel.table("cosines") is None and panel.table("cosines") is None
    assert panel._notes.value.count("no table") == 1
    assert panel.table("gap") is panel.table("gap")


# --- background work -------------------------------------------------------------------------------------------------


def test_a_job_hands_its_result_to_the_thread_that_waits():
    panel, seen = Small(), {}

    def work(job: Job):
        seen["in"] = threading.current_thread()
        for k in range(4):
            job.step(k, 4)
        return 3

    panel.run_job("Counting", work, lambda n: seen.update(n=n, out=threading.current_thread()))
    assert panel.jobs.layout.display == "" and panel.jobs.label.value == "Counting"
    panel.jobs.wait()
    assert seen["n"] == 3 and seen["out"] is threading.main_thread() is not seen["in"]
    assert panel.jobs.layout.display == "none" and not panel.jobs.running


def test_a_stopped_job_ends_at_its_next_step_and_its_result_is_dropped():
    panel, begun, go, after, results = Small(), threading.Event(), threading.Event(), [], []

    def work(job: Job):
        begun.set()
        go.wait(10)
        job.step(1, 2)
        after.append("went on")

    panel.run_job("Slow", work, results.append)
    assert begun.wait(10)
    panel.jobs.stop_button.click()
    go.set()
    panel.jobs.wait()
    assert not after and not results and panel.error == ""


def test_a_new_job_replaces_the_one_that_runs():
    panel, go, results = Small(), threading.Event(), []
    panel.run_job("First", lambda job: go.wait(10), lambda _: results.append("first"))
    first = panel.jobs._thread
    panel.run_job("Second", lambda job: "second", results.append)
    panel.jobs.wait()
    go.set()
    first.join()
    panel.jobs.wait()
    assert results == ["second"]


def test_a_job_that_raises_is_shown_with_its_traceback():
    panel = Small()
    panel.run_job("Dividing", lambda job: 1 / 0, print)
    panel.jobs.wait()
    assert "ZeroDivisionError" in panel.error and "Traceback" in panel._errors.value


# --- tables ----------------------------------------------------------------------------------------------------------


def test_forty_thousand_rows_are_shown_a_page_at_a_time():
    panel = Small(size=40_000)
    grid = panel.rows.grid
    assert len(grid.page) == grid.size == 10 and grid.total == 40_000
    panel.controls["rows_forward"].click()
    assert grid.page[0][0] == "10" and panel.rows.where.value == "11 to 20 of 40000"
    panel.rows.chosen = 39_999
    assert grid.first == 39_990 and panel.rows.row["number"] == 39_999
    assert panel.controls["rows_forward"].disabled and not panel.controls["rows_back"].disabled


def test_cells_say_what_is_missing_and_write_out_control_characters():
    assert [cell(x) for x in (None, float("nan"), True, 0.12345, 12345.6, "a\x07")] == [
        "–",
        "–",
        "yes",
        "0.123",
        "12346",
        "a␇",
    ]


def test_an_empty_table_says_so():
    panel = Small(size=0)
    assert panel.rows.grid.page == [] and panel.rows.where.value == "0 rows" and panel.rows.row is None


# --- texts -----------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.said = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.said += data


@given(st.text())
def test_a_text_adds_no_tag_and_no_attribute_and_is_read_back_whole(text):
    plain, found = Tags(show_text("x", "S")), Tags(show_text(text, "S"))
    assert found.tags == plain.tags and found.attributes == plain.attributes
    assert found.said == "S" + visible(text)


@given(st.text())
def test_no_control_character_and_no_override_reaches_the_page(text):
    left = [
        c
        for c in visible(text)
        if c not in "\n\t" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u202d\u2066\u2028")
    ]
    assert not left
    visible(text).encode("utf-8")


def test_joiners_that_scripts_are_written_with_are_kept():
    for words in ("می‌خواهم", "ක්‍ෂ", "ភាសា​ខ្មែរ", "မြန်မာ"):
        assert visible(words) == words


def test_texts_are_folded_and_in_their_own_direction():
    html = show_text("سلام", "Prompt", language="fa")
    assert html.startswith("<details") and " open" not in html
    assert 'dir="auto" lang="fa"' in html
    assert "lang" not in show_text("x", "S", language='"><script>')
    assert escape('"') == "&quot;" and "<" not in plot_text(synthetic.NASTY)


# --- figures and pictures --------------------------------------------------------------------------------------------


def test_figures_share_one_copy_of_plotly():
    one, other = figure("x", "y"), figure("x", "y")
    assert isinstance(one, Figure) and one.library == other.library == library().model_id
    assert len(one._esm) < 10_000 < len(library().source)
    assert not re.search(r"https?://", one._esm)


def test_a_redraw_changes_what_differs_and_can_change_the_kinds_of_traces():
    chart = figure("x", "y")
    trace = {"type": "scatter", "x": np.arange(3.0), "y": np.ones(3), "marker": {"color": "red", "size": [1, 2, 3]}}
    chart.redraw([trace])
    uid = chart.data[0].uid
    chart.redraw(
        [trace | {"y": np.zeros(2), "marker": {"color": "blue", "size": [4, 5, 6]}}], shapes=[{"type": "line", "x0": 1}]
    )
    assert chart.data[0].uid == uid and chart.data[0].marker.color == "blue" and list(chart.data[0].y) == [0, 0]
    assert len(chart.layout.shapes) == 1
    chart.redraw([{"type": "bar", "x": ["a"], "y": [1]}], shapes=[])
    assert [t.type for t in chart.data] == ["bar"] and not chart.layout.shapes


def test_a_page_that_opens_late_is_told_the_figure_as_it_is_now():
    chart = figure("x", "y")
    for drawn in (False, True):
        chart.drawn = drawn
        chart.redraw([{"type": "scatter", "x": [1, 2], "y": [3, 4 + drawn]}])
        state = chart.get_state()
        assert [list(t["y"]) for t in state["_widget_data"]] == [[3, 4 + drawn]]


def test_a_click_in_the_page_reaches_the_callback():
    chart, seen = figure("x", "y"), []
    chart.redraw([{"type": "scatter", "x": [1, 2], "y": [3, 4], "name": "points"}])
    chart.on_point(lambda trace, point: seen.append((trace.name, point)))
    message = {"trace_indexes": [0], "point_indexes": [1], "xs": [2], "ys": [4]}
    chart._js2py_pointsCallback = {
        "event_type": "plotly_click",
        "points": message,
        "device_state": None,
        "selector": None,
    }
    assert seen == [("points", 1)]


def test_the_still_picture_shows_the_last_view():
    panel = Small(size=0)
    empty = panel.still()
    panel.size = 2
    two = panel.still()
    assert empty.startswith(b"\x89PNG") and empty != two
    panel.size = 40_000
    panel.size = 2
    assert panel.still() == two


def test_stacked_bars_of_the_still_picture_stand_on_one_another():
    from matplotlib.figure import Figure as Sheet

    chart = figure("x", "y", barmode="relative")
    chart.redraw(
        [{"type": "bar", "x": ["a", "b"], "y": [1.0, 2.0]}, {"type": "bar", "x": ["a", "b"], "y": [3.0, -1.0]}]
    )
    ax = Sheet().subplots()
    stills._draw(ax, "bars", chart)
    assert [(p.get_y(), p.get_height()) for p in ax.patches] == [(0, 1), (0, 2), (1, 3), (0, -1)]


def test_lines_frames_and_named_ticks_are_on_the_still_picture():
    from matplotlib.figure import Figure as Sheet

    chart = figure("x", "y")
    shapes = [
        {"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper"},
        {"type": "line", "x0": 0, "x1": 1, "y0": 2, "y1": 2, "xref": "paper"},
        {"type": "rect", "x0": 0, "x1": 1, "y0": 0, "y1": 3},
    ]
    ticks = {"tickvals": [0, 1], "ticktext": ["none", "everything"]}
    heat = {"type": "heatmap", "z": [[-1.0, 1.0], [0.5, 0.0]], "zmin": -1, "zmax": 1}
    chart.redraw([heat], shapes=shapes, xaxis=ticks)
    ax = Sheet().subplots()
    stills._draw(ax, "cells", chart)
    assert [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1] == [1]
    assert [line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1] == [2]
    assert len(ax.patches) == 1 and ax.patches[0].get_height() == 3
    assert [label.get_text() for label in ax.get_xticklabels()] == ["none", "everything"]
    assert ax.images[0].get_cmap().name == "RdBu_r"


def test_a_displayed_widget_leaves_a_picture_that_its_own_style_hides(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **about: shown.append((data, about)))
    panel = Small()
    panel._ipython_display_()
    (live, _), (still, about) = shown
    assert "application/vnd.jupyter.widget-view+json" in live and about["display_id"] is True
    name = re.search(r'class="(workbench-still-\w+)"', still["text/html"])[1]
    assert f".{name} {{ display: none; }}" in panel._style.value
    assert "data:image/png;base64," in still["text/html"]


# --- the package -----------------------------------------------------------------------------------------------------


def test_names_are_lazy_and_each_widget_has_a_file_of_its_own():
    assert len(workbench.widgets.__all__) == 7
    for name, module in workbench.widgets._HOME.items():
        file = Path(workbench.widgets.__file__).parent / f"{module}.py"
        if file.exists():
            assert issubclass(getattr(workbench.widgets, name), Panel)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        workbench.widgets.Nothing  # noqa: B018


def test_nothing_is_fetched_from_elsewhere():
    folder = Path(workbench.__file__).parent
    for path in [*folder.glob("widgets/*.py"), *folder.glob("data/widgets/*")]:
        assert not re.search(
            r"https?://|innerHTML|insertAdjacentHTML|document\.write|\beval\(", path.read_text("utf-8")
        ), path


def test_widgets_import_no_model_and_no_other_widget():
    homes = set(workbench.widgets._HOME.values())
    for path in (Path(workbench.__file__).parent / "widgets").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                name = node.module.split(".")
                assert name[:2] != ["workbench", "model"], path
                assert not (name[:2] == ["workbench", "widgets"] and len(name) > 2 and name[2] in homes), path


def test_the_style_sheet_is_whole():
    assert STYLE_SHEET.count("{") == STYLE_SHEET.count("}") and "@import" not in STYLE_SHEET
    assert importlib.import_module("workbench.widgets.theme").TIER_COLOURS["low"] == "#D55E00"
