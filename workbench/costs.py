"""What a change of the model costs: perplexity of what it says, divergence on harmless prompts, seconds.

A change is given as a function that makes a context, `lambda: steer(model, intervention)`, and never guessed from what
happens to be on: what is measured outside of it, is measured without it.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.completions import complete
from workbench.encoding import Encoded, encode
from workbench.errors import PromptError
from workbench.likelihoods import Scores, kept_scores, next_log_probs, reply_log_probs
from workbench.model import describe, state
from workbench.rows import KEYS
from workbench.store import Store, open_store

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Change = Callable[[], contextlib.AbstractContextManager[Any]]
"""Makes a context in which the model is changed: `lambda: steer(model, intervention)`, `lambda: adapted(model, ...)`."""

DAMAGE_COLUMNS = ("nll", "n_reply_tokens", "kl")
"""What `damage` adds to the keys of a prompt.

nll: negative log-likelihood of the reply, nats, over all its tokens. n_reply_tokens: its tokens; both missing where the
reply has none. kl: divergence of the first token, nats; of harmless prompts.
"""


def damage(
    model: TransformerBridge,
    completions: pd.DataFrame,
    change: Change | None = None,
    *,
    batch_size: int = 16,
    store: Store | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """What replies made under a change are worth to the model without it, and how far its first token moves.

    Args:
        model: from `load_model`, without the change.
        completions: a table from `complete`, made under the change.
        change: the change; None for replies of the model itself, whose divergence is left missing.
        batch_size: rows computed together.
        store: by default the model's own.
        progress: show a bar.

    Returns:
        One row per completion, in the order given: the keys, `name` where there is one, `intervention`, and the columns
        of `DAMAGE_COLUMNS`.

    Raises:
        PromptError: there are no completions.
    """
    if completions.empty:
        raise PromptError("There must be completions to measure the damage on; the table is empty.")
    how = {"batch_size": batch_size, "store": store, "progress": progress}
    rows = completions.reset_index(drop=True)
    table = rows[[name for name in (*KEYS, "name", "intervention") if name in rows]]
    scores = reply_likelihoods(model, rows["text"].tolist(), rows["completion"].tolist(), **how)
    found = pd.DataFrame(scores, columns=["nll", "n_reply_tokens"], index=rows.index, dtype=float)
    kl = pd.Series(np.nan, index=rows.index)
    harmless = rows["label"] == "harmless"
    if change is not None and harmless.any():
        kl[harmless] = first_token_kl(model, rows["text"][harmless].tolist(), change, **how)
    return table.assign(**found.where(found["n_reply_tokens"] > 0), kl=kl)


def reply_likelihoods(
    model: TransformerBridge,
    texts: Sequence[str],
    replies: Sequence[str],
    *,
    batch_size: int = 16,
    store: Store | None = None,
    progress: bool = True,
) -> list[Scores]:
    """Negative log-likelihood (`nll`, nats) and length (`n_reply_tokens`) of replies to prompts, with whatever is on.

    The reply is encoded from its text, without the token that ends a turn.
    """
    prompts = encode(model, texts)
    tokens = [tuple(ids) for ids in model.tokenizer([*replies], add_special_tokens=False)["input_ids"]]
    # Prompt and reply are one row; where the reply begins is part of its name.
    rows = [Encoded(e.ids + reply, e.last_prompt) for e, reply in zip(prompts, tokens, strict=True)]

    def compute(batch: list[Encoded]) -> list[Scores]:
        asked = [Encoded(row.ids[: row.last_instruction + 1], row.last_instruction) for row in batch]
        said = [row.ids[row.last_instruction + 1 :] for row in batch]
        found = reply_log_probs(model, asked, said)
        return [{"nll": -float(values.double().sum()), "n_reply_tokens": len(values)} for values in found]

    settings = {"score": "reply likelihood"}
    return kept_scores(model, rows, settings, compute, batch_size=batch_size, store=store, progress=progress)


def first_token_kl(
    model: TransformerBridge,
    texts: Sequence[str],
    change: Change,
    *,
    batch_size: int = 16,
    store: Store | None = None,
    progress: bool = True,
) -> list[float]:
    """KL(model || changed model) of the first token of the reply to each prompt, nats.

    The third criterion of Arditi et al. 2024 (arXiv 2406.11717), section C, for choosing a direction.
    """

    def compute(batch: list[Encoded]) -> list[Scores]:
        plain = next_log_probs(model, batch)
        with change():
            changed = next_log_probs(model, batch)
        kl = (plain.exp() * (plain - changed)).double().sum(-1)
        return [{"kl": float(value)} for value in kl]

    before = state(model)
    with change():
        on = state(model)
    settings = {"score": "first-token divergence", "from": before}
    rows = encode(model, texts)
    found = kept_scores(model, rows, settings, compute, on=on, batch_size=batch_size, store=store, progress=progress)
    return [scores["kl"] for scores in found]


def timing(
    model: TransformerBridge,
    prompts: pd.DataFrame,
    changes: Mapping[str, Change | None],
    *,
    max_new_tokens: int = 32,
    repeats: int = 3,
) -> pd.DataFrame:
    """Seconds per prompt of completing prompts under each change; nothing comes from the store, nothing is kept.

    Runs take turns, after one that is not counted, so that a machine that grows slower does so for all of them. Replies
    that end early make a change look fast: `n_new_tokens` says how long they were.

    Args:
        model: from `load_model`.
        prompts: a few prompts; the same for all.
        changes: by name; None for the model itself.
        max_new_tokens: length of completions.
        repeats: how often.

    Returns:
        A row per name and repeat: `name`, `repeat`, `seconds` (per prompt), `n_new_tokens` (mean).
    """
    rows = []
    for repeat in range(-1, repeats):
        for name, change in changes.items():
            seconds, length = _timed(model, prompts, change, max_new_tokens)
            rows.append({"name": name, "repeat": repeat, "seconds": seconds / len(prompts), "n_new_tokens": length})
    return pd.DataFrame([row for row in rows if row["repeat"] >= 0])


def _timed(
    model: TransformerBridge, prompts: pd.DataFrame, change: Change | None, max_new_tokens: int
) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder, change() if change else contextlib.nullcontext():
        empty = open_store(describe(model), folder)
        started = time.perf_counter()
        done = complete(model, prompts, max_new_tokens=max_new_tokens, store=empty, progress=False)
        return time.perf_counter() - started, float(done["n_new_tokens"].mean())
