"""Tokens with a number each, as text whose ground is coloured by it; letters are never cut from their marks."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Protocol, runtime_checkable

import numpy as np

from workbench.languages import LANGUAGES
from workbench.widgets.texts import escape

LOW, HIGH = "0,114,178", "213,94,0"
"""Ground colours of projections below and above the middle: blue and vermilion, which colour-blind readers tell apart."""

STYLE = """
.workbench-token { border-radius: 2px; }
.workbench-template, .workbench-prompt { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; line-height: 1.7; }
.workbench-template { opacity: 0.75; font-family: monospace; font-size: 0.9em; }
.workbench-scale { display: inline-block; width: 120px; height: 0.9em; vertical-align: middle; border: 1px solid #888; }
.workbench-pane { min-width: 0; }
.workbench-pane p { margin: 2px 0; }
"""
"""Style sheet of what this module makes."""

_STRONGEST = 0.6  # of the ground: the ink on it stays readable in a light and in a dark theme
# Signs that put the next letter under or around the one before it: viramas, the Khmer coeng, the joiner.
_STACKERS = frozenset("\u094d\u09cd\u0dca\u1039\u17d2\u200d")
_JOINERS = frozenset("\u200c\u200d")


@runtime_checkable
class Scored(Protocol):
    """A token with its number: what `benches.Token` is.

    Attributes:
        text: what it adds to the text; empty where it ends inside a character.
        part: `template`, `prompt` or `reply`.
        projection: residual-stream units.
    """

    text: str
    part: str
    projection: float


def show_tokens(tokens: Sequence[Scored], low: float, high: float, language: str = "", prompt_too: bool = True) -> str:
    """HTML of a reply, coloured token by token; the prompt before it is folded.

    Args:
        tokens: of the prompt, then of the reply.
        low: number that is as blue as can be.
        high: number that is as orange as can be.
        language: code of the prompt's language, so that browsers choose the right glyphs.
        prompt_too: show the tokens of the prompt as well.
    """
    prompt = [token for token in tokens if token.part != "reply"]
    reply = [token for token in tokens if token.part == "reply"]
    code = f' lang="{escape(language)}"' if language in LANGUAGES else ""
    shown = f'<div class="workbench-text" dir="auto"{code}>{_spans(reply, low, high)}</div>'
    if not (prompt_too and prompt):
        return shown
    blocks = "".join(
        f'<div class="workbench-{part}" dir="auto"{code if part == "prompt" else ""}>{_spans(some, low, high)}</div>'
        for part, some in groupby(prompt, key=lambda token: token.part)
    )
    summary = f"The prompt, token by token ({len(prompt)})"
    return f'{shown}<details class="workbench-folded"><summary>{summary}</summary>{blocks}</details>'


def legend(low: float, high: float) -> str:
    """HTML of a colour key for `show_tokens`."""
    stops = ", ".join(
        f"rgba({colour},{alpha})" for colour, alpha in ((LOW, _STRONGEST), (LOW, 0), (HIGH, 0), (HIGH, _STRONGEST))
    )
    bar = f'<span class="workbench-scale" style="background: linear-gradient(to right, {stops})"></span>'
    return (
        '<p class="workbench-caption" dir="ltr">Projection, residual-stream units: '
        f"{low:.3g} (typical of harmless prompts) {bar} {high:.3g} (typical of harmful ones). "
        "Point at a token to read its own.</p>"
    )


def _spans(tokens: Iterable[Scored], low: float, high: float) -> str:
    return "".join(_span(text, values, low, high) for text, values in clusters(tokens))


def _span(text: str, values: Sequence[float], low: float, high: float) -> str:
    value = float(np.mean(values))
    said = " ".join(f"{one:.3g}" for one in values)
    return f'<span class="workbench-token" style="background:{ground(value, low, high)}" title="{said}">{escape(text)}</span>'


def ground(value: float, low: float, high: float) -> str:
    """Colour under a token: clear in the middle between `low` and `high`, strongest at them and beyond."""
    half = (high - low) / 2
    if not np.isfinite(value) or half <= 0:
        return "transparent"
    share = float(np.clip((value - (low + high) / 2) / half, -1, 1))
    return f"rgba({HIGH if share > 0 else LOW},{_STRONGEST * abs(share):.2f})"


def clusters(tokens: Iterable[Scored]) -> list[tuple[str, list[float]]]:
    """Texts that can be coloured apart, each with the numbers of its tokens.

    A token that ends inside a character, or that begins with a mark on the letter before it, stays with its neighbour:
    cut there, a browser would draw the mark on a dotted circle.
    """
    found: list[tuple[str, list[float]]] = []
    for token in tokens:
        text, values = found[-1] if found else ("", [])
        if found and (not text or not token.text or text[-1] in _STACKERS or _leans(token.text[0])):
            found[-1] = (text + token.text, [*values, token.projection])
        else:
            found.append((token.text, [token.projection]))
    return found


def _leans(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" or character in _JOINERS
