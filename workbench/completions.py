"""Generate, with or without something on -> a table of completions, kept in the store row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from workbench.encoding import Encoded, encode
from workbench.errors import PromptError
from workbench.model import changed, describe, input_device, plain, state, untouched
from workbench.parts import Intervention
from workbench.rows import KEYS
from workbench.scopes import InterventionError, Layout, reads_ahead, run_batch
from workbench.steering import steered
from workbench.store import Store, open_store

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TRACE = ("logit", "threshold", "fired", "added_norm")
"""What an intervention records of a completion: the gate's logit and threshold (nats; CAST: a cosine), whether it fired,
and the mean length of what was added to a token at a layer (residual-stream units). Missing where nothing was on."""


def complete(
    model: TransformerBridge,
    prompts: pd.DataFrame,
    *,
    max_new_tokens: int = 32,
    batch_size: int = 32,
    store: Store | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Greedy completions of every prompt, from the store where it has them, else generated and kept there.

    Prompts are batched by length and padded on the left, positions and masks given explicitly; rows that have ended
    leave the batch. Each batch is committed when done, so that a run that was stopped goes on where it was. What is on
    (`steer`, an adapter, an edit) is part of what a completion is kept under.

    Args:
        model: from `load_model`.
        prompts: a prompt table.
        max_new_tokens: at most so many tokens.
        batch_size: prompts generated together.
        store: by default the model's own.
        progress: show a bar.

    Returns:
        One row per prompt, in the order given: the keys, `text`, `model` (fingerprint), `intervention`, `completion`,
        `n_new_tokens`, `finish` (`end` or `length`) and the gate trace.

    Raises:
        PromptError: there are no prompts, or one is blank.
        InterventionError: something is on that touched nothing.
    """
    return complete_grid(
        model, prompts, [None], max_new_tokens=max_new_tokens, batch_size=batch_size, store=store, progress=progress
    )


def complete_grid(
    model: TransformerBridge,
    prompts: pd.DataFrame,
    interventions: Sequence[Intervention | None],
    *,
    max_new_tokens: int = 32,
    batch_size: int = 32,
    store: Store | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """`complete` under each of several interventions, as rows of the same batches.

    Where the interventions leave alone what comes before the last prompt token, and read nothing there, prompts are run
    once up to it and their keys and values shared by all rows of the grid. Completions are kept as `complete` keeps
    them inside `with steer(model, intervention)`, and answer for it.

    Args:
        model: from `load_model`.
        prompts: a prompt table.
        interventions: the grid, such as `[strength * add(direction) for strength in range(4)]`; None is the model as it
            is. What is on already stays on beneath.
        max_new_tokens: at most so many tokens.
        batch_size: rows generated together, a prompt under one intervention being a row.
        store: by default the model's own.
        progress: show a bar.

    Returns:
        The table of `complete` for each intervention, one below the other, in the order given.

    Raises:
        PromptError: there are no prompts, or one is blank.
        InterventionError: the grid is empty or says the same twice, or something in it touched nothing.
    """
    _check_request(prompts, interventions)
    provenance = describe(model)
    names = [_state_with(model, intervention) for intervention in interventions]
    settings = json.dumps({"decoding": "greedy", "max_new_tokens": max_new_tokens}, sort_keys=True)
    store = store or open_store(provenance)
    encoded = encode(model, list(prompts["text"]))
    by_key = {e.key: e for e in encoded}
    kept = [store.read_completions(by_key, name, settings) for name in names]
    for batch, which in _batches(by_key, kept, batch_size, progress):
        done = _greedy(model, batch, max_new_tokens, [interventions[k] for k in which])
        for k, rows in zip(which, done, strict=True):
            store.add_completions(names[k], settings, rows)
            kept[k] |= rows
    keys = prompts[[key for key in (*KEYS, "text") if key in prompts]].reset_index(drop=True)
    tables = [
        keys.assign(model=provenance.fingerprint, intervention=name, **_columns([rows[e.key] for e in encoded]))
        for name, rows in zip(names, kept, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def _check_request(prompts: pd.DataFrame, interventions: Sequence[Intervention | None]) -> None:
    if prompts.empty:
        raise PromptError("There must be prompts to complete; the table is empty.")
    if not interventions or len(set(interventions)) < len(interventions):
        raise InterventionError(
            f"A grid must hold interventions, each once; got {len(interventions)}, {len(set(interventions))} of them "
            "different. Leave out the repeated ones."
        )


def _state_with(model: TransformerBridge, intervention: Intervention | None) -> str:
    """What is on, with this on top."""
    with changed(model, str(intervention)) if intervention else nullcontext():
        return state(model)


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The columns of a table of completions that come from the store."""
    plain = {name: [row[name] for row in rows] for name in ("completion", "n_new_tokens", "finish")}
    trace = {name: [row["trace"].get(name) for row in rows] for name in TRACE}
    kinds = {"fired": "boolean"}
    return plain | {name: pd.Series(values, dtype=kinds.get(name, "float64")) for name, values in trace.items()}


def _batches(
    by_key: dict[str, Encoded], kept: Sequence[dict[str, dict]], batch_size: int, progress: bool
) -> Iterator[tuple[list[Encoded], tuple[int, ...]]]:
    """Prompts of like length, and the interventions that they all still lack."""
    from tqdm.auto import tqdm

    lacking: dict[tuple[int, ...], list[Encoded]] = {}
    for key, e in by_key.items():
        which = tuple(k for k, rows in enumerate(kept) if key not in rows)
        if which:
            lacking.setdefault(which, []).append(e)
    total = sum(len(which) * len(todo) for which, todo in lacking.items())
    with tqdm(total=total, unit="completion", desc="completions", disable=not progress or not total) as bar:
        for which, todo in lacking.items():
            todo.sort(key=lambda e: (len(e.ids), e.ids))
            size = max(1, batch_size // len(which))
            for start in range(0, len(todo), size):
                batch = todo[start : start + size]
                yield batch, which
                bar.update(len(batch) * len(which))


# --- generation ------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _greedy(
    model: TransformerBridge,
    batch: Sequence[Encoded],
    max_new_tokens: int,
    grid: Sequence[Intervention | None] = (None,),
    cached: bool = True,
) -> list[dict[str, dict]]:
    """Greedy continuation of a batch under each intervention: for each, row key -> what the store keeps of it."""
    copies = len(grid)
    running = _Generation(model, batch, cached)
    spared = all(i is None or i.spares_prompt for i in grid) and not reads_ahead(model)
    if copies > 1 and spared and cached:
        running.run_up_to_last()
    running.repeat(copies)
    with ExitStack() as stack:
        for k, intervention in enumerate(grid):
            if intervention is not None:
                rows = None if copies == 1 else range(k, copies * len(batch), copies)
                stack.enter_context(steered(model, intervention, rows))
        if untouched(model):
            stack.enter_context(plain(model))
        trace = running.run(max_new_tokens)
    texts = model.tokenizer.batch_decode(running.tokens, skip_special_tokens=True)
    done = [
        {"completion": text, "n_new_tokens": len(new), "finish": end, "trace": about}
        for text, new, end, about in zip(texts, running.tokens, running.finish, trace, strict=True)
    ]
    return [{e.key: done[place * copies + k] for place, e in enumerate(batch)} for k in range(copies)]


class _Generation:
    """A batch on its way: what is fed next, padded on the left, and what came out so far."""

    def __init__(self, model: TransformerBridge, batch: Sequence[Encoded], cached: bool) -> None:
        from transformers import DynamicCache

        self.model, self.hf, self.device = model, model.original_model, input_device(model)
        lengths = [len(e.ids) for e in batch]
        width = max(lengths)
        self.layout = Layout.padded_left(lengths, self.device, [e.key for e in batch])
        self.ids = torch.tensor([(0,) * (width - len(e.ids)) + e.ids for e in batch], device=self.device)
        columns = torch.arange(width, device=self.device)
        self.mask = (columns >= self.layout.first[:, None]).long()
        self.places = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.cache = DynamicCache() if cached else None

    def run_up_to_last(self) -> None:
        """Run the prompts without their last token, and keep their keys and values."""
        if self.ids.shape[1] == 1:
            return
        with run_batch(self.model, self.layout.before_last()):
            self._forward(slice(None, -1), self.mask[:, :-1])
        self.ids, self.places = self.ids[:, -1:], self.places[:, -1:]

    def repeat(self, copies: int) -> None:
        """Every row so many times, copies together."""
        self.layout = self.layout.repeat(copies)
        self.ids, self.mask, self.places = (t.repeat_interleave(copies, 0) for t in (self.ids, self.mask, self.places))
        if self.cache is not None and self.cache.get_seq_length() and copies > 1:
            self.cache.batch_repeat_interleave(copies)
        self.alive = list(range(len(self.ids)))
        self.tokens: list[list[int]] = [[] for _ in self.alive]
        self.finish = ["length"] * len(self.alive)

    def run(self, max_new_tokens: int) -> list[dict[str, Any]]:
        """Generate until every row has ended; returns the trace of each row."""
        ends = _end_ids(self.model)
        with run_batch(self.model, self.layout) as running:
            for step in range(max_new_tokens):
                chosen = _logits(self.hf, self._forward(slice(None), self.mask)).argmax(-1)
                stay = self._take(chosen.tolist(), ends)
                running.excused = not stay and step == 0
                if not stay or step == max_new_tokens - 1:
                    break
                if len(stay) < len(chosen):
                    running.keep(stay)
                    chosen = self._keep(stay, chosen)
                self._append(chosen)
        return running.trace

    def _forward(self, columns: slice, mask: torch.Tensor) -> torch.Tensor:
        """Final hidden state of the last of these columns, `[row, d_model]`."""
        out = self.hf.base_model(
            input_ids=self.ids[:, columns],
            attention_mask=mask,
            position_ids=self.places[:, columns],
            past_key_values=self.cache,
            use_cache=self.cache is not None,
        )
        return out.last_hidden_state[:, -1]

    def _take(self, chosen: Sequence[int], ends: set[int]) -> list[int]:
        """Note each row's next token; the places of the rows that go on."""
        stay = []
        for place, (row, token) in enumerate(zip(self.alive, chosen, strict=True)):
            if token in ends:
                self.finish[row] = "end"
            else:
                self.tokens[row].append(token)
                stay.append(place)
        return stay

    def _keep(self, stay: Sequence[int], chosen: torch.Tensor) -> torch.Tensor:
        """Rows that have ended leave."""
        index = torch.tensor(stay, device=self.device)
        if self.cache is not None:
            self.cache.batch_select_indices(index)
        self.ids, self.mask, self.places = self.ids[index], self.mask[index], self.places[index]
        self.alive = [self.alive[place] for place in stay]
        return chosen[index]

    def _append(self, chosen: torch.Tensor) -> None:
        """The chosen tokens are fed next, alone where keys and values are kept, else behind everything before them."""
        new, place = chosen[:, None], self.places[:, -1:] + 1
        keep = self.cache is None
        self.ids = torch.cat([self.ids, new], 1) if keep else new
        self.places = torch.cat([self.places, place], 1) if keep else place
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(self.mask), 1))], 1)


def _logits(hf: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Next-token logits `[row, vocabulary]` of the last hidden states `[row, d_model]`, soft cap included."""
    logits = hf.get_output_embeddings()(hidden)
    cap = getattr(hf.config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def _end_ids(model: TransformerBridge) -> set[int]:
    """Tokens that end a turn: the generation configuration's, and the tokenizer's."""
    ends = model.original_model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return {i for i in (*listed, model.tokenizer.eos_token_id) if i is not None}
