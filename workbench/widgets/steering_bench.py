"""Type a prompt or pick one, choose interventions and strengths, and read the default and the steered reply side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets

from workbench.errors import PromptError, WorkbenchError
from workbench.judges import Judge
from workbench.languages import LANGUAGES
from workbench.study import StudyFolder
from workbench.widgets.base import Panel, guarded
from workbench.widgets.controls import area, button, columns, dropdown, integer, row, text
from workbench.widgets.doses import Doses, strength_box
from workbench.widgets.replies import run_words, show_kept, show_reply, sweep_points, token_lines
from workbench.widgets.runs import Batch, Prompt, Run, Runs
from workbench.widgets.tables import RowTable
from workbench.widgets.texts import escape, name_of
from workbench.widgets.theme import GREY
from workbench.widgets.tokens import STYLE, legend

_HOW = """No model is loaded: what the study has kept is shown. To generate, give the widget a bench:

bench = wb.Bench(model, {"add harm": lambda s: wb.add(harm, strength=s)}, harm)
SteeringBench("results/demo", bench, wb.lexicon_judge())"""
_PICKED = ("prompt_id", "language", "label", "harm_type", "split", "pair_id", "text")
_SHOWN = ("intervention", "strength", "verdict", "finish", "n_new_tokens", "fired", "projection_reply")


class SteeringBench(Panel):
    """Default and steered replies to one prompt, side by side and token by token.

    The bench is any callable `(text, name, strength) -> iterator of replies`, each the same reply some tokens longer, the
    last with `finish` and `trace` (see `benches.Reply`); `name` is empty for the model itself. It must have
    `interventions`, whose iteration gives the names, and may have `typical`, projections typical of harmless and harmful
    prompts. `benches.Bench` makes one. It is called in a thread of its own, and its iterator is closed when stopped.

    Attributes:
        language: of the prompts to pick from, and of the text that is typed; empty for any.
        find: words that the prompts to pick from must hold.
        text: what is asked.
        prompt_id: of the prompt that the text is, empty for any other text.
        doses: name -> strength of the interventions that are on.
        swept: the intervention of the sweep.
        low: its first strength.
        high: its last strength.
        steps: how many strengths.
        runs: everything that was generated.
    """

    heading = "Steering bench"
    help = "Type a prompt in any language or pick one, tick interventions, and press Generate."
    language = traitlets.Unicode("")
    find = traitlets.Unicode("")
    text = traitlets.Unicode("")
    prompt_id = traitlets.Unicode("")
    doses = traitlets.Dict()
    swept = traitlets.Unicode("")
    low = traitlets.Float(0.0)
    high = traitlets.Float(3.0)
    steps = traitlets.Int(7)

    def __init__(
        self,
        study: StudyFolder | Path | str | None = None,
        bench: Callable[..., Any] | None = None,
        judge: Judge | None = None,
        **state: Any,
    ):
        """Opens the prompts of a study, where one is given; without a bench, what the study has kept is shown."""
        super().__init__(study)
        self.runs = Runs(bench, judge)
        self._batch = Batch(Prompt("", "", ""))
        self._prompts = self._searchable()
        self._place = {name: place for place, name in enumerate(self._prompts["prompt_id"])}
        units = "residual-stream units"
        about = ("Projection of each token", "token, counted from the last of the prompt", f"projection, {units}", 300)
        self.tokens_chart = self.plot(*about)
        self.sweep_chart = self.plot("Strength sweep", "strength", f"mean projection of the reply, {units}", 300)
        self.sweep_chart.on_point(self._clicked)
        self.panes, self._legend, self.detail = columns(), widgets.HTML(), widgets.HTML()
        table = RowTable("Replies to this prompt", _SHOWN, 6, "None yet.")
        self.runs_table = self.row_table("runs_table", table, self._show_run)
        self._lay_out(bench)
        self.watch(self._list, "language", "find")
        self.watch(self._asked, "text", "language")
        self.watch(self._picked, "prompt_id")
        self.watch(self._draw_sweep, "swept")
        self.jobs.label.observe(lambda _: self._draw(), "value")
        self.jobs.stop_button.on_click(lambda _: self._stopped())
        self._list()
        self._asked()
        self.restore(state)

    # --- controls ------------------------------------------------------------------------------------------------

    def _lay_out(self, bench: Callable[..., Any] | None) -> None:
        style, how = widgets.HTML(f"<style>{STYLE}</style>"), widgets.HTML()
        style.layout.display = "none"
        if bench is None:
            how.value = f'<div class="workbench-note"><pre>{escape(_HOW)}</pre></div>'
            self.compose(style, columns(self._pick(), self._ask()), how, self.panes)
            return
        names = list(bench.interventions)
        charts, found = columns(self.tokens_chart, self.sweep_chart), columns(self.runs_table, self.detail)
        asking = (columns(self._pick(), self._ask()), columns(self._dose(names), self._sweeping(names)))
        self.compose(style, *asking, self.jobs, self._legend, self.panes, charts, found)
        # Progress and Stop beside the buttons that start the work, and there only.
        self.children = tuple(dict.fromkeys(self.children))

    def _pick(self) -> widgets.VBox:
        known = list(dict.fromkeys(self._prompts["language"]))
        codes = [*known, *(code for code in LANGUAGES if code not in known)]
        options = [("any", ""), *((name_of(code), code) for code in codes)]
        words = "Language of the prompts below, and of what you type"
        language = self.bind("language", dropdown("Language", words, options))
        words = "Words that a prompt, its label, harm type or pair must hold"
        find = self.bind("find", text("Find", words))
        shown = ("language", "label", "harm_type", "split", "pair_id")
        table = RowTable("Prompts of the study", shown, 6, "No such prompts. Type one of your own.")
        self.prompts_table = self.row_table("prompts_table", table, self._pick_row)
        return widgets.VBox([row(language, find), table])

    def _ask(self) -> widgets.VBox:
        asked = self.bind("text", area("Prompt", "What the model is asked, in any language"))
        asked.layout.width, asked.layout.height = "100%", "180px"
        asked.add_class("workbench-ask")
        return widgets.VBox([asked])

    def _dose(self, names: list[str]) -> widgets.VBox:
        doses = self.bind("doses", Doses(names))
        for name in doses.ticks:
            self.add(f"tick {name}", doses.ticks[name])
            self.add(f"strength {name}", doses.boxes[name])
        words = "Generate the default reply, and one for each tick, in the background"
        go = self.press("generate", button("Generate", words, icon="play", button_style="primary"), self._generate)
        return widgets.VBox([doses, row(go)])

    def _sweeping(self, names: list[str]) -> widgets.VBox:
        words = "Intervention whose strength is swept"
        swept = self.bind("swept", dropdown("Sweep", words, names or [("none", "")]))
        low = self.bind("low", strength_box("from", "First strength of the sweep", self.low))
        high = self.bind("high", strength_box("to", "Last strength of the sweep", self.high))
        steps = self.bind("steps", integer("in", "Number of strengths, both ends included", self.steps, 2, 25))
        words = "Generate a reply at each strength, in the background"
        go = self.press("sweep", button("Sweep", words, icon="line-chart"), self._sweep)
        return widgets.VBox([row(swept, low, high), row(steps, go)])

    # --- the prompt ----------------------------------------------------------------------------------------------

    def _searchable(self) -> pd.DataFrame:
        """The study's prompts, with what Find looks through."""
        prompts = None if self.opened is None else self.table("prompts")
        if prompts is None:
            return pd.DataFrame(columns=[*_PICKED, "_words"], dtype=object)
        prompts = prompts[list(_PICKED)].reset_index(drop=True).fillna("")
        words = prompts["label"].astype(str).str.cat(prompts[["harm_type", "pair_id", "text"]].astype(str), sep=" ")
        return prompts.assign(_words=words.str.casefold())

    @guarded
    def _list(self) -> None:
        part, words = self._prompts, self.find.strip().casefold()
        if self.language:
            part = part[part["language"] == self.language]
        if words:
            part = part[part["_words"].str.contains(words, regex=False)]
        self.prompts_table.show(part)

    def _pick_row(self, found: pd.Series | None) -> None:
        if found is not None:
            self.prompt_id = str(found["prompt_id"])

    def _picked(self) -> None:
        if self.prompt_id and self.prompt_id not in self._place:
            wrong, self.prompt_id = self.prompt_id, ""
            raise PromptError(
                f"A prompt must be one of the study's to be picked; got {wrong!r}. Type its text instead."
            )
        if self.prompt_id:
            self.text = self._prompts["text"].iat[self._place[self.prompt_id]]
        self._asked()

    @guarded
    def _asked(self) -> None:
        """Another prompt: what is known of it is shown."""
        if self.prompt_id and self._prompts["text"].iat[self._place[self.prompt_id]] != self.text:
            self.prompt_id = ""  # an edited text is another prompt; this comes back here
            return
        self._batch = Batch(self.prompt)
        self._show_panes(self._kept())
        self._draw()

    @property
    def prompt(self) -> Prompt:
        """What is asked now."""
        place = self._place.get(self.prompt_id)
        language = self.language if place is None else self._prompts["language"].iat[place]
        return Prompt(self.prompt_id, language, self.text)

    def _kept(self) -> list[str]:
        """What the study has kept of this prompt."""
        completions, verdicts = (
            (self.table(name) for name in ("completions", "verdicts")) if self.prompt_id else (None, None)
        )
        if completions is None:
            return []
        said = None if verdicts is None else verdicts[verdicts["prompt_id"] == self.prompt_id]
        mine = completions[completions["prompt_id"] == self.prompt_id]
        return [show_kept(reply, said) for reply in mine.to_dict("records")]

    # --- generating ----------------------------------------------------------------------------------------------

    def _generate(self) -> None:
        self._start([Run(), *(Run(name, float(self.doses[name])) for name in self.doses)], True)

    def _sweep(self) -> None:
        if not self.low < self.high:
            raise WorkbenchError(
                f"A sweep must go up; got {self.low:g} to {self.high:g}. Make the last strength the larger one."
            )
        strengths = np.linspace(self.low, self.high, self.steps).round(6).tolist()
        self._start([Run(), *(Run(self.swept, strength) for strength in strengths)], False)

    def _start(self, todo: list[Run], side_by_side: bool) -> None:
        if self.runs.bench is None:
            raise WorkbenchError(
                "There must be a bench to generate with; this widget was given none. Give it bench=..."
            )
        if not self.text.strip():
            raise PromptError(
                "There must be a prompt to answer; the box is empty. Type one, or pick one from the table."
            )
        batch = Batch(self.prompt, todo, side_by_side)
        self.run_job(
            f"Generating {len(todo)} replies in the background",
            lambda job: self.runs.work(job, batch),
            lambda _: self._draw(),
        )
        self._batch = batch
        self._draw()

    def _stopped(self) -> None:
        self.runs.keep_stopped(self._batch)
        self._draw()

    # --- showing -------------------------------------------------------------------------------------------------

    @guarded
    def _draw(self) -> None:
        """What has come by now; called on the main thread whenever the job says how far it is."""
        batch = self._batch
        if batch.side_by_side and batch.todo:
            self._show_panes([self._pane(batch, run) for run in batch.todo])
        runs = self.runs.table(self.prompt)
        if not runs.equals(self._selection):
            self.runs_table.show(runs)
            self.select(runs)
            self._draw_sweep()
        here = {
            "type": "line",
            "x0": 0,
            "x1": 0,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": GREY, "dash": "dot"},
        }
        lines = token_lines(batch.live) if batch.side_by_side else []
        self.tokens_chart.redraw(lines, shapes=[here] if lines else [])
        scale = legend(*self._ends()) if batch.live else ""
        if self._legend.value != scale:
            self._legend.value = scale

    def _show_panes(self, shown: list[str]) -> None:
        if len(self.panes.children) != len(shown):
            self.panes.children = [widgets.HTML() for _ in shown]
        for pane, value in zip(self.panes.children, shown, strict=True):
            pane.value = value

    def _pane(self, batch: Batch, run: Run) -> str:
        reply, row_ = batch.live.get(run), self.runs.rows.get((batch.prompt, run))
        if reply is None:
            waits = "waiting" if self.jobs.running else "not generated"
            return f'<p dir="auto"><strong>{escape(run)}</strong>: {waits}</p>'
        words = run_words(row_) if row_ else f"{reply.n_new_tokens} tokens …"
        # A prompt that is folded open would close with every token: it comes with the last.
        return show_reply(run, reply, self._ends(), batch.prompt.language, words, row_ is not None)

    def _ends(self) -> tuple[float, float]:
        """Projections at the ends of the colour scale."""
        typical = getattr(self.runs.bench, "typical", None)
        if typical is None:
            tokens = [token.projection for reply in self._batch.live.values() for token in reply.tokens]
            typical = (np.nanmin([*tokens, 0.0]), np.nanmax([*tokens, 0.0]))
        return float(typical[0]), float(typical[1])

    @guarded
    def _draw_sweep(self) -> None:
        plain = self._selection.loc[self._selection["intervention"] == "", "projection_reply"].dropna().tolist()
        flat = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": {"color": GREY, "dash": "dot"}}
        shapes = [flat | {"y0": level, "y1": level} for level in plain[:1]]
        self.sweep_chart.redraw(sweep_points(self._selection, self.swept), shapes=shapes)

    @guarded
    def _clicked(self, trace: Any, point: int) -> None:
        if trace.customdata is not None:
            self.runs_table.chosen = int(trace.customdata[point])

    def _show_run(self, found: pd.Series | None) -> None:
        self.detail.value = ""
        if found is None:
            return
        run = Run(found["intervention"], float(found["strength"])) if found["intervention"] else Run()
        reply = self.runs.reply(found["text"], run)
        if reply is not None:
            self.detail.value = show_reply(
                run, reply, self._ends(), found["language"], run_words(found.to_dict()), True
            )
