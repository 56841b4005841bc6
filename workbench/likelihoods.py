"""How likely a model finds the next token, given continuations, and given replies; all in nats, with whatever is on.

Prompts are padded on the left and given with their masks and positions, as `complete` gives them, so that an
intervention sees the same thing whether the model is scored or speaks.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from workbench.completions import _logits
from workbench.encoding import Encoded
from workbench.model import describe, input_device, state
from workbench.scopes import Layout, run_batch
from workbench.store import Store, open_store

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformer_lens.model_bridge import TransformerBridge

Scores = Mapping[str, float]
"""What is known of one row, by name."""


@torch.inference_mode()
def next_log_probs(model: TransformerBridge, batch: Sequence[Encoded]) -> Float[torch.Tensor, "row vocabulary"]:
    """Log-probabilities of the token after each prompt, float32 `[row, vocabulary]`, nats."""
    ids, mask, layout = _laid_out(batch, input_device(model))
    with run_batch(model, layout) as running:
        running.excused = True
        return _after(model, _hidden(model, ids, mask)[:, -1])


@torch.inference_mode()
def continuation_log_probs(
    model: TransformerBridge, batch: Sequence[Encoded], continuations: Sequence[Sequence[int]]
) -> Float[torch.Tensor, "row continuation"]:
    """Log-probability of each continuation of each prompt, float32 `[row, continuation]`, nats.

    Continuations share their beginnings: the prompts are run once, and each beginning once more for the whole batch.

    Args:
        model: from `load_model`.
        batch: the prompts.
        continuations: token ids, at least one each.
    """
    from transformers import DynamicCache

    assert all(len(tokens) for tokens in continuations), continuations
    ids, mask, layout = _laid_out(batch, input_device(model))
    out = torch.full((len(batch), len(continuations)), torch.nan)
    spoken = max(map(len, continuations)) > 1
    cache = DynamicCache() if spoken else None
    with run_batch(model, layout) as running:
        running.excused = not spoken
        log_probs = _after(model, _hidden(model, ids, mask, cache)[:, -1])
        _walk(model, dict(enumerate(map(tuple, continuations))), log_probs, torch.zeros(len(batch)), mask, cache, out)
    return out


def _walk(
    model: TransformerBridge,
    branches: Mapping[int, tuple[int, ...]],
    log_probs: torch.Tensor,
    so_far: torch.Tensor,
    mask: torch.Tensor,
    cache: Any,
    out: torch.Tensor,
) -> None:
    """Fill `out` for the continuations `{column: tokens left}`, which follow a common beginning worth `so_far`."""
    for token in dict.fromkeys(tokens[0] for tokens in branches.values()):
        here = so_far + log_probs[:, token].cpu()
        mine = {column: tokens[1:] for column, tokens in branches.items() if tokens[0] == token}
        for column in (column for column, left in mine.items() if not left):
            out[:, column] = here
        longer = {column: left for column, left in mine.items() if left}
        if longer:
            # A copy: other branches go on from the same beginning.
            branch = copy.deepcopy(cache)
            wider = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=1)
            after = _after(model, _hidden(model, mask.new_full((len(mask), 1), token), wider, branch)[:, -1])
            _walk(model, longer, after, here, wider, branch, out)


@torch.inference_mode()
def reply_log_probs(
    model: TransformerBridge, batch: Sequence[Encoded], replies: Sequence[Sequence[int]]
) -> list[Float[torch.Tensor, " token"]]:
    """Log-probability of every token of a reply given the prompt and the tokens before, float32 `[token]` each, nats.

    Prompt and reply are one pass; what is on takes the tokens of the reply for generated ones.

    Args:
        model: from `load_model`.
        batch: the prompts.
        replies: token ids of each reply; an empty one gives an empty tensor.
    """
    ids, mask, layout = _laid_out(batch, input_device(model), replies)
    out = []
    with run_batch(model, layout) as running:
        running.excused = not any(map(len, replies))
        hidden = _hidden(model, ids, mask)
    for row, reply in enumerate(replies):
        # Row by row, since the tokens of all replies times a vocabulary of 150,000 would not fit.
        log_probs = _after(model, hidden[row, layout.width - 1 : layout.width - 1 + len(reply)])
        said = torch.tensor(reply, dtype=torch.long, device=log_probs.device)
        out.append(log_probs.gather(1, said[:, None])[:, 0].cpu())
    return out


def _laid_out(
    batch: Sequence[Encoded], device: torch.device, replies: Sequence[Sequence[int]] = ()
) -> tuple[torch.Tensor, torch.Tensor, Layout]:
    """Token ids and mask `[row, token]`: prompts padded on the left, replies on the right of where prompts end."""
    layout = Layout.padded_left([len(e.ids) for e in batch], device, keys=[e.key for e in batch])
    ids = torch.zeros((len(batch), layout.width + max(map(len, replies), default=0)), dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for row, (e, reply) in enumerate(zip(batch, replies or [()] * len(batch), strict=True)):
        start, end = layout.width - len(e.ids), layout.width + len(reply)
        ids[row, start:end] = torch.tensor([*e.ids, *reply])
        mask[row, start:end] = 1
    return ids, mask, layout


def _hidden(model: TransformerBridge, ids: torch.Tensor, mask: torch.Tensor, cache: Any = None) -> torch.Tensor:
    """Last hidden states `[row, token, d_model]` of `ids`, which stand at the end of `mask`; `cache` has what came before."""
    places = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return model.original_model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=cache is not None
    ).last_hidden_state


def _after(model: TransformerBridge, hidden: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the next token, float32 `[..., vocabulary]`."""
    return _logits(model.original_model, hidden).float().log_softmax(-1)


# --- the store -------------------------------------------------------------------------------------------------------


def kept_scores(
    model: TransformerBridge,
    encoded: Sequence[Encoded],
    settings: Mapping[str, Any],
    compute: Callable[[list[Encoded]], Sequence[Scores]],
    *,
    on: str | None = None,
    batch_size: int = 16,
    store: Store | None = None,
    progress: bool = True,
) -> list[Scores]:
    """Scores of rows, from the store where it has them, else computed batch by batch, by length, and kept there.

    They lie beside the completions, in whose trace they are: a score is what the model says to a row, under settings
    that say how it was asked.

    Args:
        model: from `load_model`.
        encoded: the rows, repeats allowed.
        settings: what is computed and how; with the row and what is on, the key in the store.
        compute: from a batch to a score or several for each row.
        on: what is on while `compute` runs; what is on now by default.
        batch_size: rows computed together.
        store: by default the model's own.
        progress: show a bar.
    """
    store, on = store or open_store(describe(model)), state(model) if on is None else on
    said = json.dumps(dict(settings), sort_keys=True)
    kept = {key: row["trace"] for key, row in store.read_completions((e.key for e in encoded), on, said).items()}
    todo = sorted({e.key: e for e in encoded if e.key not in kept}.values(), key=lambda e: (len(e.ids), e.ids))
    for batch in _batches(todo, batch_size, str(settings["score"]), progress):
        new = {e.key: dict(scores) for e, scores in zip(batch, compute(batch), strict=True)}
        empty = {"completion": "", "n_new_tokens": 0, "finish": ""}
        store.add_completions(on, said, {key: empty | {"trace": trace} for key, trace in new.items()})
        kept |= new
    return [kept[e.key] for e in encoded]


def _batches(todo: Sequence[Encoded], size: int, what: str, progress: bool) -> Iterator[list[Encoded]]:
    from tqdm.auto import tqdm

    with tqdm(total=len(todo), unit="row", desc=what, disable=not progress or not todo) as bar:
        for start in range(0, len(todo), size):
            batch = list(todo[start : start + size])
            yield batch
            bar.update(len(batch))
