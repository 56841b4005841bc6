"""How a steering bench shows a reply: as coloured text with the gate's words, and as a line or a point of a chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.widgets.runs import Run
from workbench.widgets.texts import escape, plot_text, show_text
from workbench.widgets.theme import DASHES, GREY, SERIES, VERDICT_COLOURS
from workbench.widgets.tokens import show_tokens

if TYPE_CHECKING:
    from workbench.benches import Reply

_SYMBOLS = {"refusal": "circle", "partial": "diamond", "compliance": "x", "degenerate": "square", "missing": "cross"}


def show_reply(run: Run, reply: Reply, scale: tuple[float, float], language: str, words: str, prompt_too: bool) -> str:
    """HTML of a reply, coloured between the ends of a scale; `words`: how far it is, or the verdict."""
    return _pane(str(run), words, gate_words(reply.trace), show_tokens(reply.tokens, *scale, language, prompt_too))


def show_kept(row: Mapping[str, Any], verdicts: pd.DataFrame | None) -> str:
    """HTML of a completion that a study has kept, with what its judges say."""
    words, name = "kept in the study", str(row["intervention"])
    if verdicts is not None:
        mine = verdicts[verdicts["intervention"] == name].to_dict("records")
        words = "; ".join([words, *(f"{v['judge']}: {v['verdict'] or 'missing'}" for v in mine)])
    body = show_text(row["completion"], "Show the reply", language=str(row["language"]))
    return _pane(name or str(Run()), words, gate_words(row), body)


def _pane(head: str, words: str, gate: str, body: str) -> str:
    lines = "".join(f'<p class="workbench-caption" dir="auto">{escape(line)}</p>' for line in (words, gate) if line)
    return f'<section class="workbench-pane"><p dir="auto"><strong>{escape(head)}</strong></p>{lines}{body}</section>'


def run_words(row: Mapping[str, Any]) -> str:
    """Length, ending and verdict of a run."""
    said = f"verdict: {row['verdict']}" if row["verdict"] else row["reason"]
    return ", ".join(part for part in (f"{row['n_new_tokens']} tokens", row["finish"], said) if part)


def gate_words(trace: Mapping[str, Any]) -> str:
    """What the gate said and how much was added; no words where there was neither."""
    known = {key: value for key, value in trace.items() if pd.api.types.is_scalar(value) and pd.notna(value)}
    said = []
    if "logit" in known and "threshold" in known:
        decision = ("harmful" if known["fired"] else "harmless") if "fired" in known else "no decision"
        said.append(f"Gate: logit {known['logit']:.3g}, threshold {known['threshold']:.3g}: {decision}.")
    if "added_norm" in known:
        said.append(f"Changed a token by {known['added_norm']:.3g} on average.")
    return " ".join(said)


def token_lines(replies: Mapping[Run, Reply]) -> list[dict[str, Any]]:
    """A line for each reply: the projection of its tokens, counted from the last of the prompt."""
    lines = []
    for place, (run, reply) in enumerate(replies.items()):
        last = sum(token.part != "reply" for token in reply.tokens) - 1
        lines.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": plot_text(run),
                "line": {"color": SERIES[place % len(SERIES)], "dash": DASHES[place % len(DASHES)]},
                "x": list(range(-last, len(reply.tokens) - last)),
                "y": [token.projection for token in reply.tokens],
                "hovertemplate": "token %{x}: %{y:.3g}",
            }
        )
    return lines


def sweep_points(runs: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """The runs of one intervention over its strength: a line, and points that tell the verdicts apart.

    `customdata` of a point is its row in `runs`.
    """
    part = runs[(runs["intervention"] == name) & runs["projection_reply"].notna()]
    said = part["verdict"].where(part["verdict"].notna(), "missing")
    line = {"color": GREY, "width": 1}
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": plot_text(name),
            "line": line,
            "hoverinfo": "skip",
            **_places(part),
        }
    ]
    for verdict, symbol in _SYMBOLS.items():
        some = part[said == verdict]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "no verdict" if verdict == "missing" else verdict,
                "marker": {"color": VERDICT_COLOURS[verdict], "symbol": symbol, "size": 10, "line": line},
                "showlegend": len(some) > 0,
                "customdata": some.index.tolist(),
                "hovertemplate": "strength %{x}: %{y:.3g}",
                **_places(some),
            }
        )
    return traces


def _places(runs: pd.DataFrame) -> dict[str, list[float]]:
    return {"x": runs["strength"].tolist(), "y": runs["projection_reply"].tolist()}
