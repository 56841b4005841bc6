"""Interventions as values: frozen, comparable, printable, storable, made of parts; `steering.steer` applies them.

`20 * v` is `v` at 20 times its strength, `a + b` does `a` and then `b` at every layer, and `v - v` does nothing. A value
prints with a digest of everything it is made of, so that its text names it in every store key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch

from workbench.errors import FitError
from workbench.provenance import Provenance
from workbench.scopes import InterventionError, Tokens

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@runtime_checkable
class Step(Protocol):
    """One forward pass of one part, as `steering` hands it over.

    Attributes:
        tokens: what the tokens of the pass are.
        memory: what the part decided about the rows earlier in the batch, `[row, ...]` tensors by name.
        keys: names of the rows; empty where nobody said.
    """

    tokens: Tokens
    memory: dict[str, torch.Tensor]
    keys: tuple[str, ...]

    def tensor(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """An array of the part, on the device of `like`."""

    def change(
        self,
        layer: int,
        hidden: Float[torch.Tensor, "row token d_model"],
        delta: torch.Tensor,
        where: Bool[torch.Tensor, "row token"],
    ) -> Float[torch.Tensor, "row token d_model"]:
        """`hidden + delta` at these tokens, and the very same `hidden` elsewhere; recorded."""

    def decide(self, logit: torch.Tensor, threshold: float, fired: torch.Tensor) -> None:
        """Record what a gate said, `[row]`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """One thing that is done to the residual stream of one model.

    Attributes:
        model: name of the model.
        fingerprint: its identity.
        site: `resid`, `attn` or `mlp`.
        layers: blocks whose output is changed.
        tokens: which tokens are changed, one of `scopes.SCOPES`.
    """

    model: str
    fingerprint: str
    site: str
    layers: tuple[int, ...]
    tokens: str

    reads_ahead: ClassVar[bool] = False
    """Whether it acts on tokens of the prompt before one that it reads."""

    @property
    def layers_hooked(self) -> tuple[int, ...]:
        """Blocks it reads or changes."""
        return self.layers

    @property
    def spares_prompt(self) -> bool:
        """Whether it neither reads nor changes a token before the last of the prompt."""
        return self.tokens != "all"

    @property
    def place(self) -> str:
        """Site and layers, for print."""
        site = "" if self.site == "resid" else f"{self.site} "
        return f"{site}layer{'s' if len(self.layers) > 1 else ''} {in_words(self.layers)}"

    def act(self, layer: int, hidden: torch.Tensor, step: Step) -> torch.Tensor:
        """The output of a block, `[row, token, d_model]`, as this part leaves it."""
        raise NotImplementedError

    def bound(self, encode: Any) -> Part:
        """The same part knowing the model it is about to run on; `encode` gives row keys of texts."""
        return self

    def scaled(self, factor: float) -> Part:
        """The same part at so many times its strength."""
        raise InterventionError(
            f"Only what has a strength can be multiplied; {self} has none. Multiply what is added, or leave it out."
        )

    def merged(self, other: Part) -> Part | None:
        """One part that does what this one and then the other do, where there is one."""
        return None

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name everything it is made of."""
        plain, arrays = _fields(self)
        digest = hashlib.sha256(json.dumps([type(self).__name__, plain], sort_keys=True).encode())
        for name, array in sorted(arrays.items()):
            digest.update(f"{name}{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Intervention:
    """What to do to the residual stream: parts, one after the other at every layer.

    Attributes:
        parts: what is done.
    """

    parts: tuple[Part, ...]
    __array_ufunc__ = None  # numpy numbers leave `2 * v` to us

    def __str__(self) -> str:
        return " + ".join(f"{part}#{part.digest}" for part in self.parts)

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervention) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __add__(self, other: Intervention) -> Intervention:
        if not isinstance(other, Intervention):
            return NotImplemented
        parts = list(self.parts)
        for part in other.parts:
            merged = parts[-1].merged(part)
            parts[-1:] = [merged] if merged else [parts[-1], part]
        return Intervention(tuple(parts))

    def __mul__(self, factor: float) -> Intervention:
        if not isinstance(factor, (int, float, np.number)):
            return NotImplemented
        check_number("A factor", factor)
        return Intervention(tuple(part.scaled(float(factor)) for part in self.parts))

    __rmul__ = __mul__

    def __neg__(self) -> Intervention:
        return -1.0 * self

    def __sub__(self, other: Intervention) -> Intervention:
        return self + (-other) if isinstance(other, Intervention) else NotImplemented

    @property
    def spares_prompt(self) -> bool:
        """Whether prompts may be run up to their last token without it: it neither reads nor changes what comes before."""
        return all(part.spares_prompt for part in self.parts)

    def save(self, path: Path | str) -> None:
        """Write everything it is made of to one safetensors file."""
        from safetensors.numpy import save_file

        about, tensors = [], {"intervention": np.zeros(1, dtype=np.float32)}
        for i, part in enumerate(self.parts):
            plain, arrays = _fields(part)
            about.append([type(part).__module__, type(part).__name__, plain])
            tensors |= {f"{i}.{name}": np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(tensors, str(path), metadata={"intervention": json.dumps(about)})

    @classmethod
    def load(cls, path: Path | str) -> Intervention:
        """Inverse of `save`.

        Raises:
            FitError: the file is not there or holds no intervention.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                about = json.loads((file.metadata() or {})["intervention"])
            return cls(tuple(_part(i, *described, tensors) for i, described in enumerate(about)))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise FitError(
                f"{path} must be a file written by Intervention.save; it could not be read: {error}."
            ) from error


def _fields(part: Part) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A part's plain fields, as JSON has them, and its arrays."""
    every = dataclasses.asdict(part)
    arrays = {name: value for name, value in every.items() if isinstance(value, np.ndarray)}
    return {name: value for name, value in every.items() if name not in arrays}, arrays


def _part(i: int, module: str, name: str, plain: dict[str, Any], tensors: dict[str, np.ndarray]) -> Part:
    # A file must not choose which code to load: only the parts of this package.
    if module not in _MODULES:
        raise ValueError(f"{module} has no interventions")
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and issubclass(kind, Part)):
        raise ValueError(f"{name} is no intervention")
    prefix = f"{i}."
    arrays = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return kind(**{field: _tuples(value) for field, value in plain.items()}, **arrays)


_MODULES = ("workbench.interventions", "workbench.conditionals", "workbench.conditions", "workbench.laws")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


# --- what values are checked for -------------------------------------------------------------------------------------


def check_number(what: str, value: float) -> float:
    """The number as a float.

    Raises:
        InterventionError: it is not finite.
    """
    if not math.isfinite(value):
        raise InterventionError(f"{what} must be a finite number; got {value}.")
    return float(value)


def check_layers(provenance: Provenance, layers: int | Iterable[int]) -> tuple[int, ...]:
    """Layers in order, each once.

    Raises:
        InterventionError: there are none, or the model has no such block.
    """
    chosen = tuple(sorted({int(layer) for layer in ([layers] if isinstance(layers, (int, np.integer)) else layers)}))
    outside = [layer for layer in chosen if not 0 <= layer < provenance.n_layers]
    if outside or not chosen:
        raise InterventionError(
            f"Layers of {provenance.name} run from 0 to {provenance.n_layers - 1}; got {outside or 'none'}."
        )
    return chosen


def in_words(layers: Iterable[int]) -> str:
    """Layers for print: `16`, `15-23`, `2,5`.

    >>> in_words([15, 16, 17])
    '15-17'
    """
    listed = list(layers)
    if len(listed) > 2 and listed == list(range(listed[0], listed[-1] + 1)):
        return f"{listed[0]}-{listed[-1]}"
    return ",".join(map(str, listed))
