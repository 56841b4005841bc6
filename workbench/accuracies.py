"""Whether the model still knows things: multiple-choice accuracy by the likelihood of the answer letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.encoding import Encoded, encode
from workbench.errors import FitError, PromptError
from workbench.likelihoods import Scores, continuation_log_probs, kept_scores
from workbench.measures import BASELINE, Ratio, measured
from workbench.model import describe, state
from workbench.questions import LETTERS, OPTIONS, question_prompts
from workbench.store import Store

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

VARIANTS = ("{}", " {}", "{}.", " {}.")
"""How a letter may be written; the likeliest of the four counts (Aziz, Hanif and Koto 2026, arXiv 2606.01196)."""


def utility(
    model: TransformerBridge,
    questions: pd.DataFrame,
    *,
    batch_size: int = 16,
    store: Store | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Accuracy on multiple-choice questions by language and tier, with whatever is on.

    Args:
        model: from `load_model`.
        questions: from `load_questions`.
        batch_size: questions answered together.
        store: by default the model's own.
        progress: show a bar.

    Returns:
        The columns of `measures.MEASURE_COLUMNS`; `name` is what is on, or `baseline`; the measure is `accuracy`, in
        [0, 1].

    Raises:
        PromptError: there are no questions.
    """
    name = state(model) or BASELINE
    answered = answers(model, questions, batch_size=batch_size, store=store, progress=progress)
    return accuracy_table(answered.assign(name=name), baseline=name)


def answers(
    model: TransformerBridge,
    questions: pd.DataFrame,
    *,
    batch_size: int = 16,
    store: Store | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The letter that the model finds likeliest for every question, from the store where it has it.

    The likelihood of a letter is that of the likeliest of `VARIANTS`, each over all its tokens.

    Returns:
        The question's columns but its text and options, `model`, `intervention`, `chosen` (letter), `correct`, and the
        log-likelihood of each letter, `A` .. `D`, nats.

    Raises:
        PromptError: there are no questions.
    """
    if questions.empty:
        raise PromptError("There must be questions to answer; the table is empty.")
    spellings = letter_tokens(model.tokenizer)
    tokens = sorted({spelling for known in spellings.values() for spelling in known})

    def compute(batch: list[Encoded]) -> list[Scores]:
        column = {spelling: k for k, spelling in enumerate(tokens)}
        found = continuation_log_probs(model, batch, tokens)
        best = {letter: found[:, [column[s] for s in known]].amax(1) for letter, known in spellings.items()}
        return [{letter: float(value[row]) for letter, value in best.items()} for row in range(len(batch))]

    settings = {"score": "answer letters", "variants": VARIANTS}
    encoded = encode(model, question_prompts(questions))
    scores = kept_scores(model, encoded, settings, compute, batch_size=batch_size, store=store, progress=progress)
    table = questions.drop(columns=["question", *OPTIONS]).reset_index(drop=True)
    likelihoods = pd.DataFrame(scores, columns=list(LETTERS), dtype=float)
    chosen = np.array(LETTERS)[likelihoods.to_numpy().argmax(1)]
    about = {"model": describe(model).fingerprint, "intervention": state(model)}
    return table.assign(**about, chosen=chosen, correct=chosen == table["answer"].to_numpy(), **likelihoods)


def letter_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Token ids of the ways to write each letter, less those that begin with another way and so are never likelier."""
    found = {}
    for letter in LETTERS:
        ways = {tuple(tokenizer.encode(way.format(letter), add_special_tokens=False)) for way in VARIANTS}
        found[letter] = tuple(sorted(way for way in ways if not any(way[:k] in ways for k in range(1, len(way)))))
    return found


# --- tables ----------------------------------------------------------------------------------------------------------


def accuracy_table(
    answered: pd.DataFrame, *, baseline: str = BASELINE, draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Accuracy of every run by set, language and tier, and its change against the baseline, question by question.

    Translations of a question are drawn together where intervals are bootstrapped (`measures.measured`).

    Args:
        answered: tables of `answers` with a column `name`, one below the other.
        baseline: name of the run that others are compared with.
        draws: bootstrap resamples.
        seed: of the draws.

    Returns:
        The columns of `measures.MEASURE_COLUMNS`; the measure is `accuracy`, in [0, 1].

    Raises:
        FitError: there is no baseline, a run has a question twice, or several models are mixed.
    """
    if answered["model"].nunique() != 1:
        raise FitError(f"Accuracy must be of one model; there are {answered['model'].nunique()}. Select one first.")
    outcomes = answered.assign(
        prompt_id=answered["question_id"],
        pair_id=answered["parallel_id"],
        label="",
        one=1.0,
        degenerate=0.0,
        no_verdict=False,
        correct=answered["correct"].astype(float),
    )
    return measured(outcomes, {"accuracy": Ratio("correct", share=True)}, baseline=baseline, draws=draws, seed=seed)


def comprehension(table: pd.DataFrame) -> dict[str, float]:
    """Accuracy by language from a `utility` table of one set: what `selectivity_budget` takes as `comprehension`.

    Raises:
        FitError: the table holds a language more than once: several sets or runs.
    """
    own = table[table["language"].ne("") & table["relative_to"].eq("")]
    if own["language"].duplicated().any():
        raise FitError(
            "Comprehension must be of one set and one run; this table holds a language more than once. Select one first."
        )
    return dict(zip(own["language"], own["value"].astype(float), strict=True))
