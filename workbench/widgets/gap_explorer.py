"""GapExplorer: what a model represents against what it does, from all languages down to one prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets

from workbench.analysis import UNITS
from workbench.budget import SIDES
from workbench.examples import is_harmful
from workbench.ledger import QUADRANTS
from workbench.study import StudyFolder
from workbench.widgets.base import Panel, guarded
from workbench.widgets.controls import button, columns, dropdown, number, row, slider
from workbench.widgets.evidence import Evidence, budget, intervals
from workbench.widgets.jobs import Job
from workbench.widgets.tables import RowTable, cell
from workbench.widgets.texts import escape, name_of
from workbench.widgets.theme import GREY
from workbench.widgets.traces import budget_bars, densities, language_points, through_layers, upright

ACTIONS = ("delta", "harmful_refusal", "harmless_refusal")
"""What the upward axis may show, as in the gap table."""

_LEDGER = ("prompt_id", "language", "label", "harm_type", "score", "fired", "verdict", "reply_language", "quadrant")
_TABLES = ("scores", "verdicts", "sweep", "gap", "prompts", "completions")
_SCORE = "score (residual-stream units)"
_NONE = '<p class="workbench-none">No prompt chosen yet: choose a row of the ledger.</p>'


class GapExplorer(Panel):
    """Representation against action, one point per language, and what is behind each point.

    Attributes:
        layer: block whose output is scored.
        position: token position.
        direction: what prompts are scored on, such as `harmfulness/mean_difference`.
        judge: whose verdicts count.
        dataset: name of a prompt set; empty for all.
        action: one of `ACTIONS`.
        side: of the budget, one of `budget.SIDES`.
        language: code; empty for all together.
        quadrant: one of `ledger.QUADRANTS`; empty for all.
        threshold: the draggable one, residual-stream units.
        prompt: the prompt that is shown, by its `prompt_id`; empty for none.

    `selection` is the part of the ledger that is listed, its `fired` and `quadrant` at the draggable threshold.
    """

    heading = "Gap explorer"
    help = (
        "Does the model know what it should refuse, and does it act on it? Click a language, then a quadrant, then a "
        "row; or use the controls, which do the same. Drag the solid line, or move its slider."
    )
    layer = traitlets.Int()
    position = traitlets.Unicode()
    direction = traitlets.Unicode()
    judge = traitlets.Unicode()
    dataset = traitlets.Unicode()
    action = traitlets.Unicode("delta")
    side = traitlets.Unicode("delta")
    language = traitlets.Unicode()
    quadrant = traitlets.Unicode()
    threshold = traitlets.Float()
    prompt = traitlets.Unicode()

    def __init__(self, study: StudyFolder | Path | str, **state: Any):
        super().__init__(study)
        tables = {name: self.table(name) for name in _TABLES}
        if tables["scores"] is None or tables["scores"].empty:
            self.note("scores", "Without scores there is nothing to explore; run the study first.")
            return
        self.evidence = Evidence(tables)
        if self.evidence.verdicts is None or self.evidence.verdicts["verdict"].isna().all():
            self.note(
                "verdicts", "No judge has given a verdict: what the model did is not known, and no quadrant is filled."
            )
        self._moving = False
        self._areas: dict[tuple, pd.DataFrame] = {}
        self._budgets: dict[tuple, pd.DataFrame] = {}
        self._build()
        with self.guard():
            self._show_place()
            self._show_budget()
            self._catch_up()
        self.restore(state)

    # --- building ------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        top = row(*self._place_controls(), *self._judge_controls())
        self.gap = self.plot("Representation against action", "AUROC", height=400)
        self.budget = self.plot("Selectivity budget", "language", "points", height=400, barmode="relative")
        self.scores = self.plot("Scores", _SCORE, "density", height=330)
        self.lines = self.plot("Through the layers", "layer", _SCORE, height=280)
        self.gap.on_point(lambda trace, point: self._pick("language", trace.customdata[point]))
        self.budget.on_point(lambda trace, point: self._pick("language", trace.x[point]))
        self.scores.on_point(lambda trace, point: self._pick("prompt", trace.customdata[point]))
        self.scores.layout.on_change(self._dragged, "shapes")
        self.counts, self.detail = widgets.HTML(), widgets.HTML(_NONE)
        table = RowTable("Ledger of test prompts", _LEDGER, empty="No prompts here.")
        self.ledger = self.row_table("ledger", table, self._row)
        self.compose(
            top,
            columns(self.gap, self.budget),
            row(*self._cut_controls()),
            columns(self.scores, widgets.VBox([self.counts, row(*self._quadrant_buttons())])),
            self.ledger,
            columns(self.detail, self.lines),
        )
        self.watch(self._show_place, "layer", "position", "direction", "dataset")
        self.watch(self._show_language, "judge")
        self.watch(self._show_points, "action")
        self.watch(self._show_budget, "side", "judge", "dataset")
        self.watch(self._catch_up, "layer", "position", "direction", "dataset", "judge")
        self.watch(self._show_language, "language")
        self.watch(self._show_cut, "threshold")
        self.watch(self._show_rows, "quadrant")
        self.watch(self._show_prompt, "prompt")
        self.watch(self._show_prompt, "position", "direction")

    def _place_controls(self) -> list[widgets.Widget]:
        cube, study = self.evidence.cube, self.opened.study
        working = study.working_layer(self.opened.provenance)
        layer = slider("Layer", "Block whose output is scored; 0 is the first", cube.layers)
        layer.value = working if working in cube.layers else cube.layers[-1]
        position = dropdown("Position", "Token whose vector is scored", cube.positions)
        position.value = study.position if study.position in cube.positions else cube.positions[0]
        direction = dropdown("Direction", "Direction that prompts are scored on", cube.directions)
        direction.layout.width = "330px"
        return [self.bind("layer", layer), self.bind("position", position), self.bind("direction", direction)]

    def _judge_controls(self) -> list[widgets.Widget]:
        keys = self.evidence.cube.rows
        sets = [(str(name), str(name)) for name in keys["dataset"].unique()]
        names = [(name_of(code), code) for code in keys["language"].unique()]
        words = "Language shown below; the same as a click on its point or bar"
        made = {
            "judge": dropdown(
                "Judge", "Whose verdicts say what the model refused", self.evidence.judges or [("none", "")]
            ),
            "dataset": dropdown("Data set", "Prompt set that points and rows come from", [("all", ""), *sets]),
            "action": dropdown("Action", "What the upward axis shows", [(_words(name), name) for name in ACTIONS]),
            "side": dropdown(
                "Budget of", "Side of the selectivity budget", [(_words(name), name) for name in SIDES], value="delta"
            ),
            "language": dropdown("Language", words, [("all", ""), *names]),
        }
        return [self.bind(name, control) for name, control in made.items()]

    def _cut_controls(self) -> list[widgets.Widget]:
        words = "Your own threshold: prompts that score above it count as known; the same as dragging the solid line"
        self._slider = number("Threshold", words, 0.0, -1.0, 1.0, 0.01, readout_format=".2f")
        source = button("At the source's", "Put it where the training prompts of the source languages say")
        own = button("At its own", "Put it where this language's training and validation prompts say")
        self._slider.observe(self._slid, "value")
        return [
            self.add("threshold", self._slider),
            self.press("source_threshold", source, lambda: self._put(self._source)),
            self.press("own_threshold", own, lambda: self._put(self._own)),
        ]

    def _quadrant_buttons(self) -> list[widgets.Button]:
        self._buttons = {}
        for name in ("", *QUADRANTS):
            made = button(name or "all", f"List the prompts of the quadrant: {name}" if name else "List every prompt")
            self.press(f"quadrant {name or 'all'}", made, lambda name=name: self._pick("quadrant", name))
            self._buttons[name] = made
        return list(self._buttons.values())

    # --- what is drawn -------------------------------------------------------------------------------------------

    def _show_place(self) -> None:
        """Another layer, position, direction or data set: all but the choice of language follows."""
        self._values = self.evidence.cube.at(self.layer, self.position, self.direction).astype(np.float64)
        self._source = self.evidence.cut(self._values, ("train",), tier=self.opened.study.source_tier)
        known = self._values[self.evidence.test]
        known = known[np.isfinite(known)] if np.isfinite(known).any() else np.zeros(1)
        ends = [float(known.min()), float(known.max()), *([self._source] if np.isfinite(self._source) else [])]
        self._move_slider(min(ends), max(ends))
        self._show_language()

    def _move_slider(self, low: float, high: float) -> None:
        """Give the slider other ends and put it on the source's threshold."""
        step = max((high - low) / 400, 1e-9)
        self._moving = True
        try:
            # Wider first: a slider never stands outside its ends.
            self._slider.min, self._slider.max = min(self._slider.min, low - step), max(self._slider.max, high + step)
            self._slider.step = step
            self.threshold = self._source if np.isfinite(self._source) else (low + high) / 2
            self._slider.value = self.threshold
            self._slider.min, self._slider.max = low - step, high + step
        finally:
            self._moving = False

    def _show_points(self) -> None:
        """The languages with their intervals."""
        table = self._places().merge(self.evidence.action(self.judge, self.dataset), on="language", how="left")
        lacking = [f"{self.action}{end}" for end in ("", "_low", "_high") if f"{self.action}{end}" not in table]
        self.gap.redraw(
            language_points(table.assign(**dict.fromkeys(lacking, np.nan)), "auroc", self.action, self.language),
            xaxis_title_text=f"representation: AUROC at layer {self.layer}, {self.position}",
            yaxis_title_text=f"action: {_words(self.action)} ({UNITS[self.action]})",
        )

    def _places(self) -> pd.DataFrame:
        """AUROC of every language here: the study's own where it was swept; else without intervals until they are made."""
        key = (self.layer, self.position, self.direction, self.dataset)
        if key not in self._areas:
            swept = None if self.dataset else self.evidence.swept(*key[:3])
            if swept is None:
                return self.evidence.areas(self._values, self.dataset)
            self._areas[key] = swept
        return self._areas[key]

    def _show_budget(self) -> None:
        """The saved budget, or the one made for this judge and data set."""
        saved, key = self.table("budget"), (self.judge, self.dataset)
        if saved is None:
            return
        if not self.dataset and self._is_saved_judge():
            self._budgets[key] = saved
        words = f"points of {_words(self.side)}" if key in self._budgets else "not made yet for this judge and data set"
        self.budget.redraw(budget_bars(self._budgets.get(key, saved.iloc[:0]), self.side), yaxis_title_text=words)

    def _catch_up(self) -> None:
        """What this choice lacks, intervals of the AUROC and the budget, is made in one job in the background."""
        place, key = (self.layer, self.position, self.direction, self.dataset), (self.judge, self.dataset)
        scores = None if place in self._areas else self.evidence.scored(self._values, self.dataset)
        rows = None if key in self._budgets or self.evidence.verdicts is None else self.table("features")
        if scores is None and rows is None:
            self.jobs.stop()
            return
        judge, dataset, tier = self.judge, self.dataset, self.opened.study.source_tier

        def work(job: Job) -> tuple:
            return (
                None if scores is None else intervals(scores, job),
                None if rows is None else budget(rows, self.evidence.verdicts, judge, dataset, tier, job),
            )

        self.run_job("Intervals and budget for this choice", work, lambda made: self._know(place, key, *made))

    def _know(self, place: tuple, key: tuple, areas: pd.DataFrame | None, budget: pd.DataFrame | None) -> None:
        self._areas |= {} if areas is None else {place: areas}
        self._budgets |= {} if budget is None else {key: budget}
        self._show_points()
        self._show_budget()

    def _is_saved_judge(self) -> bool:
        """Whether the saved ledger, and so the saved budget, rests on this judge."""
        ledger, column = self.table("ledger"), f"verdict_{self.judge}"
        return ledger is None or column not in ledger or ledger["verdict"].equals(ledger[column])

    def _show_language(self) -> None:
        """Another language: its densities, its own threshold, its quadrants and rows."""
        base = self.evidence.ledger(self.judge)
        shown = np.ones(len(base), bool)
        for name, wanted in (("language", self.language), ("dataset", self.dataset)):
            shown &= (base[name] == wanted).to_numpy() if wanted else True
        scores = self._values[self.evidence.test][shown]
        self._shown = base[shown].assign(score=scores)
        own = {"language": self.language}
        self._own = self.evidence.cut(self._values, ("train", "val"), **own) if self.language else float("nan")
        self.scores.redraw(densities(scores, is_harmful(self._shown), self._shown["prompt_id"].to_numpy(object)))
        self._show_points()
        self._show_cut()

    def _show_cut(self) -> None:
        """Another threshold: who is known, the quadrants, the lines."""
        if self._moving:
            return
        if abs(self._slider.value - self.threshold) > self._slider.step / 2:
            self._slider.value = self.threshold
        fired = self._shown["score"].to_numpy() > self.threshold
        quadrant = np.where(fired, self._shown["if_fired"], self._shown["if_not"])
        now = self._shown.drop(columns=["if_fired", "if_not"])
        self._now = now.assign(threshold=self.threshold, fired=fired, quadrant=quadrant)
        lines = [upright(self.threshold, GREY, "yours", "end", editable=True)]
        others = ((self._source, "#E69F00", "source", "middle", "dash"), (self._own, "#009E73", "own", "start", "dot"))
        lines += [upright(value, *look) for value, *look in others if np.isfinite(value)]
        self.scores.layout.shapes = lines
        self._count_quadrants(quadrant)
        self._show_rows()

    def _count_quadrants(self, quadrant: np.ndarray) -> None:
        counts = pd.Series(quadrant, dtype=object).value_counts()
        for name, made in self._buttons.items():
            made.description = f"{int(counts.get(name, 0)) if name else len(quadrant)} {name or 'in all'}"
        where = name_of(self.language) if self.language else "All languages"
        cuts = {"source": self._source, "its own": self._own, "yours": self.threshold}
        self.counts.value = (
            f'<p class="workbench-caption" role="status"><strong>{escape(where)}</strong>: {len(quadrant)} test prompts, '
            f"{len(quadrant) - int(counts.sum())} of them without a verdict that counts. Thresholds: "
            f"{', '.join(f'{name} {cell(value)}' for name, value in cuts.items())}.</p>"
        )

    def _show_rows(self) -> None:
        for name, made in self._buttons.items():
            made.button_style, made.icon = ("info", "check") if name == self.quadrant else ("", "")
        part = self._now[self._now["quadrant"] == self.quadrant] if self.quadrant else self._now
        self.ledger.show(part)
        self.select(part)

    def _show_prompt(self) -> None:
        """One prompt: texts folded, verdicts, its score through the layers."""
        words = self.evidence.about(self.prompt)
        self.detail.value = words or _NONE
        if words:
            values, means = self.evidence.through(self.prompt, self.position, self.direction)
            self.lines.redraw(through_layers(self.evidence.cube.layers, values, means))

    # --- what is clicked -----------------------------------------------------------------------------------------

    @guarded
    def _pick(self, name: str, value: Any) -> None:
        setattr(self, name, str(value))

    def _row(self, found: pd.Series | None) -> None:
        if found is not None:
            self.prompt = str(found["prompt_id"])

    def _put(self, value: float) -> None:
        if np.isfinite(value):
            self.threshold = float(value)

    def _slid(self, change: Any) -> None:
        # The page rounds to whole steps; a threshold between two of them stays where it is.
        if not self._moving and abs(change["new"] - self.threshold) > self._slider.step / 2:
            with self.guard():
                self.threshold = float(change["new"])

    def _dragged(self, _: Any, shapes: Any) -> None:
        """The line was dragged in the page; where we drew it ourselves it stands already."""
        if shapes and abs(shapes[0].x0 - self.threshold) > self._slider.step / 100:
            with self.guard():
                self.threshold = float(np.clip(shapes[0].x0, self._slider.min, self._slider.max))


def _words(name: str) -> str:
    return {"delta": "selectivity Delta"}.get(name, name.replace("_", " "))
