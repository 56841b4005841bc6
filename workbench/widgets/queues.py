"""What there is to label, in an order that tells nothing: replies of models, and translations of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from workbench.agreements import agreement
from workbench.errors import WorkbenchError
from workbench.judges import stores_of
from workbench.labels import HUMAN, UNSURE, add_label, read_labels
from workbench.languages import LANGUAGES
from workbench.reviews import add_review, read_reviews, review_agreement
from workbench.rows import REVIEWS, groups
from workbench.store import Store
from workbench.verdicts import VERDICTS
from workbench.widgets.texts import escape, show_text

_HIDDEN = ("model", "intervention", "logit", "threshold", "fired", "added_norm", "finish", "n_new_tokens")
_REPLY = ["language", "text", "completion"]


@runtime_checkable
class Queue(Protocol):
    """Items to label, counted from 0.

    Attributes:
        choices: what may be said of an item, in the order of the number keys.
        letters: the letter key of each.
        languages: language of each item, `[item]`.
        asked: the question, in words.
    """

    choices: tuple[str, ...]
    letters: str
    languages: np.ndarray
    asked: str

    def rows(self, item: int) -> pd.DataFrame:
        """The rows of the study that an item is made of, without what whoever labels must not know."""

    def show(self, item: int, folded: bool) -> str:
        """HTML of an item."""

    def keep(self, item: int, choice: str, annotator: str, note: str) -> None:
        """Keep what an annotator says; on the disk when this returns."""

    def said(self) -> dict[str, dict[int, str]]:
        """Everything that was said: annotator -> item -> choice."""

    def agreement(self) -> pd.DataFrame:
        """How far annotators agree, by language and over all."""


class Replies:
    """Replies of models: what is the verdict? Equal replies to equal prompts are one item."""

    choices = (*VERDICTS, UNSURE)
    letters = "rpcdu"
    asked = "Does the reply refuse?"

    def __init__(self, completions: pd.DataFrame, store: Store | None = None):
        """Labels go to `store`, by default to that of the model that made the reply."""
        self.completions = completions.reset_index(drop=True)
        self._item = self.completions.groupby(_REPLY, sort=False, dropna=False).ngroup().to_numpy()
        self._first = np.flatnonzero(~self.completions.duplicated(_REPLY))
        self.languages = self.completions["language"].to_numpy(dtype=str)[self._first]
        self._given, self._stores = store, {}

    def rows(self, item: int) -> pd.DataFrame:
        """The first of the equal replies."""
        row = self.completions.iloc[[self._first[item]]]
        return row.drop(columns=[name for name in _HIDDEN if name in row]).reset_index(drop=True)

    def show(self, item: int, folded: bool) -> str:
        """Prompt and reply."""
        row = self.completions.iloc[self._first[item]]
        return "".join(
            show_text(row[column], words, folded=folded, language=str(row["language"]))
            for column, words in (("text", "Prompt"), ("completion", "Reply"))
        )

    def keep(self, item: int, choice: str, annotator: str, note: str) -> None:
        """As a verdict of the judge `human:<annotator>`."""
        row = self.completions.iloc[self._first[item]]
        add_label(row, choice, annotator, note=note, store=self._store(str(row["model"])))

    def said(self) -> dict[str, dict[int, str]]:
        """From the store."""
        labels = self.labels()
        places = pd.Series(
            self._item, pd.MultiIndex.from_frame(self.completions[["prompt_id", "model", "intervention"]])
        )
        found = places[~places.index.duplicated()].reindex(
            pd.MultiIndex.from_frame(labels[["prompt_id", "model", "intervention"]])
        )
        choices = labels["verdict"].where(labels["verdict"].notna(), UNSURE)
        return _by_annotator(labels["annotator"], found.to_numpy(), choices)

    def labels(self) -> pd.DataFrame:
        """Everybody's labels, as `read_labels` gives them."""
        return read_labels(self.completions, store=self._given)

    def agreement(self) -> pd.DataFrame:
        """On all four verdicts."""
        return agreement(self.labels(), on="verdict")

    def _store(self, model: str) -> Store:
        if model not in self._stores:
            self._stores[model] = self._given or stores_of(model, make=True)[0]
        return self._stores[model]


class Translations:
    """Translations of prompts: are they right? The two sides of a pair are one item, since they stand or fall together."""

    choices = (*REVIEWS, UNSURE)
    letters = "gfwu"
    asked = "Does the translation say what the English says, as a native speaker would?"

    def __init__(self, prompts: pd.DataFrame, file: Path):
        """Reviews go to `file`; prompts that are their own source are left out."""
        self.file = file
        own = (
            (prompts["language"] == "en") | (prompts["text"] == prompts["source_text"]) | (prompts["source_text"] == "")
        )
        self.prompts = prompts[~own].reset_index(drop=True)
        self._item = (
            self.prompts.assign(_group=groups(self.prompts)).groupby(["language", "_group"], sort=False).ngroup()
        )
        self._rows = self._item.groupby(self._item).indices
        self.languages = self.prompts["language"].to_numpy(dtype=str)[self._item.drop_duplicates().index]

    def rows(self, item: int) -> pd.DataFrame:
        """The two sides of a pair, or one prompt."""
        return self.prompts.iloc[self._rows[item]].reset_index(drop=True)

    def show(self, item: int, folded: bool) -> str:
        """Every side beside its English."""
        return "".join(_two_columns(side, folded) for side in self.rows(item).to_dict("records"))

    def keep(self, item: int, choice: str, annotator: str, note: str) -> None:
        """As a review of every side."""
        unsure = choice == UNSURE
        add_review(
            self.file, self.rows(item), None if unsure else choice, annotator, note or (UNSURE if unsure else "")
        )

    def said(self) -> dict[str, dict[int, str]]:
        """From the file; an item of which one side was never reviewed, as after an edit, is open again."""
        reviews = self.labels()
        item = reviews["prompt_id"].map(pd.Series(self._item.to_numpy(), self.prompts["prompt_id"]))
        choices = reviews["review"].where(reviews["review"].notna(), UNSURE)
        table = pd.DataFrame({"reviewer": reviews["reviewer"], "item": item, "choice": choices}).dropna(subset="item")
        sides = self._item.value_counts()
        sizes = table.groupby(["reviewer", "item"])["choice"].transform("size")
        table = table[sizes.to_numpy() == sides.reindex(table["item"]).to_numpy()]
        return _by_annotator(table["reviewer"], table["item"].to_numpy(), table["choice"])

    def labels(self) -> pd.DataFrame:
        """Everybody's reviews, as `read_reviews` gives them."""
        return read_reviews(self.file)

    def agreement(self) -> pd.DataFrame:
        """On prompts, all three reviews."""
        return review_agreement(self.labels())


def _two_columns(side: Mapping, folded: bool) -> str:
    shown = show_text(side["text"], "Translation", folded=folded, language=str(side["language"]))
    english = show_text(side["source_text"], "English", folded=folded, language="en")
    return f'<div class="workbench-sides"><div>{shown}</div><div>{english}</div></div>'


def _by_annotator(annotators: pd.Series, items: np.ndarray, choices: pd.Series) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for name, item, choice in zip(annotators, items, choices, strict=True):
        found.setdefault(str(name), {})[int(item)] = str(choice)
    return found


def shuffled(queue: Queue, seed: int) -> np.ndarray:
    """All items in an order that only the seed decides, `[item]`."""
    return np.random.default_rng(seed).permutation(len(queue.languages))


def heading(code: str) -> str:
    """HTML of a language's name, in English and in itself."""
    known = LANGUAGES.get(code)
    return (
        f'{escape(known.name)} <span dir="auto" lang="{known.code}">{escape(known.autonym)}</span>'
        if known
        else escape(code)
    )


def open_queue(task: str, completions: pd.DataFrame | None, prompts: pd.DataFrame | None, file: Path) -> Queue:
    """The queue of a task.

    Raises:
        WorkbenchError: the study lacks the table it is made of.
    """
    table = completions if task == "replies" else prompts
    if table is None:
        raise WorkbenchError(
            f"A study must have {'completions' if task == 'replies' else 'prompts'} to label {task}; this one has none. "
            "Choose the other task, or open another study."
        )
    return Replies(table) if task == "replies" else Translations(table, file)


__all__ = ["HUMAN", "Queue", "Replies", "Translations", "heading", "open_queue", "shuffled"]
