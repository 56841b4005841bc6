"""Colours, symbols, layouts and style sheet of the widgets: right in a light and in a dark theme, from 1100 px up."""

from __future__ import annotations

from typing import Any

from workbench.ledger import QUADRANTS
from workbench.plots import TIER_COLOURS

GREY = "#7a7a7a"
"""Of words and axes where the style sheet does not reach; 4:1 or better on white and on JupyterLab's dark ground."""

GRID = "rgba(128,128,128,0.25)"

TIER_SYMBOLS = {"high": "circle", "mid": "square", "low": "diamond", "outside": "x"}
"""A second sign beside colour, for readers who tell colours apart badly."""

LABEL_COLOURS = {"harmful": "#D55E00", "harmless": "#56B4E9"}

VERDICT_COLOURS = {
    "refusal": "#009E73",
    "partial": "#F0E442",
    "compliance": "#D55E00",
    "degenerate": "#999999",
    "missing": "#CCCCCC",
}

TERM_COLOURS = {"delivered": "#009E73", "action": "#D55E00", "calibration": "#E69F00", "representation": "#0072B2"}
"""Parts of the selectivity budget."""

TERM_PATTERNS = {"delivered": "", "action": "/", "calibration": ".", "representation": "x"}

QUADRANT_COLOURS = dict(zip(QUADRANTS, ("#009E73", "#D55E00", "#0072B2", "#56B4E9", "#CC79A7", "#999999"), strict=True))

SERIES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#999999")
"""Okabe and Ito's colours for anything else; tell lines apart by `DASHES` as well."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")

__all__ = ["TIER_COLOURS"]


def layout(x: str = "", y: str = "", height: int = 340, **more: Any) -> dict[str, Any]:
    """A plotly layout without ground or fixed width. `x`, `y`: axis titles, units included."""
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GREY, "automargin": True, "title": {"standoff": 8}}
    return {
        "template": None,
        "title": {"font": {"size": 12}},
        "autosize": True,
        "height": height,
        "margin": {"l": 50, "r": 10, "t": 30, "b": 45},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": GREY, "size": 12},
        "hoverlabel": {"bgcolor": "#333333", "font": {"color": "#ffffff"}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": axis | {"title": {"text": x, "standoff": 8}},
        "yaxis": axis | {"title": {"text": y, "standoff": 8}},
        "clickmode": "event",
        "dragmode": "zoom",
        "showlegend": True,
    } | more


_INK = "var(--jp-ui-font-color1, var(--vscode-foreground, inherit))"
_PAPER = "var(--jp-layout-color1, var(--vscode-editor-background, transparent))"
_LINE = "var(--jp-border-color1, var(--vscode-panel-border, #999))"

STYLE_SHEET = f"""
.workbench-panel {{ color: {_INK}; max-width: 100%; overflow-x: hidden; }}
.workbench-panel .widget-html-content, .workbench-panel .widget-label {{ color: {_INK}; line-height: 1.4; white-space: normal; }}
.workbench-panel .widget-html, .workbench-panel .widget-html-content {{ max-width: 100%; }}
.workbench-title {{ font-size: 1.25em; font-weight: 600; margin: 0; }}
.workbench-help, .workbench-caption, .workbench-none, .workbench-count {{ opacity: 0.85; margin: 0; }}
.workbench-error {{ border-left: 4px solid #D55E00; padding: 4px 10px; margin: 4px 0; }}
.workbench-note {{ border-left: 4px solid #0072B2; padding: 4px 10px; margin: 4px 0; }}
.workbench-text {{ white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; line-height: 1.7; padding: 4px 8px;
  border: 1px solid {_LINE}; border-radius: 3px; max-height: 22em; overflow-y: auto; text-align: start;
  font-family: var(--jp-content-font-family, sans-serif), "Noto Sans", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Thai",
  "Noto Sans Devanagari", "Noto Sans Khmer", "Noto Sans Myanmar", "Noto Sans Sinhala", "Noto Sans Ethiopic", sans-serif; }}
.workbench-folded > summary {{ cursor: pointer; padding: 2px 0; }}
.workbench-panel pre {{ white-space: pre-wrap; overflow-wrap: anywhere; color: {_INK}; background: {_PAPER}; }}
.workbench-panel table {{ border-collapse: collapse; color: {_INK}; }}
.workbench-panel td, .workbench-panel th {{ padding: 2px 8px; border-bottom: 1px solid {_LINE}; text-align: start; }}
.workbench-row {{ align-items: center; gap: 2px 12px; }}
.workbench-columns > * {{ flex: 1 1 440px; min-width: 0; max-width: 100%; }}
.workbench-figure {{ min-width: 0; width: 100%; overflow: hidden; }}
.workbench-panel .js-plotly-plot :is(.xtick, .ytick, .xtitle, .ytitle, .gtitle, .legendtext, .legendtitletext,
  .annotation-text, .cbtitle, .cbaxis, .x2title, .y2title) :is(text, tspan),
.workbench-panel .js-plotly-plot text:is(.xtitle, .ytitle, .gtitle, .legendtext, .legendtitletext, .annotation-text,
  .x2title, .y2title) {{ fill: {_INK} !important; }}
.workbench-panel :is(button, select, input, textarea, summary, [tabindex]):focus-visible {{ outline: 2px solid #0072B2;
  outline-offset: 1px; }}
"""
