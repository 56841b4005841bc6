"""AdaSteer, a baseline: two vectors added at all layers, each by a law of where the prompt lies (Zhao et al. 2025).

A law turns the place of the prompt's last token between the class means, 0 at the harmful and 100 at the harmless one,
into a coefficient. Vectors are read from safetensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from workbench.activations import Activations, cache_activations
from workbench.completions import complete_grid
from workbench.directions import read_artefact
from workbench.errors import FitError, nearest
from workbench.examples import check_no_test
from workbench.interventions import last_token
from workbench.parts import Intervention, Part, Step, check_number
from workbench.provenance import Provenance
from workbench.scopes import InterventionError
from workbench.weights import MODELS

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Law:
    """coefficient = clamp(slope * (d + offset) + intercept, low, high), d in percent of the way to the harmless mean.

    Attributes:
        layer: block whose output d is read from.
        slope: m.
        offset: o.
        intercept: b.
        low: smallest coefficient.
        high: largest coefficient.
    """

    layer: int
    slope: float
    offset: float
    intercept: float = 0.0
    low: float = -np.inf
    high: float = np.inf

    def __call__(self, d: Float[np.ndarray, " prompt"]) -> Float[np.ndarray, " prompt"]:
        """Coefficients of prompts that lie at d."""
        return np.clip(self.slope * (d + self.offset) + self.intercept, self.low, self.high)


PUBLISHED = {
    "llama-3.1-8b": (Law(8, 0.02, 60, low=-0.22, high=-0.08), Law(13, -0.05, 5, -0.5, low=-0.75)),
    "qwen2.5-7b": (Law(5, 0.1, -140, low=-0.2, high=0.0), Law(13, -0.06, -50, low=-0.6, high=0.4)),
    "gemma-2-9b": (Law(12, 0.004, -35, low=-0.02, high=0.06), Law(19, 0.01, -50, low=-0.06, high=0.02)),
}
"""Laws of the rejection and of the harmfulness vector, as configured for the models of Aziz, Hanif and Koto 2026. They hold
for the vectors that they were tuned with, signs included."""


@dataclass(frozen=True, eq=False)
class AdaSteerVectors:
    """What AdaSteer adds and reads, for every layer of a model; nothing is of unit length.

    Attributes:
        rejection: RD, `[layer, d_model]`.
        harmfulness: HD, `[layer, d_model]`.
        rejection_means: means of the two classes that RD tells apart, harmful first, `[class, layer, d_model]`.
        harmfulness_means: the same for HD.
        provenance: the model.
    """

    rejection: Float[np.ndarray, "layer d_model"]
    harmfulness: Float[np.ndarray, "layer d_model"]
    rejection_means: Float[np.ndarray, "2 layer d_model"]
    harmfulness_means: Float[np.ndarray, "2 layer d_model"]
    provenance: Provenance

    def save(self, path: Path | str) -> None:
        """Write the vectors to one safetensors file."""
        from safetensors.numpy import save_file

        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}
        save_file(tensors, str(path), metadata={"vectors": "{}", "provenance": self.provenance.to_json()})

    @classmethod
    def load(cls, path: Path | str) -> AdaSteerVectors:
        """Inverse of `save`; a pickle is never opened.

        Raises:
            FitError: the file is not there or holds something else.
        """
        tensors, _, provenance = read_artefact(path, "vectors")
        shape = (provenance.n_layers, provenance.d_model)
        wrong = [name for name in _TENSORS if name not in tensors or tensors[name].shape[-2:] != shape]
        if wrong:
            raise FitError(
                f"{path} must hold the tensors {', '.join(_TENSORS)} of {shape[0]} layers by {shape[1]}; "
                f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} missing or of another shape."
            )
        return cls(**{name: tensors[name].astype(np.float32) for name in _TENSORS}, provenance=provenance)


_TENSORS = ("rejection", "harmfulness", "rejection_means", "harmfulness_means")


def adasteer_vectors(acts: Activations) -> AdaSteerVectors:
    """The "adapted" vectors of Aziz, Hanif and Koto 2026: both are the raw mean difference, harmful minus harmless.

    Args:
        acts: training activations at `last_prompt`, all layers; 32 examples per class of each language in the paper.

    Raises:
        FitError: test rows, a class without rows, or layers are missing.
    """
    check_no_test(acts.rows)
    acts = acts.sel(position="last_prompt")
    harmful = (acts.rows["label"] == "harmful").to_numpy()
    if acts.layers != tuple(range(acts.provenance.n_layers)) or harmful.all() or not harmful.any():
        raise FitError(
            f"AdaSteer's vectors need all {acts.provenance.n_layers} layers and both classes; got {len(acts.layers)} "
            f"layers, {harmful.sum()} harmful and {(~harmful).sum()} harmless rows. Cache all layers, select both labels."
        )
    values = acts.values[:, 0].astype(np.float64)
    means = np.stack([values[harmful].mean(0), values[~harmful].mean(0)]).astype(np.float32)
    difference = means[0] - means[1]
    return AdaSteerVectors(difference, difference, means, means, acts.provenance)


# --- the intervention ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Adaptive(Part):
    """`h + strength * (alpha(prompt) RD_l + beta(prompt) HD_l)` at every layer, on generated tokens.

    Attributes:
        alpha: the law of RD, as a tuple in the order of `Law`'s fields.
        beta: the law of HD.
        rejection: `[layer, d_model]`.
        harmfulness: `[layer, d_model]`.
        origins: harmful class means that d is counted from, for alpha and for beta, `[2, d_model]`.
        axes: what a vector less its origin is multiplied with to give d, `[2, d_model]`.
        strength: of everything; 1 in the paper.
    """

    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    rejection: np.ndarray
    harmfulness: np.ndarray
    origins: np.ndarray
    axes: np.ndarray
    strength: float = 1.0

    @property
    def laws(self) -> tuple[Law, Law]:
        """The laws of RD and HD."""
        return Law(*self.alpha), Law(*self.beta)

    def act(self, layer: int, hidden: torch.Tensor, step: Step) -> torch.Tensor:
        """See `Part.act`."""
        if step.tokens.has_last:
            self._read(layer, hidden, step)
        where = step.tokens.within(self.tokens)
        if where is None:
            return hidden
        alpha, beta = (step.memory[name].to(hidden.device)[:, None, None] for name in ("alpha", "beta"))
        delta = alpha * step.tensor("rejection", hidden)[layer] + beta * step.tensor("harmfulness", hidden)[layer]
        return step.change(layer, hidden, self.strength * delta, where)

    def _read(self, layer: int, hidden: torch.Tensor, step: Step) -> None:
        """The coefficients that are read at this layer, from the prompt's last token."""
        for i, (name, law) in enumerate(zip(("alpha", "beta"), self.laws, strict=True)):
            if law.layer == layer:
                apart = last_token(hidden, step).float() - step.tensor("origins", hidden)[i]
                d = apart @ step.tensor("axes", hidden)[i]
                step.memory[name] = (law.slope * (d + law.offset) + law.intercept).clamp(law.low, law.high)

    def scaled(self, factor: float) -> Adaptive:
        """See `Part.scaled`."""
        return replace(self, strength=factor * self.strength)

    def __str__(self) -> str:
        words = [f"{law.slope:g}(d{law.offset:+g}){law.intercept:+g} at {law.layer}" for law in self.laws]
        return f"adasteer({self.strength!r}: alpha {words[0]}, beta {words[1]}, {self.place}, {self.tokens})"


def adasteer(
    vectors: AdaSteerVectors | Path | str, laws: tuple[Law, Law] | None = None, strength: float = 1.0
) -> Intervention:
    """AdaSteer (Zhao et al. 2025, arXiv 2504.09466): h <- h + alpha RD + beta HD at all layers, on generated tokens.

    The coefficients are read once, from the prompt's last token: d = (h - mu_harmful) . unit(mu_harmless - mu_harmful),
    scaled so that the class means are 100 apart.

    Args:
        vectors: from `adasteer_vectors`, or a safetensors file of them.
        laws: of RD and of HD, from `fit_laws`; by default the published ones, for the three models that have them.
        strength: of both; 1 in the paper.

    Raises:
        FitError: the file holds no such vectors.
        InterventionError: the model has no published laws, or a law reads a layer that it has not.
    """
    vectors = vectors if isinstance(vectors, AdaSteerVectors) else AdaSteerVectors.load(vectors)
    about = vectors.provenance
    laws = laws or _published(about)
    reads = list(zip(laws, (vectors.rejection_means, vectors.harmfulness_means), strict=True))
    outside = [law.layer for law in laws if not 0 <= law.layer < about.n_layers]
    if outside:
        raise InterventionError(f"Layers of {about.name} run from 0 to {about.n_layers - 1}; a law reads {outside}.")
    part = Adaptive(
        model=about.name,
        fingerprint=about.fingerprint,
        site="resid",
        layers=tuple(range(about.n_layers)),
        tokens="generated",
        alpha=_numbers(laws[0]),
        beta=_numbers(laws[1]),
        rejection=vectors.rejection,
        harmfulness=vectors.harmfulness,
        origins=np.stack([means[0, law.layer] for law, means in reads]),
        axes=np.stack([_axis(means[:, law.layer]) for law, means in reads]),
        strength=check_number("A strength", strength),
    )
    return Intervention((part,))


def _numbers(law: Law) -> tuple[float, ...]:
    return law.layer, *(float(x) for x in (law.slope, law.offset, law.intercept, law.low, law.high))


def _axis(means: Float[np.ndarray, "2 d_model"]) -> Float[np.ndarray, " d_model"]:
    """From the harmful to the harmless mean, of such a length that the product with the way itself is 100."""
    way = means[1].astype(np.float64) - means[0]
    if not np.linalg.norm(way) > 0:
        raise FitError(
            "AdaSteer needs classes whose means differ; these are the same. Choose another layer for the law."
        )
    return (100 * way / (way @ way)).astype(np.float32)


def _published(about: Provenance) -> tuple[Law, Law]:
    for alias, laws in PUBLISHED.items():
        if about.name in (alias, MODELS[alias].hub):
            return laws
    raise InterventionError(
        f"AdaSteer's coefficients are published for {', '.join(PUBLISHED)} only; this is {about.name}. Fit them on "
        f"validation prompts with fit_laws. {nearest(about.name, PUBLISHED)}"
    )


# --- fitting the laws ------------------------------------------------------------------------------------------------


def fit_laws(
    model: TransformerBridge,
    vectors: AdaSteerVectors,
    prompts: pd.DataFrame,
    refuses: Callable[[pd.DataFrame], Sequence[bool | None]],
    coefficients: Sequence[float] = tuple(np.linspace(-0.4, 0.4, 9).round(3).tolist()),
    layers: Sequence[int] | None = None,
    max_new_tokens: int = 32,
    progress: bool = True,
) -> tuple[Law, Law]:
    """Laws of RD and of HD for a model that has no published ones, from what fixed coefficients do to validation prompts.

    Every prompt is completed at every coefficient; the smallest in size at which a harmful prompt is refused, or a
    harmless one answered, is what it needs. A law is the least-squares line of the need on d, at the layer where it fits
    best, clamped to the needs there are. First RD alone, then HD with the law of RD on, as in AdaSteer (Zhao et al.
    2025); that coefficients come from such a search and not by hand is ours.

    Args:
        model: the model the vectors are of.
        vectors: from `adasteer_vectors`.
        prompts: validation prompts, both labels.
        refuses: completions -> refused, answered, or None where nobody can say; a judge, as a function.
        coefficients: candidates.
        layers: where d may be read; all by default.
        max_new_tokens: length of the completions.
        progress: show bars.

    Raises:
        FitError: test prompts, or fewer than two prompts come out right at any coefficient.
    """
    check_no_test(prompts)
    acts = cache_activations(model, prompts, positions=("last_prompt",), layers=layers, progress=progress)
    harmful = (prompts["label"] == "harmful").to_numpy()
    grid = sorted(coefficients, key=lambda c: (abs(c), c))

    def needs(laws_at: Callable[[float], tuple[Law, Law]]) -> np.ndarray:
        """What each prompt needs, NaN where nothing in the grid helps."""
        steers = [adasteer(vectors, laws_at(c)) for c in grid]
        done = complete_grid(model, prompts, steers, max_new_tokens=max_new_tokens, progress=progress)
        refused = np.array([np.nan if r is None else float(r) for r in refuses(done)]).reshape(len(grid), len(prompts))
        right = refused == harmful
        return np.where(right.any(0), np.asarray(grid)[right.argmax(0)], np.nan)

    rejection = _law(acts, vectors.rejection_means, needs(lambda c: (_fixed(c), _fixed(0.0))))
    harmfulness = _law(acts, vectors.harmfulness_means, needs(lambda c: (rejection, _fixed(c))))
    return rejection, harmfulness


def _fixed(coefficient: float) -> Law:
    return Law(0, 0.0, 0.0, coefficient, coefficient, coefficient)


def _law(acts: Activations, means: np.ndarray, need: Float[np.ndarray, " prompt"]) -> Law:
    """The line of need on d that fits best over the layers."""
    known = np.isfinite(need)
    if known.sum() < 2:
        raise FitError(
            f"A law needs at least two prompts that some coefficient puts right; there are {known.sum()} of {len(need)}. "
            "Widen the coefficients, or add validation prompts."
        )
    fits = []
    for layer in acts.layers:
        d = (acts.sel(layer=layer).vectors[known].astype(np.float64) - means[0, layer]) @ _axis(means[:, layer])
        line = np.column_stack([d, np.ones_like(d)])
        (slope, intercept), *_ = np.linalg.lstsq(line, need[known], rcond=None)
        left = float(((line @ [slope, intercept] - need[known]) ** 2).sum())
        fits.append((left, layer, float(slope), float(intercept)))
    _, layer, slope, intercept = min(fits)
    return Law(layer, slope, 0.0, intercept, float(need[known].min()), float(need[known].max()))
