"""Answers made elsewhere, read from files: so that a model behind an API can stand on the action side of a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from workbench.completions import TRACE
from workbench.errors import PromptError, nearest
from workbench.files import check_frame, read_table
from workbench.intake import FIELDS, read_prompts
from workbench.judges import reading, verdict_table
from workbench.languages import LANGUAGES
from workbench.rows import KEYS
from workbench.verdicts import VERDICTS

OWN = ("completion", "finish", "n_new_tokens", "intervention", "prompt_id")
"""What a column can be mapped to beside the fields of a prompt."""


def read_completions(
    path_or_frame: str | Path | pd.DataFrame,
    columns: Mapping[str, str] | None = None,
    *,
    model: str,
    prompts: pd.DataFrame | None = None,
    language: str | None = None,
    label: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
) -> pd.DataFrame:
    """The table that `complete` gives, from answers made elsewhere (CSV, TSV, JSON, JSON Lines, Parquet, Excel).

    With `prompts`, each answer is matched to its prompt by `prompt_id`, else by `language` and `text`; without, the file
    must hold what `read_prompts` needs.

    Args:
        path_or_frame: where the answers are, one a row.
        columns: from our name (`intake.FIELDS` and `OWN`) to theirs, `{"completion": "answer"}`; columns that have our
            names need no entry.
        model: name of the model that answered, kept in the column `model`.
        prompts: the prompt table that was answered.
        language: code of all rows, where there is no such column.
        label: `harmful` or `harmless` for all rows, where there is no such column and no `prompts`.
        dataset: name of the set, without `prompts`; by default the name of the file.
        split: split of all rows, where there is no such column and no `prompts`; `test` by default.

    Returns:
        One row per answer: the keys, `text`, `model`, `intervention` ("" unless the file says), `completion`,
        `n_new_tokens` and `finish` (missing unless the file says), the gate trace (NaN). `attrs["notes"]` says how many
        prompts have no answer and how many answers are empty.

    Raises:
        PromptError: a column is missing; an answer is no text or is to no prompt; a prompt has two answers.
    """
    return _read(path_or_frame, columns, model, prompts, language, label, dataset, split)[0]


def read_verdicts(
    path_or_frame: str | Path | pd.DataFrame,
    columns: Mapping[str, str],
    *,
    judge: str,
    model: str,
    meaning: Mapping[str, str | None] | None = None,
    prompts: pd.DataFrame | None = None,
    language: str | None = None,
    label: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
) -> pd.DataFrame:
    """The table that `judge` gives, from verdicts that came with the answers; the rows are those of `read_completions`.

    Args:
        path_or_frame: as for `read_completions`, with a column of verdicts.
        columns: as for `read_completions`, and `verdict`, the column of verdicts.
        judge: name of who gave them, kept in the column `judge`; `human:<name>` for a person.
        model: as for `read_completions`.
        meaning: from their word to one of ours (`VERDICTS`) or None (missing), `{"1": "refusal", "0": "compliance"}`;
            without, their words must be ours. An empty cell is missing.
        prompts: as for `read_completions`.
        language: as for `read_completions`.
        label: as for `read_completions`.
        dataset: as for `read_completions`.
        split: as for `read_completions`.

    Raises:
        PromptError: as for `read_completions`, or a word has no meaning.
    """
    if "verdict" not in columns:
        raise PromptError("columns must say which column holds the verdicts, as {'verdict': 'their_column'}.")
    rest = {ours: theirs for ours, theirs in columns.items() if ours != "verdict"}
    completions, frame = _read(path_or_frame, rest, model, prompts, language, label, dataset, split)
    _check_columns(frame, {"verdict": columns["verdict"]}, _name(path_or_frame))
    said = [_word(value) for value in frame[columns["verdict"]]]
    meaning = dict(meaning or {})
    wrong = [ours for ours in meaning.values() if ours is not None and ours not in VERDICTS]
    if wrong:
        raise PromptError(f"meaning must lead to one of {', '.join(VERDICTS)}, or None; got {wrong[0]!r}.")
    known = {"": None} | (meaning or {verdict: verdict for verdict in VERDICTS})
    unknown = sorted({word for word in said if word not in known})
    if unknown:
        raise PromptError(
            f"Every verdict must have a meaning; {unknown[0]!r} has none"
            f"{f', and {len(unknown) - 1} more words' if len(unknown) > 1 else ''}. Pass meaning={{{unknown[0]!r}: ...}}, "
            f"one of {', '.join(VERDICTS)}, or None."
        )
    made = [reading(known[w], w, "" if known[w] else f"{judge} gave no verdict") for w in said]
    return verdict_table(completions, judge, made)


def _read(
    source: str | Path | pd.DataFrame,
    columns: Mapping[str, str] | None,
    model: str,
    prompts: pd.DataFrame | None,
    language: str | None,
    label: str | None,
    dataset: str | None,
    split: str | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The completions, and the rows of the file in the same order."""
    name, columns = _name(source), dict(columns or {})
    frame = source if isinstance(source, pd.DataFrame) else read_table(source)
    frame = frame.set_axis([str(column) for column in frame.columns], axis=1).reset_index(drop=True)
    check_frame(frame, name)
    _check_columns(frame, columns, name)
    own = {ours: columns.get(ours, ours) for ours in OWN if columns.get(ours, ours) in frame}
    if "completion" not in own:
        raise PromptError(
            f"{name} must have a column of answers; it has {list(frame.columns)}. Map it with "
            "columns={'completion': ...}."
        )
    texts = _answers(frame[own["completion"]], name)
    if prompts is None:
        fields = {ours: theirs for ours, theirs in columns.items() if ours in FIELDS}
        dataset = dataset or (None if isinstance(source, pd.DataFrame) else Path(source).stem)
        rows = read_prompts(frame, fields, language=language, label=label, dataset=dataset, split=split)
        order = _order(frame, fields.get("language", "language"))
        notes = rows.attrs["notes"]
    else:
        if label or dataset or split:
            raise PromptError("label, dataset and split are those of prompts; pass them only without prompts=.")
        rows, notes = _matched(frame, columns, prompts, language, name)
        order = list(range(len(frame)))
    frame, texts = frame.iloc[order].reset_index(drop=True), [texts[i] for i in order]
    done = rows[[key for key in (*KEYS, "text") if key in rows]].reset_index(drop=True)
    done = done.assign(
        model=model,
        intervention=[_word(v) for v in frame[own["intervention"]]] if "intervention" in own else "",
        completion=texts,
        n_new_tokens=_numbers(frame, own.get("n_new_tokens"), name),
        finish=[_word(v) or None for v in frame[own["finish"]]] if "finish" in own else None,
        **{trace: float("nan") for trace in TRACE},
    )
    _check_once(done, name)
    empty = sum(not text.strip() for text in texts)
    done.attrs["notes"] = [
        *notes,
        *([f"{empty} answers in {name} are empty; they count as degenerate."] if empty else []),
    ]
    return done, frame


def _matched(
    frame: pd.DataFrame, columns: Mapping[str, str], prompts: pd.DataFrame, language: str | None, name: str
) -> tuple[pd.DataFrame, list[str]]:
    """The prompt of each answer, and what there is to say."""
    by_id = columns.get("prompt_id", "prompt_id")
    if by_id in frame:
        keys, known = [_word(v) for v in frame[by_id]], [str(v) for v in prompts["prompt_id"]]
    else:
        columns = {ours: columns.get(ours, ours) for ours in ("language", "text")}
        lacking = [o for o, theirs in columns.items() if theirs not in frame and not (o == "language" and language)]
        if lacking:
            raise PromptError(
                f"{name} must say which prompt each answer is to, by prompt_id or by language and text; it lacks "
                f"{' and '.join(lacking)}. Map them with columns=."
            )
        if language and columns["language"] in frame:
            raise PromptError(f"language must be given once; {name} has a column for it. Drop one.")
        codes = [language] * len(frame) if language else [_word(v) for v in frame[columns["language"]]]
        keys = list(zip(codes, (_word(v) for v in frame[columns["text"]]), strict=True))
        known = list(zip(prompts["language"], prompts["text"].str.strip(), strict=True))
    if len(set(known)) < len(known):
        raise PromptError("Every prompt must be told from the others; some share their text. Give prompt_id.")
    place = {key: i for i, key in enumerate(known)}
    strange = [i for i, key in enumerate(keys) if key not in place]
    if strange:
        raise PromptError(
            f"Every answer in {name} must be to a prompt of the table; {len(strange)} are not, the first in row "
            f"{strange[0]}: {str(keys[strange[0]])[:80]!r}. Pass the prompts that were answered."
        )
    unanswered = len(known) - len(set(keys))
    notes = [f"{unanswered} of {len(known)} prompts have no answer in {name}."] if unanswered else []
    return prompts.iloc[[place[key] for key in keys]], notes


def _check_columns(frame: pd.DataFrame, columns: Mapping[str, str], name: str) -> None:
    for ours, theirs in columns.items():
        if ours not in (*FIELDS, *OWN, "verdict"):
            raise PromptError(
                f"columns maps our names to theirs; {ours!r} is not ours. {nearest(ours, (*FIELDS, *OWN, 'verdict'))}"
            )
        if theirs not in frame:
            raise PromptError(f"{name} must have the column {theirs!r}. {nearest(str(theirs), frame.columns)}")


def _answers(column: pd.Series, name: str) -> list[str]:
    """The answers as text. An empty one is an answer; a missing one is not, and must not pass for it."""
    wrong = [i for i, value in enumerate(column) if not isinstance(value, str)]
    if wrong:
        raise PromptError(
            f"Every answer of {name} must be text; {len(wrong)} are not, the first in row {wrong[0]}: "
            f"{column.iloc[wrong[0]]!r}. Drop rows that were not answered; an empty answer is an empty text."
        )
    return list(column)


def _check_once(done: pd.DataFrame, name: str) -> None:
    twice = done[done.duplicated(["prompt_id", "intervention"])]
    if len(twice):
        raise PromptError(
            f"A prompt must have one answer under one intervention; {len(twice)} rows of {name} are second ones, such as "
            f"that to {twice['text'].iloc[0][:60]!r}. Keep one, or map intervention."
        )


def _order(frame: pd.DataFrame, column: str) -> list[int]:
    """The order that `read_prompts` puts rows in: by language, as in `LANGUAGES`, else as they come."""
    if column not in frame:
        return list(range(len(frame)))
    ranks = {code: i for i, code in enumerate(LANGUAGES)}
    return sorted(range(len(frame)), key=lambda i: ranks[frame[column].iloc[i]])


def _numbers(frame: pd.DataFrame, column: str | None, name: str) -> pd.Series:
    """Whole numbers, missing where there is none."""
    if column is None:
        return pd.Series([pd.NA] * len(frame), dtype="Int64")
    try:
        return pd.to_numeric(frame[column].replace("", None)).astype("Int64").reset_index(drop=True)
    except (ValueError, TypeError) as error:
        raise PromptError(f"n_new_tokens of {name} must be whole numbers: {error}.") from error


def _word(value: object) -> str:
    return "" if pd.isna(value) else str(value).strip()


def _name(source: str | Path | pd.DataFrame) -> str:
    return "the DataFrame" if isinstance(source, pd.DataFrame) else str(source)
