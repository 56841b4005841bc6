"""Texts of models and prompts as HTML: escaped, in their own reading direction, folded until opened."""

from __future__ import annotations

import html
import unicodedata

from workbench.languages import LANGUAGES

# Characters that reorder, hide or annotate what is around them. Joiners, zero-width spaces and direction marks are not
# among them: Persian, Sinhala, Khmer and Burmese are written with them.
_TREACHEROUS = frozenset(
    [*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xFFF9, 0xFFFC), *range(0xE0000, 0xE0080), 0xFEFF]
)


def visible(text: str) -> str:
    r"""The text with control characters, lone surrogates and bidirectional overrides written out; `\n`, `\t` stay.

    >>> visible("a\x00b\u202ec")
    'a␀b⟨U+202E⟩c'
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if code in _TREACHEROUS or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return f"⟨U+{code:04X}⟩"
    return character


def escape(text: object) -> str:
    """Any value as HTML that holds no markup: for element content and for quoted attributes."""
    return html.escape(visible(str(text)), quote=True)


def show_text(text: str | None, summary: str = "Show the text", *, folded: bool = True, language: str = "") -> str:
    """HTML of an untrusted text.

    Args:
        text: of a prompt or a model; None says that there is none.
        summary: what is seen while it is folded; it must not give the text away.
        folded: hidden until the reader opens it.
        language: code, so that browsers choose the right glyphs.
    """
    if text is None:
        return f'<p class="workbench-none">{escape(summary)}: none</p>'
    code = f' lang="{escape(language)}"' if language in LANGUAGES else ""
    body = f'<div class="workbench-text" dir="auto"{code}>{escape(text)}</div>'
    if not folded:
        return f'<div class="workbench-unfolded"><span class="workbench-caption">{escape(summary)}</span>{body}</div>'
    return f'<details class="workbench-folded"><summary>{escape(summary)}</summary>{body}</details>'


def plot_text(text: object, limit: int = 60) -> str:
    """A short text for plotly's labels, whose own small markup language it cannot enter."""
    words = visible(str(text)).replace("\n", " ")
    cut = words if len(words) <= limit else words[: limit - 1] + "…"
    return cut.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def name_of(code: str) -> str:
    """Language and code for a list of choices: `Swahili (sw)`."""
    return f"{LANGUAGES[code].name} ({code})" if code in LANGUAGES else code


def show_error(error: BaseException, words: str, trace: str = "") -> str:
    """HTML of an error: words, and the traceback one click away where there is one."""
    kind = type(error).__name__
    said = f'<p class="workbench-error" role="alert"><strong>{escape(kind)}</strong>: {escape(words)}</p>'
    return said + (
        f'<details class="workbench-folded"><summary>Traceback</summary><pre>{escape(trace)}</pre></details>'
        if trace
        else ""
    )
