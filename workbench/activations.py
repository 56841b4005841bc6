"""Run the model once, keep the residual vectors of named token positions with the rows they belong to.

Vectors are right by construction: prompts are padded on the right, where causal attention cannot see the padding, and
the chat prefix that all prompts share is computed once and given to every batch as keys and values. After each run a few
rows are computed again, alone, and compared; the store keeps that stamp.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from workbench.capture import Capture
from workbench.encoding import POSITIONS, encode
from workbench.errors import PromptError, StoreError, WorkbenchError, nearest
from workbench.model import SITES, describe, state
from workbench.provenance import Provenance
from workbench.store import Column, Store, open_store

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformer_lens.model_bridge import TransformerBridge

_SHARD_BYTES = 64 * 2**20
_SHARD_SECONDS = 30.0
_STAMP_ROWS = 3


# --- the result ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activations:
    """Residual vectors and the rows they belong to; vectors are read when asked for, and only those selected.

    Attributes:
        rows: DataFrame with the keys of each prompt, `[prompt]`.
        positions: names of the token positions kept, in order.
        layers: indices of the blocks kept, in order.
        provenance: the model they come from.
        site: `resid`, `attn` or `mlp`.
        state: what was changing the model while they were computed; empty for the model itself.
    """

    rows: pd.DataFrame
    positions: tuple[str, ...]
    layers: tuple[int, ...]
    provenance: Provenance
    site: str = "resid"
    state: str = ""
    _read: Callable[[pd.DataFrame, int, str], np.ndarray] = field(repr=False, compare=False, kw_only=True)

    @classmethod
    def from_arrays(
        cls,
        values: Float[np.ndarray, "prompt position layer d_model"],
        rows: pd.DataFrame,
        positions: Sequence[str],
        layers: Sequence[int],
        provenance: Provenance,
    ) -> Activations:
        """Activations from an array in memory, `[prompt, position, layer, d_model]`.

        Raises:
            WorkbenchError: the array's shape does not fit the rows, positions and layers.
        """
        expected = (len(rows), len(positions), len(layers))
        if values.ndim != 4 or values.shape[:3] != expected:
            raise WorkbenchError(
                f"values must be [prompt, position, layer, d_model] = [{', '.join(map(str, expected))}, d_model]; "
                f"got {list(values.shape)}."
            )
        rows = rows.reset_index(drop=True)
        column = {(layer, position): (p, k) for p, position in enumerate(positions) for k, layer in enumerate(layers)}
        place = pd.Series(np.arange(len(rows)), index=rows["prompt_id"])

        def read(selected: pd.DataFrame, layer: int, position: str) -> np.ndarray:
            p, k = column[layer, position]
            return np.asarray(values[place[selected["prompt_id"]].to_numpy(), p, k], dtype=np.float32)

        return cls(rows, tuple(positions), tuple(layers), provenance, _read=read)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def values(self) -> Float[np.ndarray, "prompt position layer d_model"]:
        """The vectors, float32 `[prompt, position, layer, d_model]`, in residual-stream units."""
        shape = (len(self.rows), len(self.positions), len(self.layers), self.provenance.d_model)
        out = np.empty(shape, dtype=np.float32)
        for p, position in enumerate(self.positions):
            for k, layer in enumerate(self.layers):
                out[:, p, k] = self._read(self.rows, layer, position)
        return out

    @property
    def vectors(self) -> Float[np.ndarray, "prompt d_model"]:
        """The vectors of the one layer and position selected, float32 `[prompt, d_model]`.

        Raises:
            WorkbenchError: more than one layer or position is selected.
        """
        if len(self.layers) != 1 or len(self.positions) != 1:
            raise WorkbenchError(
                "One layer and one position must be selected; these activations hold layers "
                f"{_short(self.layers)} and positions {', '.join(self.positions)}. "
                f"Use acts.sel(layer={self.layers[0]}, position={self.positions[-1]!r})."
            )
        return self._read(self.rows, self.layers[0], self.positions[0])

    def sel(
        self, layer: int | Sequence[int] | None = None, position: str | Sequence[str] | None = None, **keys: Any
    ) -> Activations:
        """Fewer rows, layers or positions; nothing is read yet.

        Args:
            layer: one layer or several.
            position: one position or several.
            **keys: any column of `rows` and the value, or list of values, to keep.

        Raises:
            WorkbenchError: there is no such column, layer or position, or nothing is left; the message says what is there.
        """
        rows = self.rows
        for column, wanted in keys.items():
            if column not in rows:
                raise WorkbenchError(
                    f"Rows must have the column to select on; there is no {column!r}. {nearest(column, rows.columns)}"
                )
            chosen = rows[rows[column].isin(wanted if _several(wanted) else [wanted])]
            if chosen.empty:
                there = ", ".join(map(str, rows[column].unique()[:12]))
                raise WorkbenchError(
                    f"Something must be left to work with; no row has {column} = {wanted!r}. There are: {there}."
                )
            rows = chosen
        layers, positions = _pick("layer", layer, self.layers), _pick("position", position, self.positions)
        return replace(self, rows=rows.reset_index(drop=True), layers=layers, positions=positions)


def _several(wanted: Any) -> bool:
    return isinstance(wanted, (list, tuple, set, frozenset, np.ndarray, pd.Series, pd.Index, range))


def _pick(name: str, wanted: Any, have: tuple) -> tuple:
    if wanted is None:
        return have
    chosen = tuple(wanted) if _several(wanted) else (wanted,)
    lacking = [value for value in chosen if value not in have]
    if lacking:
        raise WorkbenchError(
            f"The {name} must be among those cached, {_short(have)}; got {lacking[0]!r}. Cache it first with cache_activations."
        )
    return chosen


def _short(values: Sequence) -> str:
    values = list(values)
    if len(values) > 3 and values == list(range(values[0], values[0] + len(values))):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


# --- the run ---------------------------------------------------------------------------------------------------------


def cache_activations(
    model: TransformerBridge,
    prompts: pd.DataFrame,
    *,
    positions: Sequence[str] = POSITIONS,
    layers: Sequence[int] | None = None,
    site: str = "resid",
    store: Store | None = None,
    budget: int | None = None,
    progress: bool = True,
) -> Activations:
    """Residual vectors of every prompt, from the store where it has them, else computed and kept there.

    Args:
        model: from `load_model`.
        prompts: a prompt table, `[prompt]`.
        positions: names among `POSITIONS`.
        layers: block indices, 0-based; all by default. Layer l is the output of block l.
        site: `resid`, `attn` or `mlp`, a key of `SITES`.
        store: by default the model's own, `open_store(describe(model))`.
        budget: tokens in a batch; by default found by a short search for the fastest.
        progress: show a bar.

    Returns:
        Activations of the prompts in the order given, with `n_tokens` added to the rows.

    Raises:
        PromptError: there are no prompts, or one is blank.
        StoreError: the disk has no room for them; nothing is computed then.
    """
    provenance = describe(model)
    layers = tuple(range(provenance.n_layers)) if layers is None else tuple(sorted(set(layers)))
    _check_request(provenance, prompts, positions, layers, site)
    encoded = encode(model, list(prompts["text"]))
    rows = prompts.reset_index(drop=True).assign(
        n_tokens=[len(e.ids) for e in encoded], row_key=[e.key for e in encoded]
    )
    store = store or open_store(provenance)
    on = state(model)
    columns = [Column(on, site, layer, position) for layer in layers for position in positions]
    by_key = dict(zip(rows["row_key"], encoded, strict=True))
    missing = store.missing(by_key, columns)
    if missing:
        capture = Capture(model, [by_key[key] for key in missing], layers, tuple(positions), site)
        _check_room(store, capture, progress)
        _fill(store, capture, columns, budget, progress)
        _stamp(store, capture, columns)

    def read(selected: pd.DataFrame, layer: int, position: str) -> np.ndarray:
        return store.read_vectors(list(selected["row_key"]), Column(on, site, layer, position))

    return Activations(rows, tuple(positions), layers, provenance, site, on, _read=read)


def _check_request(
    provenance: Provenance, prompts: pd.DataFrame, positions: Sequence[str], layers: Sequence[int], site: str
) -> None:
    if prompts.empty:
        raise PromptError("There must be prompts to run; the table is empty.")
    if site not in SITES:
        raise WorkbenchError(f"A site must be one of {', '.join(SITES)}; got {site!r}.")
    for position in positions:
        if position not in POSITIONS:
            raise WorkbenchError(
                f"A position must be one of {', '.join(POSITIONS)}; got {position!r}. {nearest(position, POSITIONS)}"
            )
    outside = [layer for layer in layers if not 0 <= layer < provenance.n_layers]
    if outside or not layers:
        raise WorkbenchError(
            f"Layers of {provenance.name} run from 0 to {provenance.n_layers - 1}; got {outside or 'none'}."
        )


def _fill(store: Store, capture: Capture, columns: Sequence[Column], budget: int | None, progress: bool) -> None:
    """Run what is missing, batch by batch, and commit shard by shard; leaves out what another process has filled in."""
    from tqdm.auto import tqdm

    total = sum(len(e.ids) for e in capture.prompts)
    shard = _Shard(store, columns)
    with (
        store.first_to("capture") as first,
        tqdm(total=len(capture.prompts), unit="prompt", desc="activations", disable=not progress) as bar,
    ):
        tokens, started = 0, time.monotonic()
        for batch, vectors in capture.run(budget, lambda keys: set(store.missing(keys, columns)), not first):
            if vectors is not None:
                shard.add([e.key for e in batch], vectors)
            tokens += sum(len(e.ids) for e in batch)
            bar.set_postfix_str(f"{tokens / (time.monotonic() - started):.0f} tokens/s", refresh=False)
            bar.update(len(batch))
        shard.flush()
    assert tokens == total, (tokens, total)


class _Shard:
    """Rows on their way to the store, committed when there are enough of them or enough time has passed."""

    def __init__(self, store: Store, columns: Sequence[Column]) -> None:
        self.store, self.columns = store, columns
        self.keys: list[str] = []
        self.parts: list[dict[tuple[int, str], torch.Tensor]] = []
        self.bytes, self.since = 0, time.monotonic()

    def add(self, keys: list[str], vectors: dict[tuple[int, str], torch.Tensor]) -> None:
        self.keys += keys
        self.parts.append(vectors)
        self.bytes += sum(t.numel() * t.element_size() for t in vectors.values())
        if self.bytes > _SHARD_BYTES or time.monotonic() - self.since > _SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.keys:
            tensors = {
                (c.site, c.layer, c.position): torch.cat([part[c.layer, c.position] for part in self.parts])
                for c in self.columns
            }
            self.store.add_vectors(self.keys, self.columns[0].state, tensors)
        self.keys, self.parts, self.bytes, self.since = [], [], 0, time.monotonic()


def _check_room(store: Store, capture: Capture, progress: bool) -> None:
    """Estimate what the run leaves on disk, say so, and refuse it where there is no room."""
    d_model, size = describe(capture.model).d_model, next(capture.model.original_model.parameters()).element_size()
    per_row = (
        sum(4 if position == "prompt_mean" else size for position in capture.positions) * d_model * len(capture.layers)
    )
    needed = int(1.05 * per_row * len(capture.prompts)) + 2**20
    free = shutil.disk_usage(store.path).free
    if needed > free:
        raise StoreError(
            f"Vectors of {len(capture.prompts)} prompts take about {needed / 2**30:.2f} GiB; {store.path} has "
            f"{free / 2**30:.2f} GiB free. Cache fewer layers or positions, or set WORKBENCH_HOME to another disk."
        )
    if progress:
        print(
            f"{len(capture.prompts)} prompts to run, {len(capture.prefix)} tokens of prefix shared; "
            f"about {max(needed / 2**20, 1):.0f} MiB on disk, {min(needed, _SHARD_BYTES) / 2**20:.0f} MiB of memory beside the model"
        )


def _stamp(store: Store, capture: Capture, columns: Sequence[Column]) -> None:
    """Compute a few of the rows again, alone and without the shared prefix, and keep how far apart they are.

    Raises:
        StoreError: they are further apart than the number format explains.
    """
    limit = 1e-4 if describe(capture.model).dtype == "float32" else 0.1
    rng = np.random.default_rng(len(capture.prompts))
    chosen = rng.choice(len(capture.prompts), size=min(_STAMP_ROWS, len(capture.prompts)), replace=False)
    worst = 0.0
    for prompt in (capture.prompts[i] for i in chosen):
        alone = Capture(capture.model, [prompt], capture.layers, capture.positions, capture.site)
        vectors = alone.forward([prompt], ([], {}))
        for column in columns:
            kept = store.read_vectors([prompt.key], column)[0]
            again = vectors[column.layer, column.position][0].float().numpy()
            worst = max(worst, float(np.linalg.norm(kept - again) / max(np.linalg.norm(again), 1e-12)))
    store.add_stamp({"rows": len(chosen), "columns": len(columns), "worst_relative_error": worst, "limit": limit})
    if worst > limit:
        raise StoreError(
            f"Vectors in a batch must equal those of the prompt alone; the worst of {len(chosen)} rows checked is "
            f"{worst:.1e} apart (limit {limit:.0e}). Remove the store {store.path} and report this model."
        )
