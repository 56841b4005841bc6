"""The one thing that changes activations: `with steer(model, intervention):`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from workbench.encoding import encode
from workbench.model import SITES, changed, describe
from workbench.parts import Intervention, Part
from workbench.scopes import InterventionError, Layout, Tokens, followers
from workbench.traces import Recorder, Trace

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@contextlib.contextmanager
def steer(model: TransformerBridge, intervention: Intervention) -> Iterator[Trace]:
    """Apply an intervention to everything that the model computes inside, in this thread; undone whatever happens.

    Store keys carry it, so that completions and vectors made inside are kept apart. Steers nest: the inner one acts
    after the outer one at every layer. Batches of `complete` and `cache_activations` say which tokens are prompt and
    which are generated. Of other calls of the model, one without keys and values of earlier ones is a new prompt, its
    padding read off the attention mask, and what continues it is generated.

    Yields:
        The trace: what was touched, decided and added, row by row.

    Raises:
        FitError: the intervention belongs to another model.
        InterventionError: at the end, where a part touched nothing though the model ran.
    """
    with changed(model, str(intervention)), steered(model, intervention) as trace:
        yield trace


@contextlib.contextmanager
def steered(model: TransformerBridge, intervention: Intervention, rows: Sequence[int] | None = None) -> Iterator[Trace]:
    """`steer` for some rows of each batch only, and without a place in the store's keys: for whoever keeps them itself."""
    steering = Steering(model, intervention, rows)
    listed = followers(model)
    listed.append(steering)
    try:
        with steering.hooked():
            yield steering.trace
        steering.close()
    finally:
        listed.remove(steering)


class Steering:
    """An intervention that is on: where its hooks are, and what it is doing to the batch that is running."""

    def __init__(self, model: TransformerBridge, intervention: Intervention, rows: Sequence[int] | None) -> None:
        for part in intervention.parts:
            _check_model(part, model)
        self.model, self.rows, self.trace = model, rows, Trace()
        self.parts = [part.bound(lambda texts: _row_keys(model, texts)) for part in intervention.parts]
        self.reads_ahead = any(part.reads_ahead for part in self.parts)
        self.acted, self.ran, self.excused = [False] * len(self.parts), False, False
        self.tensors: dict[tuple, torch.Tensor] = {}
        self.batch: _Running | None = None
        self.thread = threading.get_ident()

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """The hooks on the model, for as long as this lasts."""
        places: dict[tuple[str, int], list[int]] = {}
        for index, part in enumerate(self.parts):
            for layer in part.layers_hooked:
                places.setdefault((part.site, layer), []).append(index)
        hooks = [
            (SITES[site].format(layer=layer), self._hook(layer, indices)) for (site, layer), indices in places.items()
        ]
        watch = self.model.original_model.base_model.register_forward_pre_hook(self._before, with_kwargs=True)
        try:
            with self.model.hooks(fwd_hooks=hooks):
                yield
        finally:
            watch.remove()

    def _hook(self, layer: int, indices: Sequence[int]) -> Any:
        def act(value: torch.Tensor, hook: Any) -> torch.Tensor | None:
            if threading.get_ident() != self.thread or self.batch is None or not self.batch.running:
                return None
            here = None if self.batch.here is None else self.batch.here.to(value.device)
            mine = out = value if here is None else value[here]
            for index in indices:
                out = self.parts[index].act(layer, out, _Step(self.batch, index))
            if out is mine:
                return None
            return out if here is None else value.index_copy(0, here, out)

        return act

    def _before(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Before every forward pass: what its tokens are."""
        if threading.get_ident() != self.thread:
            return
        ids = args[0] if args else kwargs.get("input_ids")
        ids = kwargs["inputs_embeds"] if ids is None else ids
        past = kwargs.get("past_key_values")
        start, n = (0 if past is None else int(past.get_seq_length())), ids.shape[1]
        if self.batch is None or (self.batch.guessed and start == 0):
            self._finish_guessed()
            self.batch = _Running(self, _guess(ids, start, kwargs.get("attention_mask")), guessed=True)
        self.ran = True
        self.batch.advance(start, n, len(ids))

    # --- what a follower is told ---

    def begin(self, layout: Layout) -> None:
        """A batch whose layout is known begins."""
        self._finish_guessed()
        self.batch = _Running(self, layout)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows of the batch go on."""
        assert self.batch is not None
        self.batch.keep(rows)

    def end(self, excused: bool) -> list[dict[str, Any]]:
        """The batch has ended: what was done to each row; it raises where nothing was."""
        batch, self.batch = self.batch, None
        assert batch is not None
        self.excused |= excused
        if batch.layout.whole and batch.mine and not excused:
            self._check(batch.acted())
        return self._record(batch)

    def abort(self) -> None:
        """The batch was broken off."""
        self.batch = None

    def close(self) -> None:
        """Everything has ended; it raises where a part never did anything."""
        self._finish_guessed()
        if self.ran and not self.excused:
            self._check(self.acted)

    def _finish_guessed(self) -> None:
        if self.batch is not None and self.batch.guessed:
            batch, self.batch = self.batch, None
            self._record(batch)

    def _record(self, batch: _Running) -> list[dict[str, Any]]:
        self.acted = [before or now for before, now in zip(self.acted, batch.acted(), strict=True)]
        done = {f"{i}: {part}": r.rows() for i, (part, r) in enumerate(zip(self.parts, batch.recorders, strict=True))}
        self.trace.add(done, batch.layout.keys, batch.mine)
        rows: list[dict[str, Any]] = [{} for _ in range(batch.n)]
        for place, row in enumerate(batch.mine):
            rows[row] = _summed([part[place] for part in done.values()])
        return rows

    def _check(self, acted: Sequence[bool]) -> None:
        idle = [str(part) for part, did in zip(self.parts, acted, strict=True) if not did]
        if idle:
            raise InterventionError(
                f"Steering must touch something; {'; '.join(idle)} touched no token of what the model ran. Check that "
                "its tokens were run (generated ones need a second new token) and its layers reached (a capture stops "
                "after the last layer that is asked for)."
            )


class _Running:
    """One batch under one steering: the rows that are its, and what it knows of them."""

    def __init__(self, steering: Steering, layout: Layout, guessed: bool = False) -> None:
        self.steering, self.guessed, self.n = steering, guessed, len(layout.first)
        self.mine = list(range(self.n)) if steering.rows is None else [r for r in steering.rows if r < self.n]
        self.device = layout.first.device
        # Rows of mine in the batch as it is now; None where all are mine.
        self.places = list(self.mine)
        self.here = None if steering.rows is None else self._index(self.mine)
        self.layout = self.now = layout if self.here is None else layout.keep(self.here)
        self.alive = torch.arange(len(self.mine), device=self.device)
        self.size = self.n
        self.memory: list[dict[str, torch.Tensor]] = [{} for _ in steering.parts]
        self.recorders = [Recorder(self.layout) for _ in steering.parts]
        self.passes, self.tokens = 0, Tokens(self.now, 0, 0)

    @property
    def running(self) -> bool:
        return bool(self.places)

    def acted(self) -> list[bool]:
        """Whether each part touched a token or decided on one."""
        return [bool(r.count.sum() > 0) or r.decision is not None for r in self.recorders]

    def advance(self, start: int, n: int, rows: int) -> None:
        if rows != self.size:
            raise InterventionError(
                f"A pass that continues a prompt must have its rows; the prompt had {self.size}, this pass has {rows}. "
                "Generate with greedy decoding, without beams."
            )
        self.passes += 1
        self.tokens = Tokens(self.now, start, n)

    def keep(self, rows: Sequence[int]) -> None:
        new = {old: place for place, old in enumerate(rows)}
        stayed = [i for i, place in enumerate(self.places) if place in new]
        self.places = [new[self.places[i]] for i in stayed]
        self.size = len(rows)
        index = self._index(stayed)
        self.here = None if self.here is None else self._index(self.places)
        self.now, self.alive = self.now.keep(index), self.alive[index]
        self.memory = [{k: v[index.to(v.device)] for k, v in memory.items()} for memory in self.memory]

    def _index(self, rows: Sequence[int]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self.device)


class _Step:
    """One pass of one part: see `parts.Step`."""

    def __init__(self, batch: _Running, index: int) -> None:
        self.batch, self.index = batch, index
        self.tokens, self.memory, self.keys = batch.tokens, batch.memory[index], batch.now.keys

    def tensor(self, name: str, like: torch.Tensor) -> torch.Tensor:
        key, kept = (self.index, name, like.device), self.batch.steering.tensors
        if key not in kept:
            array = getattr(self.batch.steering.parts[self.index], name)
            with torch.inference_mode(False):
                kept[key] = torch.tensor(array, dtype=torch.float32, device=like.device)
        return kept[key]

    def change(self, layer: int, hidden: torch.Tensor, delta: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        sizes = torch.linalg.vector_norm(delta, dim=-1).to(where.device).expand(where.shape)
        batch = self.batch
        batch.recorders[self.index].touch(layer, batch.passes, self.tokens.start, batch.alive, where, sizes)
        steered = (hidden.to(delta.dtype) + delta).to(hidden.dtype)
        return torch.where(where.to(hidden.device)[..., None], steered, hidden)

    def decide(self, logit: torch.Tensor, threshold: float, fired: torch.Tensor) -> None:
        self.batch.recorders[self.index].decide(logit, threshold, fired)


def _summed(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trace of a row over all parts: the first decision, and what was added to how many tokens."""
    touched = sum(part["touched"] for part in parts)
    size = sum(part["added_norm"] * part["touched"] for part in parts)
    decided = next((part for part in parts if "fired" in part), {})
    about = {name: decided[name] for name in ("logit", "threshold", "fired") if name in decided}
    return about | {"touched": touched, "added_norm": size / touched if touched else 0.0}


def _guess(ids: torch.Tensor, start: int, mask: torch.Tensor | None) -> Layout:
    """The layout of a call that nobody announced: a prompt, with padding where the attention mask says so."""
    rows, n = ids.shape[:2]
    if mask is None or start or mask.ndim != 2 or mask.shape[1] != n:
        first = torch.zeros(rows, dtype=torch.long, device=ids.device)
        return Layout(first, torch.full_like(first, start + n - 1), start + n)
    real = mask.to(ids.device).bool().int()
    return Layout(real.argmax(1), n - 1 - real.flip(1).argmax(1), n)


def _check_model(part: Part, model: TransformerBridge) -> None:
    about = describe(model)
    if part.fingerprint != about.fingerprint:
        raise InterventionError(
            f"An intervention is of use only with the model it was made for, {part.model} ({part.fingerprint}); this is "
            f"{about.name} ({about.fingerprint}). Refit its directions on this model's activations."
        )


def _row_keys(model: TransformerBridge, texts: Sequence[str]) -> list[str]:
    return [e.key for e in encode(model, list(texts))]
