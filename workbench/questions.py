"""Multiple-choice questions with four options: the embedded general-knowledge set, Global-MMLU, and one's own.

A question table is a DataFrame with one row per question and language and the columns of `QUESTION_COLUMNS`.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.errors import PromptError, nearest
from workbench.files import READERS, read_table
from workbench.languages import LANGUAGES, language, tier

KNOWLEDGE = "knowledge"
GLOBAL_MMLU = "global-mmlu"
LETTERS = ("A", "B", "C", "D")
OPTIONS = tuple(f"option_{letter.lower()}" for letter in LETTERS)

QUESTION_COLUMNS = (
    *("question_id", "parallel_id", "dataset", "language", "tier", "subject", "question"),
    *OPTIONS,
    "answer",
)
"""The columns of a question table, in order.

question_id: names the question in its language. parallel_id: shared by its translations. dataset: name of the set.
language: code. tier: resource tier. subject: as the set says. question: text. option_a .. option_d: text. answer: `A` to
`D`.
"""

_DATA = Path(__file__).parent / "data" / KNOWLEDGE
_HUB = "CohereForAI/Global-MMLU"
_LISTS = ("choices", "options")
_SHOWN = 3


def load_questions(
    name_or_path: str | Path = KNOWLEDGE,
    languages: Sequence[str] | None = None,
    *,
    per_language: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """A question table by name or path.

    Args:
        name_or_path: `knowledge`, the embedded set; `global-mmlu`, from the hub (Singh et al. 2024, arXiv 2412.03304;
            its test split, which has no th, my, km); or a file, or a folder of files, laid out as Global-MMLU
            (`option_a` .. `option_d`) or as MMLU (`choices`, or `A` .. `D`). Where there is no column `language`, the
            code is read from the name of the folder or the file.
        languages: codes to keep; all of the set by default.
        per_language: draw so many questions, the same ones in every language of a parallel set; all by default.
        seed: of the draw.

    Returns:
        DataFrame with the columns of `QUESTION_COLUMNS`. `attrs["notes"]` says what was dropped and why.

    Raises:
        PromptError: the set or a language is unknown or cannot be read, a question of the embedded set is broken, or
            there are fewer questions than asked for.
    """
    if isinstance(languages, str):
        raise PromptError(f"languages must be a list of codes; got {languages!r}. Write languages=[{languages!r}].")
    wanted = [language(code).code for code in languages] if languages is not None else None
    if name_or_path == KNOWLEDGE:
        questions = _embedded(wanted)
    elif name_or_path == GLOBAL_MMLU:
        questions = _from_hub(wanted)
    else:
        questions = _from_path(Path(name_or_path))
    if wanted is not None:
        questions = _only(questions, wanted, str(name_or_path))
    return questions if per_language is None else _drawn(questions, per_language, seed)


def question_prompt(question: str, options: Sequence[str]) -> str:
    """The text a model is sent, laid out as in the utility runs of Aziz, Hanif and Koto 2026 (arXiv 2606.01196)."""
    lettered = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    return f"{question}\n\n{lettered}\n\nAnswer:"


def question_prompts(questions: pd.DataFrame) -> list[str]:
    """`question_prompt` of every row of a question table."""
    return [question_prompt(q, o) for q, o in zip(questions["question"], _options(questions), strict=True)]


# --- where they come from --------------------------------------------------------------------------------------------


def _embedded(codes: Sequence[str] | None) -> pd.DataFrame:
    have = [code for code in LANGUAGES if (_DATA / f"{code}.toml").exists()]
    lacking = [code for code in codes or () if code not in have]
    if lacking or not have:
        raise PromptError(
            f"{KNOWLEDGE} must have the languages asked for; it lacks {lacking}. It has {', '.join(have)}."
        )
    parts = []
    for code in codes or have:
        with open(_DATA / f"{code}.toml", "rb") as file:
            parts.append(pd.DataFrame(tomllib.load(file)["question"]).assign(language=code))
    table, broken = _whole(pd.concat(parts, ignore_index=True), KNOWLEDGE)
    if broken:
        raise PromptError(f"Every question of {KNOWLEDGE} must be whole; {'; '.join(broken)}. Mend its file.")
    return table


def _from_hub(codes: Sequence[str] | None) -> pd.DataFrame:
    import datasets

    codes = codes or [code for code in LANGUAGES if code in datasets.get_dataset_config_names(_HUB)]
    parts = []
    for code in codes:
        try:
            part = datasets.load_dataset(_HUB, code, split="test").to_pandas()
        except Exception as error:  # network, rights, formats: datasets lets errors of many kinds through
            raise PromptError(
                f"Global-MMLU must be readable from the hub in {code}; {type(error).__name__}: {error}. Check that it "
                "has the language, and the network, or give the path of a copy."
            ) from error
        parts.append(part.assign(language=code))
    return _loose(pd.concat(parts, ignore_index=True), GLOBAL_MMLU)


def _from_path(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise PromptError(
            f"Questions must be {KNOWLEDGE!r}, {GLOBAL_MMLU!r}, or a file or folder that is there; got {str(path)!r}. "
            f"{nearest(str(path), [KNOWLEDGE, GLOBAL_MMLU])}"
        )
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in READERS)
    # Global-MMLU keeps examples for few-shot prompts in dev; they are not questions to be scored on.
    files = [file for file in files if not re.match(r"dev\b|dev[-_]", file.stem)]
    if not files:
        raise PromptError(f"{path} must hold a question file that ends in one of {', '.join(READERS)}; it has none.")
    parts = []
    for file in files:
        part = read_table(file)
        part.columns = [name.lower() for name in part.columns]
        if "language" not in part:
            part["language"] = _language_of(file)
        parts.append(part)
    return _loose(pd.concat(parts, ignore_index=True), path.stem)


def _language_of(file: Path) -> str:
    """The code in the name of the file or of its folder."""
    for name in (file.stem, file.parent.name):
        codes = [part for part in re.split(r"[^a-z]+", name.lower()) if part in LANGUAGES]
        if codes:
            return codes[-1]
    raise PromptError(
        f"A question file must have a column language, or a code in its name or its folder's; {file} has neither. "
        f"Rename it, as in {file.stem}_sw{file.suffix}."
    )


def _loose(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Other people's table; what is broken in it is dropped, and said in `attrs["notes"]`."""
    questions, broken = _whole(table, dataset)
    if questions.empty:
        raise PromptError(f"{dataset} must hold at least one whole question; {'; '.join(broken[:_SHOWN])}.")
    questions.attrs["notes"] = [f"Dropped {len(broken)} questions: {'; '.join(broken[:_SHOWN])}."] if broken else []
    return questions


def _whole(table: pd.DataFrame, dataset: str) -> tuple[pd.DataFrame, list[str]]:
    """The questions that are whole, and what is wrong with each of the others."""
    table = _lettered(table, dataset)
    names = next((table[name] for name in ("id", "sample_id") if name in table), table.groupby("language").cumcount())
    table = table.assign(parallel_id=names.astype(str), dataset=dataset, tier=table["language"].map(tier))
    table["question_id"] = table["dataset"] + "/" + table["language"] + "/" + table["parallel_id"]
    table["subject"] = table.get("subject", pd.Series("", index=table.index)).fillna("").astype(str)
    twice = table["question_id"].duplicated()
    wrong = [
        "its id comes twice" if again else _wrong(question, options, answer)
        for again, question, options, answer in zip(
            twice, table["question"], _options(table), table["answer"], strict=True
        )
    ]
    broken = [f"{name}: {why}" for name, why in zip(table["question_id"], wrong, strict=True) if why]
    kept = table[[not why for why in wrong]].reset_index(drop=True)
    kept = kept[list(QUESTION_COLUMNS)]
    kept.attrs["notes"] = []
    return kept, broken


def _lettered(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The options in columns of their own, the answer as a letter."""
    table = table.rename(columns=dict(zip("abcd", OPTIONS, strict=True)))
    listed = next((name for name in _LISTS if name in table), None)
    if listed:
        four = [[*v, *[None] * 4][:4] if len(v) == 4 else [None] * 4 for v in map(_as_list, table[listed])]
        table = table.drop(columns=listed).assign(**dict(zip(OPTIONS, zip(*four, strict=True), strict=True)))
    lacking = [name for name in ("question", *OPTIONS, "answer") if name not in table]
    if lacking:
        raise PromptError(
            f"Questions must have the columns question, answer, and option_a .. option_d or choices; {dataset} lacks "
            f"{', '.join(lacking)} and has {', '.join(map(str, table.columns))}. Rename its columns."
        )
    unknown = sorted(set(table["language"]) - set(LANGUAGES))
    if unknown:
        raise PromptError(
            f"Languages of questions must be codes of LANGUAGES; {dataset} has {unknown}. "
            f"{nearest(str(unknown[0]), LANGUAGES)}"
        )
    return table.assign(answer=table["answer"].map(_letter))


def _as_list(value: object) -> list:
    return list(value) if isinstance(value, list | tuple | np.ndarray) else []


def _letter(answer: object) -> object:
    """`A` to `D`, also from an index 0 to 3."""
    if isinstance(answer, int | np.integer) and 0 <= answer < 4:
        return LETTERS[answer]
    return answer.strip().upper() if isinstance(answer, str) else answer


def _wrong(question: object, options: Sequence[object], answer: object) -> str:
    """What is wrong with a question, in words; empty where it is whole."""
    if not isinstance(question, str) or not question.strip():
        return "it has no text"
    if not all(isinstance(option, str) and option.strip() for option in options):
        return "it does not have four options"
    if len({str(option).strip().casefold() for option in options}) < 4:
        return "two options are the same"
    return "" if answer in LETTERS else f"its answer is {answer!r}, not a letter from A to D"


def _only(questions: pd.DataFrame, codes: Sequence[str], name: str) -> pd.DataFrame:
    have = set(questions["language"])
    lacking = [code for code in codes if code not in have]
    if lacking:
        raise PromptError(
            f"{name} must have the languages asked for; it lacks {lacking}. It has {', '.join(sorted(have))}."
        )
    kept = questions[questions["language"].isin(codes)].reset_index(drop=True)
    kept.attrs["notes"] = questions.attrs["notes"]
    return kept


def _drawn(questions: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """The first `n` of each language by a hash of the parallel id, so that languages share what they have in common."""
    sizes = questions.groupby("language").size()
    if n < 1 or sizes.min() < n:
        raise PromptError(
            f"per_language must be between 1 and the questions there are; got {n}, {sizes.idxmin()} has {sizes.min()}."
        )
    order = questions["parallel_id"].map(lambda name: hashlib.sha256(f"{seed}|{name}".encode()).hexdigest())
    rank = order.groupby(questions["language"]).rank(method="first")
    kept = questions[rank <= n].reset_index(drop=True)
    kept.attrs["notes"] = questions.attrs["notes"]
    return kept


def _options(questions: pd.DataFrame) -> list[tuple]:
    return list(questions[list(OPTIONS)].itertuples(index=False, name=None))
