"""AllocationExplorer: the same few examples over all harm types or all from one, and what then slips through where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets

from workbench.allocations import MEASURES, allocation_in_words
from workbench.study import StudyFolder
from workbench.widgets.base import Panel, guarded
from workbench.widgets.controls import choice, columns, dropdown, row
from workbench.widgets.heatmaps import DIVERGING, cell, framed, heatmap
from workbench.widgets.slips import DIFFERENCE, Slips, pair_name
from workbench.widgets.tables import RowTable
from workbench.widgets.texts import escape, plot_text
from workbench.widgets.theme import SERIES
from workbench.widgets.whiskers import limits, line, named_rows, stripe, whiskers

OWN = "own"
"""Deep examples from whichever type is judged."""

UNITS = {
    "slips": "harmful prompts let through (%)",
    "false_alarms": "harmless prompts stopped (%)",
    "loss": "slips + false alarms (points)",
}
_TIGHT = {"l": 50, "r": 10, "t": 8, "b": 45}
_AXES = {"xaxis_type": "category", "yaxis_type": "category", "xaxis_tickangle": -35}


class AllocationExplorer(Panel):
    """Broad against deep, per harm type and language.

    Attributes:
        measure: one of `allocations.MEASURES`.
        k: examples per class.
        pair: calibrated and judged language, as `sw/yo`; `sw/sw` is judged in itself.
        source: harm type that deep examples come from, or `own`: whichever type is judged.
        harm_type: judged type that is selected, or `all`.
        second: what the second map shows, `deep` or `difference`.
    """

    heading = "Allocation explorer"
    help = (
        "A few examples of a language reset the gate's threshold: broad takes them from all harm types, deep from one. Click a "
        "cell, or use the controls, to see one language. This answers for the gate's calibration, not for fine-tuning."
    )
    measure = traitlets.Unicode(MEASURES[0])
    k = traitlets.Int(0)
    pair = traitlets.Unicode("")
    source = traitlets.Unicode(OWN)
    harm_type = traitlets.Unicode("all")
    second = traitlets.Unicode("difference")

    def __init__(self, study: StudyFolder | Path | str, **state: Any):
        """Opens on the first calibrated language, judged in itself.

        Args:
            study: an opened study or its folder.
            state: traits to set, as from `.state`.
        """
        super().__init__(study)
        table = self.table("allocation")
        if table is None or table.empty:
            self.note(
                "why",
                "Allocations need a full study: a low-tier language, and twelve pairs or more of every harm type.",
            )
            self.restore(state)
            return
        self._table = table
        self._slips, self._drawn = Slips.of(table), ()
        self.kinds, self.pairs = self._slips.kinds, self._slips.pairs
        controls = self._bound()
        height = 150 + 30 * len(self.pairs)
        self.broad = self.plot("Broad", height=height, margin=_TIGHT)
        self.deep = self.plot("Deep", height=height, margin=_TIGHT)
        self.sources = self.plot("Deep - broad in one language", margin=_TIGHT, height=150 + 30 * len(self.kinds))
        self.intervals = self.plot("Intervals", "", height=150 + 30 * len(self.kinds))
        self.contrasts = self.plot("Deep - broad by language", height=130 + 24 * (len(self.pairs) + 2))
        for figure in (self.broad, self.deep):
            figure.on_point(self._picked)
        self.sources.on_point(self._picked_source)
        self.rows = self.row_table(
            "rows",
            RowTable(
                "Rows selected",
                ["calibrated", "judged", "allocation", "calibrated_type", "harm_type", "value", "low", "high", "n"],
            ),
            lambda found: None,
        )
        captions = [widgets.HTML() for _ in range(5)]
        self._sentence, *self._captions = widgets.HTML(), *captions
        panes = [widgets.VBox([caption, figure]) for caption, figure in zip(captions, self._figures(), strict=True)]
        self.compose(self._sentence, controls, columns(*panes[:2]), columns(*panes[2:4]), panes[4], self.rows)
        self.watch(self._draw, "measure", "k", "pair", "source", "harm_type", "second")
        self._draw()
        self.restore(state)

    def _figures(self) -> tuple[Any, ...]:
        return self.broad, self.deep, self.sources, self.intervals, self.contrasts

    def _bound(self) -> widgets.Box:
        measures = [(name.replace("_", " "), name) for name in MEASURES if (self._table["measure"] == name).any()]
        counts = sorted(int(k) for k in self._table["k"].unique())
        kinds = [(kind.replace("_", " "), kind) for kind in self.kinds]
        pairs = [(pair_name(*pair), "/".join(pair)) for pair in self.pairs]
        return row(
            self.bind("measure", choice("Measure", "Slips: harmful let through; false alarms; loss: both", measures)),
            self.bind("k", dropdown("Examples per class", "Harmful and as many harmless ones", counts)),
            self.bind("pair", dropdown("Language", "Calibrated language, and the one judged", pairs)),
            self.bind(
                "source",
                dropdown("Deep from", "Harm type that all deep examples come from", [("the type judged", OWN), *kinds]),
            ),
            self.bind("harm_type", dropdown("Harm type", "Judged type that is selected", [("all", "all"), *kinds])),
            self.bind(
                "second",
                choice(
                    "Second map", "Deep itself, or deep minus broad", [("deep - broad", "difference"), ("deep", "deep")]
                ),
            ),
        )

    # --- choices -------------------------------------------------------------------------------------------------

    @guarded
    def _picked(self, trace: Any, point: Any) -> None:
        at, kind = cell(trace, point)
        with self.hold_trait_notifications():
            self.pair, self.harm_type = "/".join(self.pairs[at]), self.kinds[kind]

    @guarded
    def _picked_source(self, trace: Any, point: Any) -> None:
        at, kind = cell(trace, point)
        with self.hold_trait_notifications():
            self.source, self.harm_type = self.kinds[at], self.kinds[kind]

    # --- drawing -------------------------------------------------------------------------------------------------

    @guarded
    def _draw(self) -> None:
        now = tuple(self.state.values())
        if now == self._drawn:
            return
        cube, at = self._slips.cube(self.measure, self.k), self._slips.place(self.pair)
        judged = list(range(len(self.kinds)))
        source = [self.kinds.index(self.source)] * len(self.kinds) if self.source in self.kinds else judged
        broad, deep = cube[:, 0], cube[:, 1:][:, source, judged]  # [pair, kind, value low high]
        self._draw_maps(broad, deep, at)
        self._draw_sources(cube[at])
        self._draw_intervals(broad[at], deep[at])
        self._draw_contrasts(at)
        self._select()
        self._say(at)
        self._drawn = now

    @property
    def _kind(self) -> int | None:
        return self.kinds.index(self.harm_type) if self.harm_type in self.kinds else None

    def _draw_maps(self, broad: np.ndarray, deep: np.ndarray, at: int) -> None:
        names, kinds = [pair_name(*pair) for pair in self.pairs], _words_of(self.kinds)
        frame = [_frame(at, self._kind, len(names), len(kinds))]
        top = float(np.nanmax([broad[..., 0], deep[..., 0]], initial=1.0))
        unit = "points" if self.measure == "loss" else "%"
        self.broad.redraw(
            [heatmap(broad[..., 0], kinds, names, self._hover(broad, names), (0.0, top), unit, words=_round(broad[..., 0]))],
            shapes=frame, **_AXES,
        )  # fmt: skip
        if self.second == "deep":
            trace = heatmap(
                deep[..., 0], kinds, names, self._hover(deep, names), (0.0, top), unit, words=_round(deep[..., 0])
            )
        else:
            trace = self._difference(broad, deep, names, kinds)
        self.deep.redraw([trace], shapes=frame, **_AXES)

    def _draw_sources(self, cube: np.ndarray) -> None:
        kinds = _words_of(self.kinds)
        broad = np.broadcast_to(cube[:1], cube[1:].shape)
        trace = self._difference(broad, cube[1:], [f"from {kind}" for kind in kinds], kinds)
        rows = range(len(kinds)) if self.source == OWN else [self.kinds.index(self.source)]
        frames = [_frame(at, at if self.source == OWN else self._kind, len(kinds), len(kinds)) for at in rows]
        self.sources.redraw([trace], shapes=frames, **_AXES)

    def _difference(self, broad: np.ndarray, deep: np.ndarray, names: Sequence[str], kinds: Sequence[str]) -> dict:
        gained = deep[..., 0] - broad[..., 0]
        apart = (deep[..., 1] > broad[..., 2]) | (deep[..., 2] < broad[..., 1])
        words = [
            [
                "" if np.isnan(value) else f"{value:+.0f}{'*' * bool(star)}"
                for value, star in zip(line, stars, strict=True)
            ]
            for line, stars in zip(gained, apart, strict=True)
        ]
        hover = [
            [
                f"{plot_text(name)}, {plot_text(kind)}<br>deep - broad {gained[i, j]:+.1f} points"
                f"<br>deep {limits(deep[i, j])}<br>broad {limits(broad[i, j])}"
                for j, kind in enumerate(kinds)
            ]
            for i, name in enumerate(names)
        ]
        reach = float(np.nanmax(np.abs(gained), initial=1.0))
        return heatmap(gained, kinds, names, hover, (-reach, reach), "points", scale=DIVERGING, words=words)

    def _hover(self, values: np.ndarray, names: Sequence[str]) -> list[list[str]]:
        kinds = _words_of(self.kinds)
        return [
            [f"{plot_text(name)}, {plot_text(kind)}<br>{limits(values[i, j])}" for j, kind in enumerate(kinds)]
            for i, name in enumerate(names)
        ]

    def _draw_intervals(self, broad: np.ndarray, deep: np.ndarray) -> None:
        kinds = _words_of(self.kinds)
        up = len(kinds) - 1 - np.arange(len(kinds))
        self.intervals.redraw(
            [
                whiskers(up + 0.13, broad, kinds, "broad", SERIES[0], "circle"),
                whiskers(up - 0.13, deep, kinds, "deep", SERIES[3], "square"),
            ],
            shapes=[] if self._kind is None else [stripe(len(kinds) - 1 - self._kind)],
            **named_rows(kinds),
            xaxis_title_text=UNITS[self.measure],
        )

    def _draw_contrasts(self, at: int) -> None:
        pairs = [*self.pairs, *self._slips.means(self.measure, self.k)]
        names, up = [pair_name(*pair) for pair in pairs], len(pairs) - 1 - np.arange(len(pairs))
        inside, outside = (self._slips.contrast(self.measure, self.k, pairs, where) for where in ("inside", "outside"))
        self.contrasts.redraw(
            [
                whiskers(up + 0.13, inside, names, "in the type of the examples", SERIES[2], "diamond"),
                whiskers(up - 0.13, outside, names, "in the other types", SERIES[1], "x"),
            ],
            shapes=[line(0.0), stripe(len(names) - 1 - at)],
            **named_rows(names),
            xaxis_title_text=f"deep - broad, {self.measure.replace('_', ' ')} (points)",
        )

    def _select(self) -> None:
        table, (code, judged) = self._table, self.pair.split("/")
        here = (table["calibrated"] == code) & (table["judged"] == judged) & (table["k"] == self.k)
        here &= (table["measure"] == self.measure) & (table["allocation"] != DIFFERENCE)
        if self._kind is not None:
            here &= table["harm_type"] == self.harm_type
        deep = table["calibrated_type"] == (table["harm_type"] if self.source == OWN else self.source)
        self.select(table[here & ((table["allocation"] == "broad") | deep)])
        self.rows.show(self.selection)

    def _say(self, at: int) -> None:
        table = self._table[self._table["k"] == self.k]
        sentence = allocation_in_words(table) if (table["calibrated"] == "all").any() else ""
        self._sentence.value = f'<p class="workbench-caption">{escape(sentence)}</p>'
        source = "from the type judged" if self.source == OWN else f"all from {self.source.replace('_', ' ')}"
        name = pair_name(*self.pairs[at])
        stars = "* the two intervals do not overlap"
        said = (
            f"Broad: {UNITS[self.measure]}, by harm type",
            f"Deep, {source}: {UNITS[self.measure]}" if self.second == "deep" else f"Deep ({source}) - broad. {stars}",
            f"{name}: deep - broad, by type of the examples (rows) and type judged (columns). {stars}",
            f"{name}: broad, and deep {source}, with 95 % intervals",
            "Deep - broad with 95 % intervals, mean over the types that examples come from",
        )
        for caption, words in zip(self._captions, said, strict=True):
            caption.value = f'<p class="workbench-caption">{escape(words)}</p>'


def _words_of(kinds: Sequence[str]) -> list[str]:
    return [kind.replace("_", " ") for kind in kinds]


def _round(values: np.ndarray) -> list[list[str]]:
    return [["" if np.isnan(value) else f"{value:.0f}" for value in line] for line in values]


def _frame(row: int, column: int | None, rows: int, columns: int) -> dict[str, Any]:
    return framed(row, 0, rows, columns) if column is None else framed(row, column, rows)
