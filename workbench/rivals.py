"""Other people's steering as repairs, adapted to the target languages as in arXiv 2606.01196: CAST and AdaSteer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.activations import Activations
from workbench.conditions import fit_cast
from workbench.errors import FitError
from workbench.judges import Judge, judge
from workbench.laws import PUBLISHED, adasteer, adasteer_vectors, fit_laws
from workbench.model import describe
from workbench.repairs import BUDGETS, Repair, default_repairs, fit_ingredients
from workbench.rows import groups
from workbench.verdicts import refused
from workbench.weights import MODELS

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PER_CLASS = 32
"""Examples per class of each target language that both methods are fitted on."""

_LAYERS = (15, 24, 28)
"""CAST's behaviour layers, 15 to 23, and the depth of the shallowest model they were published for."""


def target_languages(rows: pd.DataFrame, source_tier: str = "high") -> list[str]:
    """Languages to adapt to: the low tier; where there is none, all outside the source tier.

    Raises:
        FitError: there is none.
    """
    outside = rows[rows["tier"] != source_tier]
    low = outside[outside["tier"] == "low"]
    codes = list((low if len(low) else outside)["language"].drop_duplicates())
    if not codes:
        raise FitError(f"There must be a language to adapt to; all of these are of the {source_tier} tier. Add others.")
    return codes


def examples_of(
    acts: Activations, languages: Sequence[str], split: str, per_class: int | None = None, seed: int = 0
) -> Activations:
    """Activations of so many prompt groups of each language, the same ones in every language of a parallel set.

    Args:
        acts: activations of all prompts.
        languages: codes.
        split: `train` or `val`.
        per_class: groups of each language; a group of a set of pairs has a prompt of each class. All by default.
        seed: of the draw.
    """
    chosen = acts.sel(language=list(languages), split=split)
    if per_class is None:
        return chosen
    rows = chosen.rows.assign(group=groups(chosen.rows))
    order = pd.Series(np.random.default_rng(seed).permutation(rows["group"].unique()))
    rank = rows["group"].map({name: i for i, name in order.items()})
    # Sets without pairs have a group for each prompt, so classes are counted by themselves.
    place = rank.groupby([rows["language"], rows["label"]]).rank()
    return chosen.sel(prompt_id=list(rows.loc[place <= per_class, "prompt_id"]))


def cast_repair(
    acts: Activations, languages: Sequence[str], *, strength: float = 1.5, per_class: int = PER_CLASS, seed: int = 0
) -> Repair:
    """CAST, adapted: vectors fitted on training prompts of the target languages, condition chosen on their validation.

    The behaviour is added at layers 15 to 23, as published for models of 28 to 42 layers; in shallower models at the same
    share of the depth of the shallowest.

    Args:
        acts: activations of all prompts, with `prompt_mean` and `last_prompt`, all layers.
        languages: codes of the target languages.
        strength: of each unit vector, residual-stream units.
        per_class: examples of each language.
        seed: of the draw.

    Raises:
        FitError: a contrast is degenerate, or prompts have no pairs.
    """
    first, end, depth = _LAYERS
    n = acts.provenance.n_layers
    share = min(1.0, n / depth)
    layers = range(round(first * share), max(round(end * share), round(first * share) + 1))
    train, held = examples_of(acts, languages, "train", per_class, seed), examples_of(acts, languages, "val")
    return Repair("CAST", fit_cast(train, held, layers, strength))


def adasteer_repair(
    model: TransformerBridge,
    acts: Activations,
    languages: Sequence[str],
    by: Judge,
    *,
    per_class: int = PER_CLASS,
    law_groups: int = 4,
    max_new_tokens: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Repair:
    """AdaSteer, adapted: both vectors are the mean difference over the target languages' training prompts.

    Published coefficients are used for the models that have them; for others they are fitted on validation prompts.

    Args:
        model: from `load_model`.
        acts: activations of all prompts at `last_prompt`, all layers, and their texts.
        languages: codes of the target languages.
        by: the judge that says what was refused while the coefficients are fitted.
        per_class: examples of each language.
        law_groups: validation prompt groups of each language that coefficients are fitted on.
        max_new_tokens: length of the completions they are fitted with.
        seed: of the draw.
        progress: show bars.

    Raises:
        FitError: too few validation prompts come out right under any coefficient.
    """
    vectors = adasteer_vectors(examples_of(acts, languages, "train", per_class, seed))
    name = describe(model).name
    if any(name in (alias, MODELS[alias].hub) for alias in PUBLISHED):
        return Repair("AdaSteer", adasteer(vectors))
    validation = examples_of(acts, languages, "val", law_groups, seed).rows
    laws = fit_laws(model, vectors, validation, _refuses(by), max_new_tokens=max_new_tokens, progress=progress)
    return Repair("AdaSteer", adasteer(vectors, laws))


def _refuses(by: Judge) -> Callable[[pd.DataFrame], list[bool | None]]:
    """A judge as a function from completions to refused, answered, or None where nobody can say."""

    def refuses(completions: pd.DataFrame) -> list[bool | None]:
        said = refused(judge(completions, by)["verdict"])
        return [None if np.isnan(value) else bool(value) for value in said]

    return refuses


def study_repairs(
    model: TransformerBridge,
    acts: Activations,
    by: Judge,
    layer: int,
    *,
    source_tier: str = "high",
    strength: float = 1.0,
    budgets: Sequence[int] = BUDGETS,
    max_new_tokens: int = 32,
    seed: int = 0,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> list[Repair]:
    """Everything that the default study tries, in order; a method that cannot be fitted here is left out, and said.

    Args:
        model: from `load_model`.
        acts: activations of all prompts, all layers, `last_prompt` and `prompt_mean`, and their texts.
        by: the judge that AdaSteer's coefficients are fitted with.
        layer: where the direction, the subspace and the gate are read.
        source_tier: tier of the source languages.
        strength: the paper's lambda.
        budgets: labelled examples per class that gates are recalibrated with.
        max_new_tokens: length of the completions AdaSteer's coefficients are fitted with.
        seed: of all draws.
        progress: show bars.
        say: called with a line on each step.
    """
    made = fit_ingredients(acts, layer, source_tier)
    methods = {
        "CAST": lambda codes: cast_repair(acts, codes, seed=seed),
        "AdaSteer": lambda codes: adasteer_repair(
            model, acts, codes, by, max_new_tokens=max_new_tokens, seed=seed, progress=progress
        ),
    }
    others = []
    for name, method in methods.items():
        say(f"Fitting {name}")
        try:
            others.append(method(target_languages(acts.rows, source_tier)))
        except FitError as error:
            say(f"{name} is left out: {error}")
    return default_repairs(made, strength=strength, budgets=budgets, seed=seed, others=others)
