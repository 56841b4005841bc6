"""What is odd about multiple-choice questions and can be seen without reading the language, check by check."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from scipy import stats

from workbench.languages import LANGUAGES, in_script
from workbench.questions import LETTERS, OPTIONS

_SHOWN = 3


def check_questions(questions: pd.DataFrame) -> pd.DataFrame:
    """What is odd about a question table, language by language and check by check.

    Returns:
        DataFrame with `language`, `check`, `count` (0 where all is well) and `examples`, as `check_prompts`.
    """
    rows = []
    for code in (code for code in LANGUAGES if code in set(questions["language"])):
        own, others = (questions[questions["language"].eq(code) == same] for same in (True, False))
        for name, check in _CHECKS.items():
            found = list(check(own, others))
            rows.append((code, name, len(found), ", ".join(map(str, found[:_SHOWN]))))
    return pd.DataFrame(rows, columns=["language", "check", "count", "examples"])


def _missing(own: pd.DataFrame, others: pd.DataFrame) -> Iterable[str]:
    """Questions that some language has and this one lacks."""
    return sorted(set(others["parallel_id"]) - set(own["parallel_id"]))


def _other_answer(own: pd.DataFrame, others: pd.DataFrame) -> Iterable[str]:
    """Questions whose right letter is not that of most translations."""
    usual = others.groupby("parallel_id")["answer"].agg(lambda letters: letters.mode().iloc[0])
    same = own["parallel_id"].map(usual)
    return own["parallel_id"][same.notna() & (same != own["answer"])]


def _unbalanced(own: pd.DataFrame, others: pd.DataFrame) -> Iterable[str]:
    """Letters are not right equally often (chi-squared, p < 0.01): always saying one of them would pay."""
    counts = own["answer"].value_counts().reindex(LETTERS, fill_value=0)
    if stats.chisquare(counts).pvalue < 0.01:
        yield " ".join(f"{letter} {n}" for letter, n in counts.items())


def _longest(own: pd.DataFrame, others: pd.DataFrame) -> Iterable[str]:
    """The right option is the longest more often than chance allows (binomial, p < 0.01)."""
    lengths = np.array([[len(option) for option in options] for options in own[list(OPTIONS)].itertuples(index=False)])
    right = lengths[np.arange(len(own)), [LETTERS.index(letter) for letter in own["answer"]]]
    n = int((right > np.sort(lengths)[:, -2]).sum()) if len(own) else 0
    if len(own) and stats.binomtest(n, len(own), 0.25, alternative="greater").pvalue < 0.01:
        yield f"{n} of {len(own)}"


def _foreign(own: pd.DataFrame, others: pd.DataFrame) -> Iterable[str]:
    """Questions mostly in another script."""
    share = [
        in_script(text, LANGUAGES[code].script) for text, code in zip(own["question"], own["language"], strict=True)
    ]
    return own["parallel_id"][np.array(share) < 0.5]


def _english(own: pd.DataFrame, others: pd.DataFrame) -> Iterable[str]:
    """Questions left in English."""
    english = others[others["language"] == "en"].set_index("parallel_id")["question"]
    return own["parallel_id"][own["question"] == own["parallel_id"].map(english)]


_CHECKS: dict[str, Callable[[pd.DataFrame, pd.DataFrame], Iterable[str]]] = {
    "missing": _missing,
    "other answer": _other_answer,
    "unbalanced answers": _unbalanced,
    "right option longest": _longest,
    "other script": _foreign,
    "left in English": _english,
}
