"""DirectionLab: at which layer and position harm can be told in which language, and what chance and length would tell."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets

from workbench.errors import WorkbenchError
from workbench.study import StudyFolder
from workbench.sweeps import choose_layer
from workbench.widgets.angles import AMONG, Angles, direction_name
from workbench.widgets.base import Panel, guarded
from workbench.widgets.controls import button, choice, columns, dropdown, row, several, slider
from workbench.widgets.heatmaps import DIVERGING, cell, column, framed, heatmap
from workbench.widgets.surfaces import Surface, surfaces
from workbench.widgets.texts import escape, name_of, plot_text
from workbench.widgets.theme import SERIES
from workbench.widgets.whiskers import line, whiskers

BANDS = {
    "random": ("random direction", SERIES[6], "circle"),
    "permuted": ("permuted labels", SERIES[1], "square"),
    "n_tokens": ("length in tokens", SERIES[0], "diamond"),
    "n_chars": ("length in characters", SERIES[4], "x"),
}
"""Control -> its words, colour and symbol."""

_TIGHT = {"l": 50, "r": 10, "t": 8, "b": 45}

_PARTS = {
    "maps": ("layer", "position", "method", "split", "group", "rows"),
    "controls": ("layer", "position", "method", "split", "bands"),
    "cosines": ("layer", "position", "among"),
}
"""Part of the view -> traits it is drawn from."""


class DirectionLab(Panel):
    """Layers and positions side by side, and a working direction picked among them.

    Attributes:
        layer: of the working direction, 0-based.
        position: of the working direction.
        method: how the directions were fitted.
        split: prompts that AUROC is measured on.
        group: whose AUROC the map of layers and positions shows: `all`, `tier:<tier>` or a language's code.
        rows: rows of the other map, `languages` or `tiers`.
        bands: controls shown.
        among: directions whose cosines are shown, a key of `AMONG`.
    """

    heading = "Direction lab"
    help = (
        "How well a harmfulness direction tells harmful from harmless prompts, at every layer and position. Click a cell, or "
        "use the controls, to set the working direction."
    )
    layer = traitlets.Int(0)
    position = traitlets.Unicode("")
    method = traitlets.Unicode("")
    split = traitlets.Unicode("")
    group = traitlets.Unicode("all")
    rows = traitlets.Unicode("languages")
    bands = traitlets.Tuple()
    among = traitlets.Unicode("languages")

    def __init__(self, study: StudyFolder | Path | str, **state: Any):
        """Opens on the study's own working layer and position.

        Args:
            study: an opened study or its folder.
            state: traits to set, as from `.state`.
        """
        super().__init__(study)
        self._sweep, self._controls = self.table("sweep"), self.table("controls")
        self._surfaces = surfaces(self._sweep)
        self._angles = Angles(self.table("cosines"))
        controls = self._bound()
        self.places = self.plot("AUROC by layer and position", "layer", height=180, margin=_TIGHT)
        self.languages = self.plot("AUROC by layer", "layer", margin=_TIGHT)
        self.nulls = self.plot("Controls", "", "AUROC", height=400)
        self.angles = self.plot("Cosines", height=440, margin=_TIGHT)
        self.places.on_point(self._picked_place)
        self.languages.on_point(self._picked_row)
        self._words, self._null_words, self._angle_words = widgets.HTML(), widgets.HTML(), widgets.HTML()
        maps = [self.places, self.languages] if self._surfaces else []
        parts = [self._pane(self.nulls, self._null_words, self.controls["bands"])] if self._has_controls else []
        parts += [self._pane(self.angles, self._angle_words, self.controls["among"])] if self._angles.places else []
        self.compose(controls, self._words, *maps, columns(*parts))
        self._drawn: dict[str, tuple] = {}
        for part, names in _PARTS.items():
            self.watch(functools.partial(self._draw_part, part), *names)
        self._draw()
        self.restore(state)

    # --- building ------------------------------------------------------------------------------------------------

    def _bound(self) -> widgets.Box:
        layers, positions = self._known_places()
        methods = list(dict.fromkeys(method for method, _ in self._surfaces)) or ["mean_difference"]
        splits = list(dict.fromkeys(split for _, split in self._surfaces)) or ["val"]
        # Choices are made on validation prompts: they are what is seen first.
        splits.sort(key=lambda split: split != "val")
        study = self.opened.study
        layer = study.working_layer(self.opened.provenance)
        about = {"value": layer} if layer in layers else {}
        made = [
            self.bind(
                "layer", slider("Layer", "Layer of the working direction: output of this block", layers, **about)
            ),
            self.bind(
                "position",
                dropdown(
                    *("Position", "Token position of the working direction", positions),
                    value=study.position if study.position in positions else positions[0],
                ),
            ),
            self.press(
                "best",
                button(
                    "Best on validation", "Go to the layer and position of highest mean AUROC on validation prompts"
                ),
                self._best,
            ),
            self.bind("method", dropdown("Method", "How the directions were fitted", methods)),
            self.bind(
                "split", dropdown("Judged on", "Prompts that AUROC is measured on; choose a layer on val", splits)
            ),
            self.bind("group", dropdown("Show", "Language or tier in the map of layers and positions", self._groups())),
            self.bind("rows", choice("Rows", "Rows of the second map: languages or tiers", ["languages", "tiers"])),
        ]
        known = [name for name in BANDS if self._has_controls and (self._controls["control"] == name).any()]
        options = [(BANDS[name][0], name) for name in known]
        self.bind("bands", several("Controls", "Controls shown as bands", options, rows=5, value=tuple(known)))
        self.bind("among", dropdown("Cosines of", "Directions whose cosines are shown", list(AMONG)))
        return row(*made)

    @property
    def _has_controls(self) -> bool:
        return self._controls is not None and len(self._controls) > 0

    def _known_places(self) -> tuple[list[int], list[str]]:
        if self._surfaces:
            first = next(iter(self._surfaces.values()))
            return first.layers, first.positions
        if self._angles.places:
            layers, positions = zip(*self._angles.places, strict=True)
            return sorted(set(layers)), list(dict.fromkeys(positions))
        return list(range(self.opened.provenance.n_layers)), [self.opened.study.position]

    def _groups(self) -> list[tuple[str, str]]:
        if not self._surfaces:
            return [("all languages", "all")]
        surface = next(iter(self._surfaces.values()))
        tiers = [(f"{tier} tier, mean", f"tier:{tier}") for tier in surface.tiers]
        return [("all languages, mean", "all"), *tiers, *((name_of(code), code) for code in surface.languages)]

    def _pane(self, figure: Any, words: widgets.HTML, control: widgets.Widget) -> widgets.VBox:
        return widgets.VBox([control, words, figure])

    # --- what is read back ---------------------------------------------------------------------------------------

    @property
    def direction(self) -> str:
        """Name of the working direction, as in the column `direction` of the study's scores."""
        return f"harmfulness/{self.method}/{self.layer}/{self.position}"

    @property
    def scores(self) -> pd.DataFrame:
        """Scores of all prompts on the working direction.

        Raises:
            WorkbenchError: the study has no such scores.
        """
        table = self.opened.table("scores")
        found = table[table["direction"] == self.direction]
        if found.empty:
            raise WorkbenchError(
                f"The study must have scores on {self.direction} to read them; it has other directions only. Pick "
                "another cell, or project activations on a direction fitted there."
            )
        return found.reset_index(drop=True)

    @property
    def cosines(self) -> pd.DataFrame:
        """Cosines between directions at the working place, as a matrix with their names on both sides."""
        return self._angles.matrix(self.layer, self.position, self.among)

    # --- choices -------------------------------------------------------------------------------------------------

    @guarded
    def _picked_place(self, trace: Any, point: Any) -> None:
        place, layer = cell(trace, point)
        surface = self._surface
        with self.hold_trait_notifications():
            self.position, self.layer = surface.positions[place], surface.layers[layer]

    @guarded
    def _picked_row(self, trace: Any, point: Any) -> None:
        at, layer = cell(trace, point)
        surface = self._surface
        with self.hold_trait_notifications():
            self.group, self.layer = surface.groups(self.rows)[at], surface.layers[layer]

    def _best(self) -> None:
        if self._sweep is None:
            raise WorkbenchError("A layer must be chosen by a sweep; this study has no table 'sweep'. Run it again.")
        table = self._sweep[(self._sweep["method"] == self.method) & (self._sweep["split"] == "val")]
        table = table[table["language"].isin(self._surface.members(self.group))]
        if table.empty:
            raise WorkbenchError(
                f"A layer must be chosen on validation prompts; the sweep has none for {self.method}. Choose another method."
            )
        best = choose_layer(table)
        with self.hold_trait_notifications():
            self.layer, self.position = best.layer, best.position

    # --- drawing -------------------------------------------------------------------------------------------------

    @property
    def _surface(self) -> Surface:
        if (self.method, self.split) not in self._surfaces:
            there = ", ".join(f"{method} on {split}" for method, split in self._surfaces)
            raise WorkbenchError(
                f"The sweep must hold what is shown; {self.method} on {self.split} is not in it. It has: {there or 'nothing'}."
            )
        return self._surfaces[self.method, self.split]

    def _draw(self) -> None:
        for part in _PARTS:
            with self.guard():
                self._draw_part(part)

    def _draw_part(self, part: str) -> None:
        """Draw what depends on traits, unless it is drawn for their values: a click changes two of them at once."""
        now = tuple(getattr(self, name) for name in _PARTS[part])
        if self._drawn.get(part) != now:
            getattr(self, f"_draw_{part}")()
            self._drawn[part] = now

    def _draw_maps(self) -> None:
        self._warn()
        if not self._surfaces:
            self._words.value = (
                f'<p class="workbench-caption">Working direction: <code>{escape(self.direction)}</code></p>'
            )
            return
        surface = self._surface
        place, layer = surface.positions.index(self.position), surface.layers.index(self.layer)
        members = surface.members(self.group)
        z = surface.mean(members)
        hover = [surface.words_of(self.group, p) for p in range(len(surface.positions))]
        self.places.redraw(
            [heatmap(z, surface.layers, surface.positions, hover, (0.5, 1.0), "AUROC", words=_short(z))],
            shapes=[framed(place, layer, len(surface.positions))],
            xaxis_type="category", yaxis_type="category",
        )  # fmt: skip
        self._draw_rows(surface, place, layer)
        self.select(self._sweep_rows(members))
        self._words.value = self._in_words(surface, place, layer)

    def _draw_rows(self, surface: Surface, place: int, layer: int) -> None:
        names = surface.groups(self.rows)
        z = np.stack([surface.mean(surface.members(name))[place] for name in names])
        hover = [surface.words_of(name, place) for name in names]
        labels = [name_of(name.removeprefix("tier:")) for name in names]
        words = _short(z) if len(names) <= 6 else None
        frame = framed(names.index(self.group), layer, len(names)) if self.group in names else column(layer, len(names))
        self.languages.redraw(
            [heatmap(z, surface.layers, labels, hover, (0.5, 1.0), "AUROC", words=words)],
            shapes=[frame], height=90 + 18 * max(len(names), 4), xaxis_type="category", yaxis_type="category",
            xaxis_title_text=f"layer, at {plot_text(self.position)}",
        )  # fmt: skip

    def _warn(self) -> None:
        looked = "test" in self.split.split("+")
        self.note(
            "split",
            "These are test prompts. A layer chosen by them must not be reported on them: choose on val."
            if looked
            else "",
        )

    def _sweep_rows(self, members: Sequence[str]) -> pd.DataFrame:
        table = self._sweep
        here = (table["layer"] == self.layer) & (table["position"] == self.position) & (table["split"] == self.split)
        return table[here & (table["method"] == self.method) & table["language"].isin(members)]

    def _in_words(self, surface: Surface, place: int, layer: int) -> str:
        said = surface.words_of(self.group, place)[layer].replace("<br>", "; ")
        return (
            f'<p class="workbench-caption" role="status">Working direction: <code>{escape(self.direction)}</code>: {said}. '
            "Its scores on all prompts: <code>.scores</code>.</p>"
        )

    def _draw_controls(self) -> None:
        if not self._has_controls:
            return
        table = self._controls
        codes = [str(code) for code in table["language"].drop_duplicates()]
        traces = []
        for offset, name in zip((-0.3, -0.1, 0.1, 0.3), BANDS, strict=True):
            shown = table[table["control"] == name] if name in self.bands else table.iloc[:0]
            traces.append(self._trace(shown, codes, offset, *BANDS[name], band=True))
        traces.append(self._trace(table[table["control"] == "direction"], codes, 0.0, "direction", SERIES[3], "star"))
        elsewhere = self._elsewhere()
        picked = self._sweep_rows(codes) if elsewhere and self._sweep is not None else table.iloc[:0]
        traces.append(self._trace(picked, codes, 0.0, f"picked cell, on {self.split}", SERIES[5], "cross"))
        self.nulls.redraw(
            traces,
            shapes=[line(0.5, upright=True)],
            xaxis_tickvals=list(range(len(codes))),
            xaxis_ticktext=[plot_text(code, 12) for code in codes],
            xaxis_range=[-0.6, len(codes) - 0.4],
        )
        first = table.iloc[0]
        words = f"Made at layer {first['layer']}, {first['position']}, {first['method']}, on {first['split']} prompts. "
        words += "Random directions and permuted labels: 95 % of repeats; the others: 95 % interval."
        if elsewhere:
            words += (
                " The picked cell is another: its AUROC is beside them; make its own controls with workbench.controls."
            )
        self._null_words.value = f'<p class="workbench-caption">{escape(words)}</p>'

    def _trace(
        self,
        part: pd.DataFrame,
        codes: Sequence[str],
        offset: float,
        name: str,
        colour: str,
        symbol: str,
        band: bool = False,
    ) -> dict[str, Any]:
        part = part[part["language"].isin(codes)]
        places = pd.Index(codes).get_indexer(part["language"]) + offset
        values = part[["auroc", "low", "high"]].to_numpy(float)
        names = [name_of(code) for code in part["language"]]
        return whiskers(places, values, names, name, colour, symbol, upright=True, band=band)

    def _elsewhere(self) -> bool:
        first = self._controls.iloc[0]
        return (self.layer, self.position, self.method) != (first["layer"], first["position"], first["method"])

    def _draw_cosines(self) -> None:
        if not self._angles.places:
            return
        matrix = self.cosines
        names = [direction_name(name) for name in matrix.index]
        z = matrix.to_numpy(float).reshape(len(names), len(names))
        hover = [
            [f"{plot_text(a)}<br>{plot_text(b)}<br>cosine {z[i, j]:.3f}" for j, b in enumerate(names)]
            for i, a in enumerate(names)
        ]
        words = _short(z) if len(names) <= 12 else None
        self.angles.redraw(
            [heatmap(z, names, names, hover, (-1.0, 1.0), "cosine", scale=DIVERGING, words=words)],
            xaxis_type="category", yaxis_type="category", xaxis_tickangle=-60,
            xaxis_tickfont_size=10, yaxis_tickfont_size=10, xaxis_dtick=1, yaxis_dtick=1,
        )  # fmt: skip
        self._angle_words.value = f'<p class="workbench-caption">{escape(self._about_angles(names))}</p>'

    def _about_angles(self, names: Sequence[str]) -> str:
        words = f"Between directions at layer {self.layer}, {self.position}."
        if not names:
            return f"{words} There are none of these."
        if self.among != "languages" and not self._angles.has_refusal(self.layer, self.position):
            words += " No refusal direction is defined here: it needs refused and answered prompts, at last_prompt."
        return words


def _short(z: np.ndarray) -> list[list[str]]:
    return [["" if np.isnan(value) else f"{value:.2f}" for value in line] for line in z]
