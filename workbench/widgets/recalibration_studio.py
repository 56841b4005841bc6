"""RecalibrationStudio: set a language's threshold on one to four examples per class, and see what that is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets

from workbench.errors import FitError
from workbench.examples import is_harmful
from workbench.gates import Gate, fit_gate
from workbench.languages import LANGUAGES
from workbench.study import StudyFolder
from workbench.widgets.base import Panel, guarded
from workbench.widgets.controls import button, columns, dropdown, integer, row, text
from workbench.widgets.pools import MEASURES, VARIANTS, Pool
from workbench.widgets.tables import RowTable, cell
from workbench.widgets.texts import escape, name_of, show_text
from workbench.widgets.theme import GREY, LABEL_COLOURS
from workbench.widgets.traces import Trace, densities, upright

MOST = 4
"""Examples per class that can be chosen."""

_COLOURS = dict(zip(VARIANTS, ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", GREY), strict=True))
_DASHES = dict(zip(VARIANTS, ("dash", "dot", "dashdot", "solid", "longdash"), strict=True))
_HEIGHTS = dict(zip(VARIANTS, (0.0, 0.2, 0.4, 0.6, 0.8), strict=True))
_MARKS = {"TPR": ("#D55E00", "triangle-up"), "FPR": ("#56B4E9", "square"), "Delta": ("#009E73", "diamond")}
_COLUMNS = ("chosen", "label", "harm_type", "logit", "prompt_id")


class RecalibrationStudio(Panel):
    """A gate from the source languages, and its threshold reset on a few examples of another language.

    Attributes:
        language: code of the language that is calibrated.
        per_class: examples per class that are proposed.
        examples: `prompt_id` of each chosen example, at most `MOST` per class.
        variant: one of `pools.VARIANTS`: the gate that is exported.
        path: file that the gate is exported to.

    `selection` holds the chosen examples; `gate` is the gate that would be exported.
    """

    heading = "Recalibration studio"
    help = (
        "Choose a language, then click one to four examples of each class on the strip below the curves, or take rows of "
        "the table, or let the studio propose some: the threshold follows, and what it gives on test prompts."
    )
    language = traitlets.Unicode()
    per_class = traitlets.Int(1)
    examples = traitlets.List(traitlets.Unicode())
    variant = traitlets.Unicode("recalibrated")
    path = traitlets.Unicode()

    def __init__(self, study: StudyFolder | Path | str, **state: Any):
        super().__init__(study)
        rows = self.table("features")
        if rows is None or rows.empty:
            self.note("features", "Without features there is no gate to recalibrate; run the study first.")
            return
        self._rows, self._pools = rows, {}
        self._texts = self._prompt_texts()
        tier = self.opened.study.source_tier
        self._source: Gate | None = None
        self._build()
        with self.guard():
            self._source = fit_gate(rows[(rows["tier"] == tier) & (rows["split"] == "train")])
            self._show_language()
        self.restore(state)

    @property
    def gate(self) -> Gate:
        """The gate of the chosen variant.

        Raises:
            FitError: the variant needs examples of both classes that are not chosen yet.
        """
        if self.variant not in self._gates:
            raise FitError(
                f"The {self.variant} threshold needs an example of each class; {len(self.examples)} are chosen. Choose one "
                "harmful and one harmless example, or another variant."
            )
        return self._gates[self.variant]

    # --- building ------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        codes = list(self._rows["language"].unique())
        first = next((code for code in codes if LANGUAGES[code].tier == "low"), codes[-1])
        language = dropdown(
            "Language", "Language whose threshold is reset", [(name_of(c), c) for c in codes], value=first
        )
        per_class = integer("Per class", "How many examples of each class to propose", 1, 1, MOST)
        propose = button("Propose examples", "Choose the examples that are most typical of their class", icon="magic")
        clear = button("Clear", "Drop every chosen example", icon="times")
        self._take = button(
            "Take or drop this row", "Choose the row that is marked in the table, or drop it", icon="check"
        )
        variant = dropdown("Gate", "Which threshold the exported gate has", VARIANTS, value=self.variant)
        path = text("File", "File that the gate is written to; Gate.load reads it", "gate.safetensors")
        export = button("Export the gate", "Write the gate to the file", icon="download")
        self.curves = self.plot("Logits and thresholds", "logit of the gate (nats)", "density", height=380)
        self.results = self.plot("On test prompts", "threshold", "percent (TPR, FPR), points (Delta)", height=380)
        self.results.update_layout(
            xaxis={"tickvals": list(range(len(VARIANTS))), "ticktext": list(VARIANTS), "range": [-0.5, 4.5]}
        )
        self.curves.on_point(self._clicked)
        self.words, self.numbers, self.detail = widgets.HTML(), widgets.HTML(), widgets.HTML()
        table = RowTable("Training prompts to choose from", _COLUMNS, empty="No training prompts in this language.")
        self.pool_table = self.row_table("pool", table, self._row)
        self.compose(
            row(
                self.bind("language", language),
                self.bind("per_class", per_class),
                self.press("propose", propose, self._propose),
                self.press("clear", clear, lambda: self._choose([])),
            ),
            self.words,
            columns(self.curves, self.results),
            self.numbers,
            self.pool_table,
            row(self.press("take", self._take, self._take_row)),
            self.detail,
            row(self.bind("variant", variant), self.bind("path", path), self.press("export", export, self._export)),
        )
        self.watch(self._show_language, "language")
        self.watch(self._show_examples, "examples")

    def _prompt_texts(self) -> dict[str, dict[str, Any]]:
        prompts = self.table("prompts")
        if prompts is None:
            return {}
        wanted = [name for name in ("text", "source_text") if name in prompts]
        return dict(zip(prompts["prompt_id"], prompts[wanted].to_dict("records"), strict=True))

    # --- what is drawn -------------------------------------------------------------------------------------------

    @property
    def _pool(self) -> Pool:
        if self._source is None:
            raise FitError("There is no source gate; the study has no training rows of its source tier.")
        if self.language not in self._pools:
            self._pools[self.language] = Pool(self._source, self._rows[self._rows["language"] == self.language])
        return self._pools[self.language]

    def _show_language(self) -> None:
        """Another language: nothing is chosen yet."""
        test = self._pool.test
        self._curves = densities(test["logit"].to_numpy(float), is_harmful(test))[:2]
        if self.examples:
            self.examples = []
        else:
            self._show_examples()

    def _show_examples(self) -> None:
        """Other examples: thresholds, what they give, and the spread over draws of that size."""
        pool = self._pool
        known = pool.rows["prompt_id"].isin(self.examples)
        self._gates = pool.gates(self.examples)
        chosen = pool.rows[known]
        harmful = int(is_harmful(chosen).sum())
        spread = pool.spread(harmful, len(chosen) - harmful)
        self._draw_curves(known.to_numpy())
        measured = pool.measures(self._gates)
        self.results.redraw(_result_traces(measured, spread))
        self.words.value = _in_words(self.language, chosen, spread)
        self.numbers.value = _numbers(measured, spread)
        self._list(known)
        self.select(chosen.assign(text=[self._texts.get(name, {}).get("text") for name in chosen["prompt_id"]]))

    def _draw_curves(self, known: np.ndarray) -> None:
        pool = self._pool.rows
        top = max(float(np.max(trace["y"], initial=0.0)) for trace in self._curves) or 1.0
        strips: list[Trace] = []
        for place, label in enumerate(("harmful", "harmless")):
            here = (pool["label"] == label).to_numpy()
            strips.append(
                {"type": "scatter", "mode": "markers", "name": f"{label} examples", "x": pool["logit"].to_numpy(float)[here],
                 "y": np.full(int(here.sum()), -0.09 * top * (place + 1)), "customdata": list(pool["prompt_id"][here]),
                 "hovertext": [f"{label}, {kind}: click to take or drop" for kind in pool["harm_type"][here].map(escape)],
                 "hoverinfo": "text+x",
                 "marker": {"color": LABEL_COLOURS[label], "symbol": "circle" if not place else "square",
                            "size": [14 if taken else 8 for taken in known[here]],
                            "line": {"color": GREY, "width": [3 if taken else 0 for taken in known[here]]}}}
            )  # fmt: skip
        lines = [
            upright(gate.threshold, _COLOURS[name], name, "end", _DASHES[name], y1=1 - _HEIGHTS[name] * 0.8)
            for name, gate in self._gates.items()
        ]
        self.curves.redraw([*self._curves, *strips], shapes=lines)

    def _list(self, known: pd.Series) -> None:
        """The table of the pool, chosen rows first where none were; the marked row and its page stay."""
        marked, rows = self.pool_table.chosen, self._pool.rows.assign(chosen=known)
        same = len(self.pool_table.rows) == len(rows) and rows["prompt_id"].equals(
            self.pool_table.rows.get("prompt_id")
        )
        if same:
            self.pool_table.refresh(rows)
        else:
            self.pool_table.show(rows)
            marked = -1
        self._take.disabled = marked < 0

    # --- what is clicked -----------------------------------------------------------------------------------------

    @guarded
    def _clicked(self, trace: Any, point: int) -> None:
        if trace.customdata is not None:
            self._toggle(str(trace.customdata[point]))

    def _toggle(self, prompt: str) -> None:
        if prompt in self.examples:
            self._choose([name for name in self.examples if name != prompt])
            return
        rows = self._pool.rows.set_index("prompt_id")
        label = rows.loc[prompt, "label"]
        there = sum(rows.loc[name, "label"] == label for name in self.examples)
        if there >= MOST:
            raise FitError(
                f"At most {MOST} examples of a class can be chosen; there are {there} {label} ones. Drop one first."
            )
        self._choose([*self.examples, prompt])

    def _choose(self, prompts: list[str]) -> None:
        self.examples = prompts

    def _propose(self) -> None:
        self._choose(self._pool.propose(self.per_class))

    def _row(self, found: pd.Series | None) -> None:
        self._take.disabled = found is None
        if found is None:
            self.detail.value = ""
            return
        texts = self._texts.get(str(found["prompt_id"]), {})
        prompt = show_text(texts.get("text"), f"{found['label']} prompt", language=self.language)
        self.detail.value = prompt + show_text(texts.get("source_text"), "English source", language="en")

    def _take_row(self) -> None:
        if self.pool_table.row is not None:
            self._toggle(str(self.pool_table.row["prompt_id"]))

    def _export(self) -> None:
        if not self.path.strip():
            raise FitError("A gate must have a file to be written to; the name is empty. Type one.")
        self.gate.save(Path(self.path.strip()).expanduser())
        self.note("export", f"Written: {Path(self.path.strip()).expanduser()}, {self.gate!r}")


def _result_traces(measured: pd.DataFrame, spread: pd.DataFrame) -> list[Trace]:
    """A point with its interval for each threshold and measure, and a broad bar for the spread over draws."""
    traces: list[Trace] = []
    for offset, measure in zip((-0.22, 0.0, 0.22), MEASURES, strict=True):
        colour, symbol = _MARKS[measure]
        here, drawn = measured[measured["measure"] == measure], spread[spread["measure"] == measure]
        middle = drawn["median"].to_numpy(float)
        for part, value, low, high, bar, more in (
            (drawn, middle, drawn["low"], drawn["high"], {"thickness": 9, "width": 0, "color": _pale(colour)},
             {"name": f"{measure}: draws", "marker": {"color": colour, "symbol": "line-ew-open", "size": 10}}),
            (here, here["value"], here["low"], here["high"], {"thickness": 1.5, "width": 4, "color": colour},
             {"name": measure, "marker": {"color": colour, "symbol": symbol, "size": 9}}),
        ):  # fmt: skip
            centre = np.asarray(value, dtype=float)
            limits = {
                "array": np.asarray(high, dtype=float) - centre,
                "arrayminus": centre - np.asarray(low, dtype=float),
            }
            traces.append(
                {"type": "scatter", "mode": "markers", "y": centre, "x": [VARIANTS.index(v) + offset for v in part["variant"]],
                 "error_y": {"type": "data", "symmetric": False, **limits, **bar}, "hoverinfo": "y+name", **more}
            )  # fmt: skip
    return traces


def _pale(colour: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.3)"


def _in_words(language: str, chosen: pd.DataFrame, spread: pd.DataFrame) -> str:
    harmful = int(is_harmful(chosen).sum())
    words = f"{name_of(language)}: {harmful} harmful and {len(chosen) - harmful} harmless examples chosen."
    if len(spread):
        draws, of = int(spread["draws"].iloc[0]), int(spread["of"].iloc[0])
        drawn = f"all {of:,} draws" if draws == of else f"{draws:,} of {of:,} draws"
        words += f" Broad bars: 95 % of {drawn} of that size."
    else:
        words += " Choose at least one of each class to move the threshold."
    return f'<p class="workbench-caption" role="status">{escape(words)}</p>'


def _numbers(measured: pd.DataFrame, spread: pd.DataFrame) -> str:
    """The same numbers as a table."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("threshold", "logit", *MEASURES))
    lines = []
    for variant, part in measured.groupby("variant", sort=False):
        cells = [f'<th scope="row">{variant}</th><td>{cell(float(part["threshold"].iloc[0]))}</td>']
        for one in part.itertuples():
            drawn = spread[(spread["variant"] == variant) & (spread["measure"] == one.measure)]
            over = "".join(f"; draws {d.low:.0f} to {d.high:.0f}" for d in drawn.itertuples())
            cells.append(f"<td>{one.value:.0f} [{one.low:.0f}, {one.high:.0f}]{over}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    caption = "<caption>On test prompts, with 95 % intervals</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
