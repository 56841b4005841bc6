"""Verdict tables written down in a line."""

import pandas as pd


def said(judge, verdicts, language="en", **columns):
    """What a judge said of the first replies of a language, in pairs of prompts."""
    n = len(verdicts)
    ids = [f"{language}-{i}" for i in range(n)]
    base = {
        "prompt_id": ids, "parallel_id": ids, "pair_id": [f"pair-{i // 2}" for i in range(n)], "language": language,
        "label": "harmful", "model": "m", "intervention": "", "judge": judge, "verdict": list(verdicts),
    }  # fmt: skip
    return pd.DataFrame(base | columns)


def words(letters):
    """Verdicts by their first letters: `r`, `p`, `c`, `d` and `.` for missing."""
    return [{"r": "refusal", "p": "partial", "c": "compliance", "d": "degenerate", ".": None}[c] for c in letters]
