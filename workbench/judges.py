"""Completions -> verdicts. Each judge declares the languages it reads, and never guesses outside them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from workbench.errors import JudgeError, nearest
from workbench.languages import LANGUAGES
from workbench.provenance import Provenance
from workbench.rows import KEYS
from workbench.store import Store, find_stores, open_store
from workbench.verdicts import VERDICTS

FIELDS = ("verdict", "raw", "reason", "reply_language")
"""What a reading holds, and what the store keeps of it."""

Readings = Mapping[int, dict]
"""A batch of readings: position of the row among those that were given -> its reading."""


@dataclass(frozen=True)
class Judge:
    """Something that reads replies.

    Attributes:
        name: with its version; verdicts are kept under it.
        languages: codes of the prompt languages it can read; replies to others stay missing.
        read: from rows with `text`, `language` and `completion` to batches of readings, made with `reading`, in any
            order. A batch is kept as soon as it comes, so that what follows cannot lose it.
        reads_prompt: whether the verdict on a reply depends on the prompt, `text`, too.
        costly: whether verdicts cost money, minutes or a person's time: they are kept even where the model that made
            the completions has no store.
    """

    name: str
    languages: frozenset[str]
    read: Callable[[pd.DataFrame], Iterable[Readings]]
    reads_prompt: bool = False
    costly: bool = False


def reading(
    verdict: str | None, raw: str = "", reason: str = "", reply_language: str | None = None, *, retry: bool = False
) -> dict:
    """What a judge says of one reply.

    Args:
        verdict: one of `VERDICTS`, None where the judge cannot say.
        raw: what it said, or the pattern that fired.
        reason: why the verdict is missing, else empty.
        reply_language: code of the language the reply is in; None where unclear.
        retry: the reply was not read, for a reason that may pass; nothing is kept, and a rerun reads it again.

    Raises:
        JudgeError: the verdict is none of `VERDICTS`.
    """
    if verdict is not None and verdict not in VERDICTS:
        raise JudgeError(f"A verdict must be one of {', '.join(VERDICTS)}, or None; got {verdict!r}.")
    return {"verdict": verdict, "raw": raw, "reason": reason, "reply_language": reply_language, "retry": retry}


def lexicon_judge() -> Judge:
    """A judge that knows refusals by their wording, in every language of the study, English always included."""
    from workbench import lexicon

    def read(rows: pd.DataFrame) -> Iterable[Readings]:
        found = [
            lexicon.read_reply(text, code) for text, code in zip(rows["completion"], rows["language"], strict=True)
        ]
        yield {i: reading(r.verdict, r.pattern, reply_language=r.reply_language) for i, r in enumerate(found)}

    return Judge(f"lexicon-{lexicon.version()}", frozenset(lexicon.languages()), read)


def constant_judge(verdict: str = "refusal") -> Judge:
    """A control: a judge that always says the same, so that a table can be seen to depend on the judge."""

    def read(rows: pd.DataFrame) -> Iterable[Readings]:
        yield {i: reading(verdict) for i in range(len(rows))}

    return Judge(f"always-{verdict}", frozenset(LANGUAGES), read)


def judge(completions: pd.DataFrame, by: Judge, *, store: Store | None = None) -> pd.DataFrame:
    """Verdicts on completions, from the store where it has them, else read now and kept there batch by batch.

    Args:
        completions: a table from `complete` or `read_completions`.
        by: the judge.
        store: where verdicts are kept; by default the stores of the models that made the completions, if they are here.

    Returns:
        One row per completion, in the order given: the keys, `model`, `intervention`, `judge`, `verdict` (None where the
        judge cannot say), `raw`, `reason`, `reply_language`.

    Raises:
        JudgeError: columns are missing, or the judge cannot work at all. What was read until then is kept.
    """
    check_columns(completions, "text" if by.reads_prompt else "completion")
    rows = completions.reset_index(drop=True)
    keys = pd.Series(reply_keys(rows, by.reads_prompt), index=rows.index, dtype=object)
    stores = {model: [store] if store else stores_of(model, make=by.costly) for model in rows["model"].unique()}
    readings: dict[str, dict] = {}
    for found in {kept.path: kept for model in stores for kept in stores[model]}.values():
        readings |= found.read_verdicts(keys, by.name)
    todo = rows[~keys.isin(readings) & rows["language"].isin(by.languages) & ~keys.duplicated()]
    for batch in by.read(todo.reset_index(drop=True)) if len(todo) else ():
        new = {keys[todo.index[place]]: found for place, found in batch.items()}
        for model, (first, *_) in ((m, s) for m, s in stores.items() if s):
            mine = keys[(rows["model"] == model) & keys.isin(new)]
            if lasting := {key: new[key] for key in mine if not new[key].get("retry")}:
                first.add_verdicts(by.name, lasting)
        readings |= new
    mine = [readings.get(key) or _unread(by, code) for key, code in zip(keys, rows["language"], strict=True)]
    return verdict_table(rows, by.name, mine)


def verdict_table(rows: pd.DataFrame, judge: str, readings: Iterable[Mapping]) -> pd.DataFrame:
    """A table of verdicts: the keys of the rows, the judge, and its reading of each."""
    names, readings = [key for key in (*KEYS, "model", "intervention") if key in rows], list(readings)
    fields = {field: pd.Series([r.get(field) for r in readings], rows.index, dtype=object) for field in FIELDS}
    return rows[names].assign(judge=judge, **fields)


def degenerate_replies(rows: pd.DataFrame) -> dict[int, dict]:
    """Readings of the replies that are none (empty, looping, in a foreign script): they need no judge of refusals.

    A judge of refusals calls them "not refused", which would pass for an answer.
    """
    from workbench.replies import degenerate

    faults = [degenerate(text, code) for text, code in zip(rows["completion"], rows["language"], strict=True)]
    return {i: reading("degenerate", raw=fault) for i, fault in enumerate(faults) if fault}


def check_columns(completions: pd.DataFrame, *more: str) -> None:
    """Raise a JudgeError unless the table has what judging takes."""
    needed = dict.fromkeys(("language", "completion", "model", "intervention", *more))
    lacking = [column for column in needed if column not in completions]
    if lacking:
        raise JudgeError(f"Completions must have the columns {', '.join(needed)}; these lack {', '.join(lacking)}.")


def check_languages(codes: Collection[str]) -> frozenset[str]:
    """The codes as a set.

    Raises:
        JudgeError: one is unknown, or there is none.
    """
    if isinstance(codes, str) or not codes:
        raise JudgeError(f"A judge must declare the languages it reads, as a list of codes; got {codes!r}.")
    unknown = [code for code in codes if code not in LANGUAGES]
    if unknown:
        raise JudgeError(
            f"A judge's languages must be codes of LANGUAGES; got {unknown[0]!r}. {nearest(unknown[0], LANGUAGES)}"
        )
    return frozenset(codes)


# --- where verdicts are kept -----------------------------------------------------------------------------------------


def reply_keys(rows: pd.DataFrame, with_prompt: bool) -> list[str]:
    """What names each reply in the store: its language and text, and the prompt's text where it matters."""
    columns = ["language", "completion", *(["text"] if with_prompt else [])]
    parts = zip(*(rows[column] for column in columns), strict=True)
    return [hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:32] for texts in parts]


def stores_of(model: str, *, make: bool = False) -> list[Store]:
    """The stores that keep verdicts on a model's completions, the model's own before the one for models elsewhere.

    Args:
        model: fingerprint, or the name of a model that is not here (`read_completions`).
        make: make a store for a model elsewhere if there is none at all.
    """
    elsewhere = Provenance(
        name=model, source="elsewhere", weights=f"not here: {model}", processing="", dtype="", template="", site="",
        versions=(), n_layers=0, d_model=0, device="",
    )  # fmt: skip
    found = {kept.provenance.fingerprint: kept for kept in find_stores()}
    both = [found[name] for name in (model, elsewhere.fingerprint) if name in found]
    return both or ([open_store(elsewhere)] if make else [])


def _unread(by: Judge, code: str) -> dict:
    return reading(
        None, reason=f"{by.name} " + ("gave no reading" if code in by.languages else f"does not read {code}")
    )
