"""The forward passes behind `cache_activations`: batches by length, the shared prefix once, only wanted positions kept.

Prompts are padded on the right, where causal attention cannot see the padding, so that no mask is needed and every vector
is that of the prompt alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from workbench.batches import BudgetSearch, next_batch
from workbench.encoding import Encoded
from workbench.model import SITES, input_device, plain, untouched
from workbench.scopes import Layout, reads_ahead, run_batch

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class _StopForward(Exception):  # noqa: N818 - not an error: nothing after the last wanted layer is needed
    pass


class Capture:
    """The forward passes: which prompts, which layers and positions, and what they share."""

    def __init__(
        self,
        model: TransformerBridge,
        prompts: Sequence[Encoded],
        layers: Sequence[int],
        positions: Sequence[str],
        site: str,
    ) -> None:
        self.model, self.layers, self.positions, self.site = model, tuple(layers), tuple(positions), site
        self.prompts = sorted({e.key: e for e in prompts}.values(), key=lambda e: (len(e.ids), e.ids))
        self.device = input_device(model)
        # Steering that lets a later token decide about earlier ones needs each prompt whole.
        self.prefix = self._shared() if len(prompts) > 1 and not reads_ahead(model) else ()

    def _shared(self) -> tuple[int, ...]:
        """What all prompts begin with; each keeps a token of its own, and its positions do not lie inside."""
        shared = os.path.commonprefix([e.ids for e in self.prompts])  # noqa: RUF071 - token ids, not paths
        return shared[: min(min(e.last_instruction for e in self.prompts), len(shared))]

    def run(
        self, budget: int | None, still_missing: Callable[[list[str]], set[str]], backwards: bool = False
    ) -> Iterator[tuple[list[Encoded], dict[tuple[int, str], torch.Tensor] | None]]:
        """Yield batches and their vectors, `[row, d_model]` on the CPU for each (layer, position).

        Vectors are None where another process has filled the batch in meanwhile. `backwards` begins with the longest
        prompts: two processes that start at both ends do not run the same batches side by side.
        """
        prefix = self._run_prefix()
        search = BudgetSearch(self.device.type, budget)
        waiting = [(e, len(e.ids) - len(self.prefix)) for e in self.prompts]
        while waiting:
            batch = [e for e, _ in next_batch(waiting, search.budget, backwards)]
            needed = still_missing([e.key for e in batch])
            todo = [e for e in batch if e.key in needed]
            started = time.monotonic()
            try:
                vectors = self.forward(todo, prefix) if todo else None
            except torch.OutOfMemoryError:
                search.halve(len(batch))
                continue
            waiting = waiting[: -len(batch)] if backwards else waiting[len(batch) :]
            if todo:
                search.record(sum(len(e.ids) - len(self.prefix) for e in todo), time.monotonic() - started)
            if len(todo) < len(batch):
                yield [e for e in batch if e.key not in needed], None
            if todo:
                yield todo, vectors

    def _run_prefix(self) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], dict[int, torch.Tensor]]:
        """Keys and values of the shared prefix, and the sum over its tokens at every wanted layer."""
        if not self.prefix:
            return [], {}
        cache = _cache(self.model)
        seen: dict[int, torch.Tensor] = {}
        with run_batch(self.model, Layout.prefix(self.device)):
            self._run_hooked(torch.tensor([self.prefix], device=self.device), 0, cache, seen)
        sums = {layer: v[0].float().sum(0) for layer, v in seen.items()}
        return [(layer.keys, layer.values) for layer in cache.layers], sums

    @torch.inference_mode()
    def forward(
        self, batch: Sequence[Encoded], prefix: tuple[list[tuple[torch.Tensor, torch.Tensor]], dict[int, torch.Tensor]]
    ) -> dict[tuple[int, str], torch.Tensor]:
        """One batch behind a prefix that was run before: `[row, d_model]` on the CPU for each (layer, position)."""
        start = len(self.prefix)
        lengths = torch.tensor([len(e.ids) - start for e in batch], device=self.device)
        ids = torch.zeros((len(batch), int(lengths.max())), dtype=torch.long, device=self.device)
        for row, e in enumerate(batch):
            ids[row, : len(e.ids) - start] = torch.tensor(e.ids[start:])
        cache = None
        if prefix[0]:
            cache = _cache(
                self.model, [(k.expand(len(batch), -1, -1, -1), v.expand(len(batch), -1, -1, -1)) for k, v in prefix[0]]
            )
        last = torch.tensor([e.last_instruction - start for e in batch], device=self.device)
        real = torch.arange(ids.shape[1], device=self.device)[None] < lengths[:, None]
        seen: dict[int, dict[str, torch.Tensor]] = {}

        def take(value: torch.Tensor) -> dict[str, torch.Tensor]:
            return {position: _take(value, position, last, lengths, real) for position in self.positions}

        layout = Layout.padded_right(start + lengths - 1, [e.key for e in batch])
        with run_batch(self.model, layout):
            self._run_hooked(ids, start, cache, seen, take)
        out = {}
        for layer, taken in seen.items():
            for position, value in taken.items():
                if position == "prompt_mean":
                    sums = value + prefix[1][layer].to(value.device) if prefix[1] else value
                    value = sums / (lengths.to(value.device)[:, None] + start)
                out[layer, position] = value
        return _to_cpu(out)

    @torch.inference_mode()
    def _run_hooked(
        self,
        ids: torch.Tensor,
        start: int,
        cache: Any,
        seen: dict[int, Any],
        take: Callable[[torch.Tensor], Any] = lambda v: v,
    ) -> None:
        """One forward pass without LM head that stops after the last wanted layer, unless keys and values are wanted."""
        last, whole = max(self.layers), cache is not None and start == 0

        def watch(layer: int, value: torch.Tensor) -> None:
            seen[layer] = take(value)
            if layer == last and not whole:
                raise _StopForward

        places = torch.arange(start, start + ids.shape[1], device=ids.device)[None].expand(len(ids), -1)
        with self._watched(watch), contextlib.suppress(_StopForward):
            self.model.original_model.base_model(
                input_ids=ids, position_ids=places, past_key_values=cache, use_cache=cache is not None
            )

    @contextlib.contextmanager
    def _watched(self, watch: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
        """Show `watch` the output of every wanted layer while it is on.

        With nothing else on, Hugging Face's own modules run, which is faster.
        """
        if self.site == "resid" and untouched(self.model):
            with plain(self.model) as blocks, contextlib.ExitStack() as handles:
                for layer in self.layers:
                    hook = partial(_show, watch, layer)
                    handles.callback(blocks[layer].register_forward_hook(hook).remove)
                yield
            return
        names = {SITES[self.site].format(layer=layer): layer for layer in self.layers}
        with self.model.hooks(fwd_hooks=[(name, lambda v, hook: watch(names[hook.name], v)) for name in names]):
            yield


def _show(watch: Callable[[int, torch.Tensor], None], layer: int, module: Any, inputs: Any, output: Any) -> None:
    watch(layer, output[0] if isinstance(output, tuple) else output)  # it depends on the model and the version


def _take(
    value: torch.Tensor, position: str, last: torch.Tensor, lengths: torch.Tensor, real: torch.Tensor
) -> torch.Tensor:
    """One position of `[row, token, d_model]`; for `prompt_mean` the float32 sum over the real tokens."""
    if position == "prompt_mean":
        return torch.bmm(real.to(value.device).float()[:, None], value.float())[:, 0]
    index = (last if position == "last_instruction" else lengths - 1).to(value.device)
    return value[torch.arange(len(value), device=value.device), index].clone()


def _to_cpu(vectors: dict[tuple[int, str], torch.Tensor]) -> dict[tuple[int, str], torch.Tensor]:
    """All vectors of a batch in one transfer for each device and number format, not one for each layer and position."""
    kinds: dict[tuple[torch.device, torch.dtype], list[tuple[int, str]]] = {}
    for key, value in vectors.items():
        kinds.setdefault((value.device, value.dtype), []).append(key)
    return {
        key: value
        for keys in kinds.values()
        for key, value in zip(keys, torch.stack([vectors[key] for key in keys]).cpu().unbind(), strict=True)
    }


def _cache(model: TransformerBridge, layers: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None) -> Any:
    from transformers import DynamicCache

    return DynamicCache(layers) if layers else DynamicCache()
