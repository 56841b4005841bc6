"""Tables -> plotly traces, as dictionaries: points with intervals, stacked budgets, densities, lines through layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from workbench.budget import TERMS
from workbench.languages import LANGUAGES, TIERS
from workbench.plots import TIER_COLOURS
from workbench.widgets.texts import plot_text
from workbench.widgets.theme import GREY, LABEL_COLOURS, TERM_COLOURS, TERM_PATTERNS, TIER_SYMBOLS

Trace = dict[str, Any]

_MOST = 2000  # points that a density is made of: as many quantiles of a larger set give the same curve
_RUG = 400  # above so many, single prompts cannot be told apart in a rug


def spread(table: pd.DataFrame, name: str) -> Trace:
    """Error bars of a measure with the columns `{name}_low`, `{name}_high`."""
    value = table[name].to_numpy(float)
    return {
        "type": "data",
        "symmetric": False,
        "array": np.clip(np.nan_to_num(table[f"{name}_high"].to_numpy(float) - value), 0, None),
        "arrayminus": np.clip(np.nan_to_num(value - table[f"{name}_low"].to_numpy(float)), 0, None),
        "thickness": 1,
        "width": 0,
    }


def language_points(table: pd.DataFrame, x: str, y: str, chosen: str = "") -> list[Trace]:
    """A point for each language, a trace for each tier; intervals drawn, the chosen language ringed.

    Args:
        table: columns `language`, `tier`, and both measures with `_low` and `_high`.
        x: measure across.
        y: measure upwards.
        chosen: code of the language that is ringed.
    """
    traces = []
    for tier in (*TIERS, "outside"):
        part = table[table["tier"] == tier]
        hover = [_about(row, x, y) for _, row in part.iterrows()]
        ring = [3 if code == chosen else 0.5 for code in part["language"]]
        size = [15 if code == chosen else 10 for code in part["language"]]
        traces.append(
            {
                "type": "scatter", "mode": "markers+text", "name": f"{tier} tier", "x": part[x].to_numpy(float),
                "y": part[y].to_numpy(float), "text": list(part["language"]), "textposition": "top right",
                "textfont": {"color": GREY}, "customdata": list(part["language"]), "hovertext": hover, "hoverinfo": "text",
                "marker": {"color": TIER_COLOURS[tier], "symbol": TIER_SYMBOLS[tier], "size": size,
                           "line": {"color": GREY, "width": ring}},
                "error_x": spread(part, x) | {"color": TIER_COLOURS[tier]},
                "error_y": spread(part, y) | {"color": TIER_COLOURS[tier]},
                "showlegend": len(part) > 0,
            }
        )  # fmt: skip
    return traces


def _about(row: pd.Series, *measures: str) -> str:
    name = LANGUAGES[row["language"]].name if row["language"] in LANGUAGES else row["language"]
    lines = [f"{m.replace('_', ' ')} {row[m]:.2f} [{row[f'{m}_low']:.2f}, {row[f'{m}_high']:.2f}]" for m in measures]
    return "<br>".join([plot_text(name), *lines])


def budget_bars(budget: pd.DataFrame, side: str) -> list[Trace]:
    """Stacked bars of a side of the selectivity budget, a trace for each term, a bar for each language."""
    here = budget[(budget["side"] == side) & (budget["relative_to"] == "")]
    traces = []
    for term in TERMS:
        part = here[here["measure"] == term]
        hover = [
            f"{plot_text(row.language)}: {term} {row.value:.0f} [{row.low:.0f}, {row.high:.0f}] points, n = {row.n}"
            f"<br>reading: {plot_text(row.reading)}"
            for row in part.itertuples()
        ]
        traces.append(
            {
                "type": "bar", "name": term, "x": list(part["language"]), "y": part["value"].to_numpy(float),
                "hovertext": hover, "hoverinfo": "text",
                "marker": {"color": TERM_COLOURS[term], "pattern": {"shape": TERM_PATTERNS[term], "fgcolor": "#ffffff"}},
            }
        )  # fmt: skip
    return traces


def densities(scores: np.ndarray, harmful: np.ndarray, ids: np.ndarray | None = None) -> list[Trace]:
    """Densities of harmful and of harmless scores, and a rug of single prompts where they are few.

    Args:
        scores: `[prompt]`; NaN are left out.
        harmful: labels, `[prompt]`.
        ids: of the prompts, that a click on the rug gives back, `[prompt]`.
    """
    ids = np.full(len(scores), "") if ids is None else ids
    known = ~np.isnan(scores)
    grid = _grid(scores[known])
    traces: list[Trace] = []
    for name, side in (("harmful", harmful), ("harmless", ~harmful)):
        values = scores[known & side]
        line = {"color": LABEL_COLOURS[name], "dash": "solid" if name == "harmful" else "dash", "width": 2}
        traces.append(
            {"type": "scatter", "mode": "lines", "name": f"{name} ({len(values)})", "x": grid, "y": density(values, grid),
             "line": line, "fill": "tozeroy", "hoverinfo": "skip"}
        )  # fmt: skip
    top = max(float(np.max(trace["y"], initial=0.0)) for trace in traces) or 1.0
    for place, (name, side) in enumerate((("harmful", harmful), ("harmless", ~harmful))):
        here = known & side if known.sum() <= _RUG else np.zeros(len(known), bool)
        traces.append(
            {"type": "scatter", "mode": "markers", "name": f"{name} prompts", "showlegend": False, "x": scores[here],
             "y": np.full(int(here.sum()), -0.05 * top * (place + 1)), "customdata": list(ids[here]), "hoverinfo": "x",
             "marker": {"color": LABEL_COLOURS[name], "symbol": "line-ns-open" if place else "x-thin-open", "size": 9}}
        )  # fmt: skip
    return traces


def density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Gaussian kernel density of values on a grid; zeros where there are too few distinct values for one."""
    from scipy.stats import gaussian_kde

    if len(values) > _MOST:
        values = np.quantile(values, np.linspace(0, 1, _MOST))
    if len(values) < 3 or np.ptp(values) == 0:
        return np.zeros(len(grid))
    return gaussian_kde(values)(grid)


def _grid(values: np.ndarray) -> np.ndarray:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = 0.1 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, 160)


def through_layers(layers: tuple[int, ...], values: np.ndarray, means: Mapping[str, np.ndarray]) -> list[Trace]:
    """One prompt's scores through the layers `[layer]`, beside the means of each class `[layer]`."""
    traces: list[Trace] = [
        {"type": "scatter", "mode": "lines", "name": f"mean {name}", "x": list(layers), "y": mean,
         "line": {"color": LABEL_COLOURS[name], "dash": "dash" if name == "harmless" else "solid", "width": 1}}
        for name, mean in means.items()
    ]  # fmt: skip
    mark = {"color": GREY, "symbol": "diamond", "size": 7}
    return [*traces, {"type": "scatter", "mode": "lines+markers", "name": "this prompt", "x": list(layers), "y": values,
                      "line": {"color": GREY, "width": 2, "dash": "solid"}, "marker": mark}]  # fmt: skip


def upright(x: float, colour: str, words: str, at: str = "end", dash: str = "solid", **more: Any) -> dict[str, Any]:
    """A vertical line as a plotly shape, its label at the `start`, `middle` or `end`."""
    label = {"text": words, "textposition": at, "font": {"color": colour, "size": 12}, "textangle": 0}
    return {
        "type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "name": words,
        "line": {"color": colour, "dash": dash, "width": 2}, "label": label | {"yanchor": "top", "xanchor": "left"},
    } | more  # fmt: skip
