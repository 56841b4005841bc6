"""Prompt tables: the embedded parallel set, and everyone else's by name or path.

A prompt table is a DataFrame with one row per prompt and the columns of `rows.COLUMNS`.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from workbench.checks import check_prompts
from workbench.errors import PromptError, nearest
from workbench.intake import missing_labels, read_prompts
from workbench.languages import LANGUAGES, language, tier
from workbench.reviews import reviewed
from workbench.romanise import ROMANISED, romanised
from workbench.rows import COLUMNS, LABELS, prompt_id
from workbench.sources import load_source

__all__ = ["EMBEDDED", "check_prompts", "languages_of", "load_prompts", "pairs_table", "read_prompts"]

EMBEDDED = "parallel-23"
_DATA = Path(__file__).parent / "data" / EMBEDDED


def load_prompts(
    name_or_path: str | Path = EMBEDDED,
    languages: Sequence[str] | None = None,
    *,
    test_pairs_per_type: int | None = None,
    reviewed_only: bool = False,
    reviews: str | Path | None = None,
    variant: str | None = None,
    harmless_from: str | Path | None = None,
) -> pd.DataFrame:
    """A prompt table by name, path or hub id.

    Args:
        name_or_path: `parallel-23`, the embedded set; `polyrefuse:/path`, `multijail:/path` and so on for a set as its
            authors released it (`sources.SETS`); a path whose layout is recognised; or a hub id `owner/name`.
        languages: codes to keep; all of the set by default.
        test_pairs_per_type: keep only the first so many test pairs of each harm type (train and val stay whole).
        reviewed_only: keep only prompts whose translation a reviewer called good.
        reviews: a file of `add_review`, as the Annotator leaves it, that says what reviewers think.
        variant: `romanised` writes every language in Latin letters, as people type on foreign keyboards.
        harmless_from: another set, named in the same way, that lends its harmless prompts to a set without any.

    Returns:
        DataFrame with the columns of `rows.COLUMNS`. `attrs["notes"]`, a list of sentences, says what was dropped and
        what is odd.

    Raises:
        PromptError: the set or a language is unknown, the files are not as released, there are fewer prompts than asked
            for, or nothing is left.
    """
    prompts = _named(name_or_path, languages)
    if harmless_from is not None:
        prompts = _with_harmless(prompts, _named(harmless_from, None))
    if test_pairs_per_type is not None:
        if not isinstance(test_pairs_per_type, int) or test_pairs_per_type < 0:
            raise PromptError(f"test_pairs_per_type must be a whole number, 0 or more; got {test_pairs_per_type!r}.")
        prompts = _fewer_test_pairs(prompts, test_pairs_per_type)
    if reviews is not None:
        prompts = reviewed(prompts, reviews)
    if reviewed_only:
        prompts = prompts[prompts.review == "good"]
        if prompts.empty:
            raise PromptError(
                f"No translation in {name_or_path} has been reviewed as good by a native speaker yet. "
                "Use reviewed_only=False, or review some first."
            )
    if variant is not None:
        if variant != ROMANISED:
            raise PromptError(f"variant must be {ROMANISED!r} or None; got {variant!r}.")
        prompts = romanised(prompts)
    prompts = prompts.reset_index(drop=True)
    # Not those of the whole set: languages and labels may have come and gone since.
    notes = [note for note in prompts.attrs["notes"] if not note.startswith("No harm")]
    prompts.attrs["notes"] = notes + missing_labels(prompts)
    return prompts


def pairs_table(prompts: pd.DataFrame, language: str, harm_type: str | None = None) -> pd.DataFrame:
    """The pairs of one language side by side with their English, one a row.

    Args:
        prompts: prompt table with pairs.
        language: code.
        harm_type: all types by default.

    Returns:
        DataFrame with pair_id, harm_type, scope, split, harmful, harmless, harmful_en, harmless_en; empty text where a
        side is missing.

    Raises:
        PromptError: there is no such language or harm type in the table, or no pairs.
    """
    part = prompts
    for column, value in (("language", language), ("harm_type", harm_type)):
        if value is not None:
            known = part[column].unique()
            if value not in known:
                raise PromptError(f"{column} must be one of this table; got {value!r}. {nearest(value, known)}")
            part = part[part[column] == value]
    part = part[part.pair_id.notna() & (part.pair_id != "")]
    if part.empty:
        raise PromptError(
            f"Only a set of pairs can be shown side by side; {', '.join(prompts.dataset.unique())} has none."
        )
    keys = ["pair_id", "harm_type", "scope", "split"]
    sides = [
        part[part.label == label].set_index("pair_id")[["text", "source_text"]].set_axis([label, f"{label}_en"], axis=1)
        for label in LABELS
    ]
    table = part.drop_duplicates("pair_id")[keys].join(sides[0], on="pair_id").join(sides[1], on="pair_id")
    ends = ["harmful", "harmless", "harmful_en", "harmless_en"]
    return table[[*keys, *ends]].fillna(dict.fromkeys(ends, "")).reset_index(drop=True)


def languages_of(codes: Sequence[str] | None) -> list[str]:
    """The codes asked for, checked, or all that the embedded set has, in the order of `LANGUAGES`."""
    have = [code for code in LANGUAGES if (_DATA / f"{code}.toml").exists()]
    return have if codes is None else _wanted(codes, have, EMBEDDED)


def _wanted(codes: Sequence[str], have: Sequence[str], name: str) -> list[str]:
    if isinstance(codes, str):
        raise PromptError(f"languages must be a list of codes; got the text {codes!r}. Write languages=[{codes!r}].")
    lacking = [code for code in codes if language(code).code not in have]
    if lacking or not len(codes):
        raise PromptError(
            f"{name} must have the languages asked for; it lacks {lacking or 'none'}. It has {', '.join(have)}."
        )
    return list(dict.fromkeys(codes))


def _named(name: str | Path, codes: Sequence[str] | None) -> pd.DataFrame:
    """All prompts of a set in the languages asked for."""
    if name == EMBEDDED:
        prompts = pd.concat([_embedded(code) for code in languages_of(codes)], ignore_index=True)
        prompts.attrs["notes"] = []
        return prompts
    prompts = load_source(name)
    if codes is None:
        return prompts
    return prompts[prompts.language.isin(_wanted(codes, [*prompts.language.unique()], str(name)))]


def _with_harmless(prompts: pd.DataFrame, lender: pd.DataFrame) -> pd.DataFrame:
    """The prompts with the harmless ones of another set, in the languages that both have."""
    own = (prompts.label == "harmless").sum()
    borrowed = lender[(lender.label == "harmless") & lender.language.isin(prompts.language)]
    names = ", ".join(prompts.dataset.unique()), ", ".join(lender.dataset.unique())
    if own:
        raise PromptError(f"harmless_from is for sets without harmless prompts; {names[0]} has {own}. Leave it out.")
    if borrowed.empty:
        raise PromptError(
            f"harmless_from must name a set with harmless prompts in a language of {names[0]} "
            f"({', '.join(prompts.language.unique())}); {names[1]} has none. Name another."
        )
    both = pd.concat([prompts, borrowed], ignore_index=True)
    said = f"Borrowed {len(borrowed)} harmless prompts from {names[1]}; they are not paired with the harmful ones."
    both.attrs["notes"] = [*prompts.attrs["notes"], said, *lender.attrs["notes"]]
    return both


@lru_cache(maxsize=64)
def _texts(code: str) -> dict[str, dict[str, str]]:
    with open(_DATA / f"{code}.toml", "rb") as file:
        return {pair: texts for pair, texts in tomllib.load(file).items() if pair != "language"}


@lru_cache(maxsize=64)
def _embedded(code: str) -> pd.DataFrame:
    """All rows of one language of the embedded set."""
    with open(_DATA / "pairs.csv", newline="", encoding="utf-8") as file:
        pairs = list(csv.DictReader(file))
    texts, english = _texts(code), _texts("en")
    rows = []
    for pair in pairs:
        for label in LABELS:
            name, text = pair["pair_id"], texts[pair["pair_id"]][label]
            rows.append(
                {
                    "prompt_id": prompt_id(EMBEDDED, name, code, label, text),
                    "parallel_id": f"{name}-{label}",
                    "pair_id": name,
                    "dataset": EMBEDDED,
                    "language": code,
                    "tier": tier(code),
                    "label": label,
                    "harm_type": pair["harm_type"],
                    "scope": pair["scope"],
                    "split": pair["split"],
                    "text": text,
                    "source_text": texts[name].get(f"{label}_en", english[name][label]),
                    "review": texts[name].get("review", ""),
                    "n_chars": len(text),
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _fewer_test_pairs(prompts: pd.DataFrame, per_type: int) -> pd.DataFrame:
    test = prompts[(prompts.split == "test") & (prompts.pair_id != "")]
    first = test.drop_duplicates("pair_id")
    there = first.groupby("harm_type").size()
    if there.empty:
        raise PromptError(
            f"test_pairs_per_type is for sets of pairs; {', '.join(prompts.dataset.unique())} has no test pairs. "
            "Leave it out and take rows yourself."
        )
    if there.min() < per_type:
        have = ", ".join(f"{n} of {harm_type}" for harm_type, n in there[there < per_type].items())
        raise PromptError(
            f"test_pairs_per_type must not ask for more test pairs than there are; got {per_type}, there are {have}. "
            f"Ask for {there.min()} or fewer."
        )
    kept = set(first.pair_id[first.groupby("harm_type").cumcount() < per_type])
    return prompts[(prompts.split != "test") | prompts.pair_id.isin(kept)]
