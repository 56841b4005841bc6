"""ActivationMap: prompts of all languages on a plane, layer by layer; a lasso leads to the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets
from scipy.linalg import orthogonal_procrustes

from workbench.errors import WorkbenchError
from workbench.languages import LANGUAGES
from workbench.maps import umap
from workbench.rows import KEYS
from workbench.study import StudyFolder
from workbench.widgets.base import Panel, guarded
from workbench.widgets.controls import button, choice, dropdown, row, slider, text
from workbench.widgets.jobs import Job
from workbench.widgets.points import LEDGER, Points, label_of, look
from workbench.widgets.processes import in_process
from workbench.widgets.tables import RowTable
from workbench.widgets.texts import escape, name_of, plot_text, show_text


class ActivationMap(Panel):
    """A map of activations at one layer, and the ledger rows of the points chosen on it.

    Attributes:
        layer: layer shown, 0-based.
        method: `pca` or `umap`.
        colour: column that points are coloured by.
        split: prompts shown, `test` or `all`.
        language: code of the one language shown, or `all`.
        scale: `layer` fits the axes to each layer, `same` keeps them for all.
        where: a rule that chooses points, such as `language == "sw" and x > 3`; columns are those of the selection.
        group: value of the colour column whose points are chosen; empty for none.
        chosen: prompt ids of the points chosen, by lasso, rule or group.
    """

    heading = "Activation map"
    help = (
        "Each point is a prompt, its activation at the working position brought to a plane. Draw a lasso round points, or choose "
        "them by group or rule, to read their ledger rows."
    )
    layer = traitlets.Int(0)
    method = traitlets.Unicode("pca")
    colour = traitlets.Unicode("label")
    split = traitlets.Unicode("test")
    language = traitlets.Unicode("all")
    scale = traitlets.Unicode("layer")
    where = traitlets.Unicode("")
    group = traitlets.Unicode("")
    chosen = traitlets.Tuple()

    def __init__(self, study: StudyFolder | Path | str, **state: Any):
        """Opens on the study's working layer.

        Args:
            study: an opened study or its folder.
            state: traits to set, as from `.state`; `chosen` too.
        """
        super().__init__(study)
        self.points = Points(self.table("maps"), self.table("ledger"))
        self._umaps: dict[int, np.ndarray] = {}
        self._shown = np.array([], dtype=int)
        self._drawn: list[np.ndarray] = []
        self._limits: tuple[float, float] | None = None
        if not self.points.layers:
            self.restore(state)
            return
        controls = self._bound()
        self.map = self.plot(
            *("Map", "", ""),
            height=560,
            dragmode="lasso",
            legend={"orientation": "v", "x": 1.01, "y": 1, "itemsizing": "constant"},
        )
        self.map.observe(self._lassoed, "_js2py_pointsCallback")
        self.ledger = self.row_table(
            "ledger",
            RowTable(
                "Ledger rows of the chosen points",
                ["language", "label", "harm_type", "split", "score", "verdict", "quadrant", "prompt_id"],
                empty="No points are chosen.",
            ),
            self._opened_row,
        )
        self._words, self._detail = widgets.HTML(), widgets.HTML()
        choosing = row(self.controls["group"], self.controls["where"], self.controls["clear"])
        self.compose(controls, self._words, self.map, choosing, self.ledger, self._detail)
        self.watch(self._draw, "layer", "method", "colour", "split", "language", "scale")
        self.watch(self._regroup, "colour")
        self.watch(self._by_group, "group")
        self.watch(self._by_rule, "where")
        self.watch(self._choose, "chosen")
        self._regroup()
        self._draw()
        self.restore(state)

    # --- building ------------------------------------------------------------------------------------------------

    def _bound(self) -> widgets.Box:
        study, layers = self.opened.study, list(self.points.layers)
        here = study.working_layer(self.opened.provenance)
        first = self.points.rows(layers[0])
        codes = [code for code in LANGUAGES if (first["language"] == code).any()]
        codes += [code for code in first["language"].unique() if code not in LANGUAGES]
        splits = [("test prompts", "test"), ("all prompts", "all")]
        self.bind("group", dropdown("Choose", "Choose all points of a group of the colours", [("–", "")]))
        self.bind(
            "where",
            text(
                *(
                    "Choose where",
                    "A rule over columns such as language, label, verdict, x, y: label == 'harmful' and x < 0",
                ),
                placeholder="label == 'harmful' and x < 0",
            ),
        )
        self.press("clear", button("Clear", "Choose no points"), self._clear)
        return row(
            self.bind(
                "layer",
                slider(
                    "Layer", "Layer shown: output of this block", layers, value=here if here in layers else layers[-1]
                ),
            ),
            self.bind(
                "method",
                choice("Map", "PCA keeps distances; UMAP keeps neighbours only", [("PCA", "pca"), ("UMAP", "umap")]),
            ),
            self.press(
                "compute",
                button("Compute UMAP", "Compute the UMAP of this layer in the background", icon="play"),
                self._compute,
            ),
            self.bind(
                "colour",
                dropdown(
                    "Colour by", "What colours and symbols mean", list(self.points.columns().items()), value="label"
                ),
            ),
            self.bind("split", dropdown("Prompts", "Test prompts have verdicts; the others do not", splits)),
            self.bind(
                "language",
                dropdown("Language", "One language, or all", [("all", "all"), *((name_of(c), c) for c in codes)]),
            ),
            self.bind(
                "scale",
                choice(
                    *("Axes", "The same at every layer, or fitted to each; they are never turned between layers"),
                    [("fitted to the layer", "layer"), ("the same at all layers", "same")],
                ),
            ),
        )

    # --- what is shown -------------------------------------------------------------------------------------------

    def _points(self, layer: int) -> np.ndarray:
        """Places of all prompts at a layer on the map that is shown, `[prompt, 2]`."""
        if self.method == "umap" and layer in self._umaps:
            return self._umaps[layer]
        return self.points.flat(layer)

    @guarded
    def _draw(self) -> None:
        rows, points = self.points.rows(self.layer), self._points(self.layer)
        keep = np.ones(len(rows), dtype=bool)
        if self.split != "all":
            keep &= (rows["split"] == self.split).to_numpy()
        if self.language != "all":
            keep &= (rows["language"] == self.language).to_numpy()
        self._shown = np.flatnonzero(keep)
        names, codes = self.points.groups(self.colour)
        self._drawn = [self._shown[codes[self._shown] == place] for place in range(len(names))]
        picked = self._is_chosen(rows)
        traces = [
            self._trace(name, place, points[at], rows, at, picked)
            for place, (name, at) in enumerate(zip(names, self._drawn, strict=True))
        ]
        self.map.redraw(traces, **self._axes(points))
        self.select(self._chosen_rows(_places(picked)))
        self._tell()

    def _trace(
        self, name: str, place: int, points: np.ndarray, rows: pd.DataFrame, at: np.ndarray, picked: np.ndarray | None
    ) -> dict[str, Any]:
        colour, symbol = look(self.colour, name, place)
        marker = {
            "color": colour,
            "symbol": symbol,
            "size": 6 if len(self._shown) < 8000 else 4,
            "opacity": 0.75,
        }
        return {
            "type": "scattergl",
            "mode": "markers",
            "name": plot_text(label_of(self.colour, name), 28),
            "x": points[:, 0].astype(np.float32),
            "y": points[:, 1].astype(np.float32),
            "hovertext": rows["hover"].to_numpy()[at],
            "hoverinfo": "text",
            "marker": marker,
            "visible": len(at) > 0,
            "selectedpoints": None if picked is None else np.flatnonzero(picked[at]).tolist(),
            "selected": {"marker": {"opacity": 1.0}},
            "unselected": {"marker": {"opacity": 0.12}},
        }

    def _axes(self, points: np.ndarray) -> dict[str, Any]:
        """Titles, and limits where they have to change: a zoom survives a change of colours."""
        kind = "UMAP" if self._is_umap else "PC"
        unit = "" if self._is_umap else " (residual-stream units)"
        changes: dict[str, Any] = {
            "xaxis_title_text": f"{kind} 1{unit}",
            "yaxis_title_text": f"{kind} 2{unit}",
            "yaxis_scaleanchor": "x",
            "xaxis_constrain": "domain",
            "yaxis_constrain": "domain",
        }
        limits = self._limits_of(points)
        if limits != self._limits:
            self._limits = limits
            changes |= {"xaxis_range": list(limits[:2]), "yaxis_range": list(limits[2:]), "selections": []}
        return changes

    def _limits_of(self, points: np.ndarray) -> tuple[float, ...]:
        if self.scale == "same" and not self._is_umap:
            low, high = self.points.ends()
        else:
            low, high = points.min(0), points.max(0)
        room = 0.05 * np.maximum(high - low, 1e-9)
        (x0, y0), (x1, y1) = low - room, high + room
        return float(x0), float(x1), float(y0), float(y1)

    @property
    def _is_umap(self) -> bool:
        return self.method == "umap" and self.layer in self._umaps

    def _tell(self) -> None:
        n, languages = len(self._shown), self.points.rows(self.layer)["language"].to_numpy()[self._shown]
        words = f"{n:,} prompts in {len(set(languages))} languages at layer {self.layer}."
        if not n:
            words = "No prompts are left by these choices: take other prompts or another language."
        if self.method == "umap" and not self._is_umap:
            words += " The UMAP of this layer is not computed yet: this is its PCA. Press Compute UMAP."
        elif self._is_umap:
            words += " In UMAP distances between far clusters mean nothing."
        self.controls["compute"].disabled = self.method != "umap" or self._is_umap
        self._words.value = f'<p class="workbench-caption" role="status">{escape(words)}</p>'

    # --- choosing points -----------------------------------------------------------------------------------------

    @guarded
    def _lassoed(self, change: Any) -> None:
        event = change["new"]
        if not event:
            return
        if event["event_type"] == "plotly_selected":
            found = event["points"]
            self.lasso(list(zip(found["trace_indexes"], found["point_indexes"], strict=True)))
        elif event["event_type"] == "plotly_deselect":
            self._clear()

    def lasso(self, points: list[tuple[int, int]]) -> None:
        """What a lasso round points does.

        Args:
            points: of each point its trace and its place in the trace.
        """
        at = np.array([self._drawn[trace][point] for trace, point in points], dtype=int)
        self._take(at)

    def _take(self, at: np.ndarray) -> None:
        ids = self.points.rows(self.layer)["prompt_id"].to_numpy()[np.sort(at)]
        self.chosen = tuple(str(one) for one in ids)

    def _clear(self) -> None:
        self.group, self.where, self.chosen = "", "", ()

    def _regroup(self) -> None:
        names, _ = self.points.groups(self.colour)
        control = self.controls["group"]
        control.options = [("–", ""), *((label_of(self.colour, name), name) for name in names)]

    def _by_group(self) -> None:
        if not self.group:
            return
        names, codes = self.points.groups(self.colour)
        self._take(self._shown[codes[self._shown] == names.index(self.group)])

    def _by_rule(self) -> None:
        if not self.where.strip():
            return
        rows = self._chosen_rows(self._shown)
        try:
            found = rows.query(self.where, engine="python")
        except Exception as error:
            raise WorkbenchError(
                f"A rule must be a comparison of columns; {self.where!r}: {error}. Columns: {', '.join(rows)}."
            ) from error
        if not isinstance(found, pd.DataFrame):
            raise WorkbenchError(f"A rule must say yes or no of every row; {self.where!r} does not. Compare columns.")
        self._take(self._shown[found.index.to_numpy()])

    def _choose(self) -> None:
        rows = self.points.rows(self.layer)
        picked = self._is_chosen(rows)
        self.select(self._chosen_rows(_places(picked)))
        self.ledger.show(self.selection)
        self._detail.value = ""
        with self.map.batch_update():
            for trace, drawn in zip(self.map.data, self._drawn, strict=True):
                trace.selectedpoints = None if picked is None else np.flatnonzero(picked[drawn]).tolist()

    def _is_chosen(self, rows: pd.DataFrame) -> np.ndarray | None:
        return rows["prompt_id"].isin(self.chosen).to_numpy() if self.chosen else None

    def _chosen_rows(self, at: np.ndarray) -> pd.DataFrame:
        """Keys, place on the map and ledger columns of prompts."""
        rows, points = self.points.rows(self.layer), self._points(self.layer)[at]
        names = [name for name in (*KEYS, *LEDGER) if name in rows]
        part = rows.iloc[at][names].assign(layer=self.layer, x=points[:, 0], y=points[:, 1])
        return part.reset_index(drop=True)

    def _opened_row(self, found: pd.Series | None) -> None:
        self._detail.value = "" if found is None else self._texts(found)

    def _texts(self, found: pd.Series) -> str:
        said = []
        for name, column, summary in (
            ("prompts", "text", "Prompt"),
            ("prompts", "source_text", "In English"),
            ("completions", "completion", "Reply"),
        ):
            table = self.table(name)
            if table is None or column not in table:
                continue
            for line in table[table["prompt_id"] == found["prompt_id"]].itertuples():
                code = "en" if column == "source_text" else str(found["language"])
                how = f", {line.intervention}" if getattr(line, "intervention", "") else ""
                said.append(show_text(getattr(line, column), f"{summary}{how}", language=code))
        return "".join(said) or '<p class="workbench-none">The study has no text of this prompt.</p>'

    # --- UMAP ----------------------------------------------------------------------------------------------------

    def _compute(self) -> None:
        if self.method != "umap" or self._is_umap:
            return
        layer, rows = self.layer, self.points.rows(self.layer)
        wide, flat = self.points.wide(layer), self.points.flat(layer)
        words = f"UMAP of {len(rows):,} prompts at layer {layer}, in the background"

        def work(job: Job) -> np.ndarray:
            found = in_process(job, words, umap, wide)
            found = found - found.mean(0)
            # Turned or mirrored to lie closest to the PCA, so that axes agree from layer to layer.
            return found @ orthogonal_procrustes(found, flat - flat.mean(0))[0]

        self.run_job(words, work, lambda found: self._computed(layer, found))

    def _computed(self, layer: int, found: np.ndarray) -> None:
        self._umaps[layer] = found
        self._draw()


def _places(picked: np.ndarray | None) -> np.ndarray:
    return np.array([], dtype=int) if picked is None else np.flatnonzero(picked)
