"""What to do to the residual stream: add a direction, remove it, put another vector in its place.

Formulas act on the output `h` of a block, in float32. `steering.steer` applies these values, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from workbench.activations import Activations
from workbench.directions import Direction
from workbench.parts import Intervention, Part, Step, check_layers, check_number
from workbench.places import Fitted
from workbench.scopes import InterventionError, check_scope
from workbench.subspaces import Subspace

# --- add -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Addition(Part):
    """`h + sum of strength * v` at some layers and tokens.

    Attributes:
        names: names of the directions.
        strengths: how much of each, residual-stream units.
        units: the unit vectors, `[direction, d_model]`.
    """

    names: tuple[str, ...]
    strengths: tuple[float, ...]
    units: np.ndarray

    @property
    def vector(self) -> np.ndarray:
        """What is added, float32 `[d_model]`."""
        return (np.asarray(self.strengths) @ self.units.astype(np.float64)).astype(np.float32)

    def act(self, layer: int, hidden: torch.Tensor, step: Step) -> torch.Tensor:
        """See `Part.act`."""
        where = step.tokens.within(self.tokens)
        return hidden if where is None else step.change(layer, hidden, step.tensor("vector", hidden), where)

    def scaled(self, factor: float) -> Addition:
        """See `Part.scaled`."""
        return replace(self, strengths=tuple(factor * strength for strength in self.strengths))

    def merged(self, other: Part) -> Addition | None:
        """One addition for two at the same place, since the order of a sum does not matter."""
        place = ("fingerprint", "site", "layers", "tokens")
        if type(other) is not Addition or any(getattr(self, name) != getattr(other, name) for name in place):
            return None
        names, strengths, units = list(self.names), list(self.strengths), list(self.units)
        for name, strength, unit in zip(other.names, other.strengths, other.units, strict=True):
            same = [i for i, mine in enumerate(units) if names[i] == name and np.array_equal(mine, unit)]
            if same:
                strengths[same[0]] += strength
            else:
                names.append(name), strengths.append(strength), units.append(unit)
        return replace(self, names=tuple(names), strengths=tuple(strengths), units=np.stack(units))

    def __str__(self) -> str:
        terms = " + ".join(f"{strength!r} {name}" for name, strength in zip(self.names, self.strengths, strict=True))
        return f"add({terms} at {self.place}, {self.tokens})"


def add(
    direction: Direction,
    strength: float = 1.0,
    *,
    layers: int | Iterable[int] | None = None,
    tokens: str = "last_prompt_then_generated",
) -> Intervention:
    """Add a direction: h <- h + strength * v (activation addition, Arditi et al. 2024, section 2.4).

    Args:
        direction: from `fit_direction`.
        strength: alpha, in residual-stream units; may be negative.
        layers: blocks whose output is changed; by default the one the direction was fitted at.
        tokens: one of `scopes.SCOPES`; by default the last token of the prompt and every generated one.

    Raises:
        InterventionError: no such layer or tokens, or the strength is not finite.
    """
    return Intervention(
        (
            Addition(
                **origin(direction),
                names=(direction.name,),
                strengths=(check_number("A strength", strength),),
                units=direction.vector[None].astype(np.float32),
                layers=_layers(direction, layers),
                tokens=check_scope(tokens),
            ),
        )
    )


# --- ablate ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Ablation(Part):
    """`h - (h B) B^T` at some layers and tokens.

    Attributes:
        name: of the direction or subspace.
        basis: orthonormal, `[d_model, rank]`.
    """

    name: str
    basis: np.ndarray

    def act(self, layer: int, hidden: torch.Tensor, step: Step) -> torch.Tensor:
        """See `Part.act`."""
        where = step.tokens.within(self.tokens)
        if where is None:
            return hidden
        return step.change(layer, hidden, removed(hidden, step.tensor("basis", hidden)), where)

    def __str__(self) -> str:
        return f"ablate({self.name} at {self.place}, {self.tokens})"


def ablate(
    what: Direction | Subspace, *, layers: int | Iterable[int] | None = None, tokens: str = "all"
) -> Intervention:
    """Remove a direction, h <- h - (h . v) v (Arditi et al. 2024, section 2.4), or all dimensions of a subspace.

    Args:
        what: a direction or a subspace.
        layers: blocks whose output is changed; by default the one it was fitted at.
        tokens: one of `scopes.SCOPES`; all by default.

    Raises:
        InterventionError: no such layer or tokens.
    """
    basis = what.vector[:, None] if isinstance(what, Direction) else what.basis
    place = {"layers": _layers(what, layers), "tokens": check_scope(tokens)}
    return Intervention((Ablation(**origin(what), name=what.name, basis=basis.astype(np.float32), **place),))


def removed(hidden: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """What ablation adds to `[row, token, d_model]`: - (h B) B^T for an orthonormal basis `[d_model, rank]`."""
    return -((hidden.to(basis.dtype) @ basis) @ basis.T)


# --- patch -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Patch(Part):
    """`h` replaced by the vector of another run.

    Attributes:
        name: where the vectors come from.
        vectors: `[target, layer, d_model]`; one target where every row gets the same.
        texts: prompts that get each vector; empty where all get the same.
        row_keys: the row keys of those texts with the model it runs on; filled in by `steer`.
    """

    name: str
    vectors: np.ndarray
    texts: tuple[str, ...] = ()
    row_keys: tuple[str, ...] = field(default=(), repr=False)

    def bound(self, encode: Any) -> Patch:
        """See `Part.bound`."""
        return replace(self, row_keys=tuple(encode(self.texts))) if self.texts else self

    def act(self, layer: int, hidden: torch.Tensor, step: Step) -> torch.Tensor:
        """See `Part.act`."""
        where = step.tokens.within(self.tokens)
        if where is None:
            return hidden
        wanted = step.tensor("vectors", hidden)[self._targets(step.keys), self.layers.index(layer)][:, None]
        return step.change(layer, hidden, wanted - hidden.to(wanted.dtype), where)

    def _targets(self, keys: tuple[str, ...]) -> list[int]:
        if not self.row_keys:
            return [0]
        place = {key: i for i, key in enumerate(self.row_keys)}
        unknown = [key for key in keys if key not in place]
        if unknown or not keys:
            raise InterventionError(
                f"A patch with targets must be run on these prompts by complete or cache_activations; "
                f"{len(unknown) or 'all'} rows of this batch are none of its {len(self.row_keys)} targets. "
                "Select the targets' rows, or patch one vector into every row."
            )
        return [place[key] for key in keys]

    def __str__(self) -> str:
        rows = f"{len(self.texts)} rows" if self.texts else "1 vector"
        return f"patch({rows} of {self.name} at {self.place}, {self.tokens})"


def patch(source: Activations, targets: pd.DataFrame | None = None, *, tokens: str = "last_prompt") -> Intervention:
    """Put vectors of one run into another: h <- h' (activation patching, interchange).

    Args:
        source: activations at one position and the layers to be patched. One prompt: every row gets its vectors.
        targets: a prompt table as long as the source: its i-th prompt gets the i-th vector, and others are refused. A
            translation in place of its original shows what the model reads off the vector.
        tokens: one of `scopes.SCOPES`.

    Raises:
        InterventionError: several positions, or as many targets as sources there are not.
    """
    n = 1 if targets is None else len(targets)
    if len(source.positions) != 1 or len(source) != n:
        raise InterventionError(
            f"A patch must be given one position, and one source prompt for every target; got {len(source)} prompts at "
            f"{', '.join(source.positions)} for {n} targets. Select source.sel(position=..., prompt_id=...)."
        )
    texts = () if targets is None else tuple(targets["text"])
    if len(set(texts)) != len(texts):
        raise InterventionError("Targets must differ in their text, or it is unclear which vector a row gets.")
    part = Patch(
        model=source.provenance.name,
        fingerprint=source.provenance.fingerprint,
        site=source.site,
        name=source.positions[0] + (f" of {source.rows['prompt_id'][0]}" if targets is None else ""),
        vectors=source.values[:, 0],
        layers=source.layers,
        tokens=check_scope(tokens),
        texts=texts,
    )
    return Intervention((part,))


# --- what they share -------------------------------------------------------------------------------------------------


def last_token(hidden: torch.Tensor, step: Step) -> torch.Tensor:
    """The vector of each row's last prompt token, `[row, d_model]`."""
    place = step.tokens.last.int().argmax(1).to(hidden.device)
    return hidden[torch.arange(len(hidden), device=hidden.device), place]


def origin(fitted: Fitted) -> dict[str, str]:
    """The fields of a part that say where it belongs."""
    about = fitted.provenance
    return {"model": about.name, "fingerprint": about.fingerprint, "site": fitted.site}


def _layers(fitted: Fitted, layers: int | Iterable[int] | None) -> tuple[int, ...]:
    return check_layers(fitted.provenance, fitted.layer if layers is None else layers)
