"""What a study does with a model beyond watching it: steer, ask what it knows, sweep strengths and layers, invert.

Each takes a study that was run, does its steps, and leaves a table beside the others; what the store has is not computed
again, so that a run that was stopped goes on where it was.

| table | a row is | columns |
|---|---|---|
| `steered` | a repair x test prompt | those of `completions` and `verdicts`, and `name` of the repair |
| `effects` | a repair x measure x language or tier | `effects.EFFECT_COLUMNS` |
| `utility` | a repair x language or tier | `measures.MEASURE_COLUMNS`; the measure is `accuracy` |
| `strengths` | a strength x measure x language or tier | `strength` and `effects.EFFECT_COLUMNS` |
| `layers` | a layer x measure x language or tier | `ablations.LAYER_COLUMNS` |
| `inversion` | a change x measure x language or tier | `measures.MEASURE_COLUMNS` |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from workbench.ablations import layer_directions, layer_sweep
from workbench.activations import Activations, cache_activations
from workbench.errors import FitError, WorkbenchError
from workbench.interventions import add
from workbench.inversions import inversion
from workbench.judges import lexicon_judge
from workbench.model import describe
from workbench.prompts import load_prompts
from workbench.questions import KNOWLEDGE, load_questions
from workbench.refusals import fit_refusal
from workbench.repairs import Repair, baseline, conditional_repair, fit_ingredients
from workbench.rivals import study_repairs
from workbench.steering import steer
from workbench.study import StudyFolder, write_table
from workbench.trials import sweep_strengths, try_repairs, try_utility

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Say = Callable[[str], None]

STRENGTHS = tuple(0.25 * k for k in range(1, 13))
"""Shares of the gap between harmful and harmless projections; the paper's sweep has 0 to 3 in steps of 0.25."""

_VERDICT = ("judge", "verdict", "raw", "reason", "reply_language")


def _silent(line: str) -> None:
    """Say nothing."""


def _acts(opened: StudyFolder, model: TransformerBridge) -> Activations:
    """The study's activations, from the store."""
    made = describe(model).fingerprint
    if made != opened.provenance.fingerprint:
        raise WorkbenchError(
            f"The model must be the study's, {opened.provenance.name} ({opened.provenance.fingerprint}); this is "
            f"{describe(model).name} ({made}). Load that one, or run the study on this one."
        )
    return cache_activations(model, opened.prompts)


def _pairs(opened: StudyFolder, split: str, per_type: int | None) -> pd.DataFrame:
    """Prompts of a split, so many pairs of each harm type: the first ones, the same in every language."""
    few = per_type if split == "test" else None
    prompts = load_prompts(opened.study.prompts, opened.study.languages, test_pairs_per_type=few)
    part = prompts[prompts["split"] == split]
    if per_type is not None and split != "test":
        rank = part.groupby("harm_type")["pair_id"].rank(method="dense")
        part = part[rank <= per_type]
    return part.reset_index(drop=True)


def steer_study(
    opened: StudyFolder,
    model: TransformerBridge,
    *,
    pairs_per_type: int | None = 2,
    strength: float = 1.0,
    say: Say = _silent,
) -> StudyFolder:
    """Baseline, add, ablate, CAST, AdaSteer and the conditional gate on test prompts: leaves `steered` and `effects`.

    Args:
        opened: the study.
        model: the study's model.
        pairs_per_type: test pairs of each harm type, as many as the demo; None takes all.
        strength: the paper's lambda.
        say: called with a line on each step.
    """
    study, by = opened.study, lexicon_judge()
    acts, layer = _acts(opened, model), study.working_layer(opened.provenance)
    repairs = study_repairs(
        model, acts, by, layer, source_tier=study.source_tier, strength=strength,
        max_new_tokens=study.max_new_tokens, say=say,
    )  # fmt: skip
    test = _pairs(opened, "test", pairs_per_type)
    trial = try_repairs(model, test, repairs, by, max_new_tokens=study.max_new_tokens, say=say)
    said = trial.verdicts[["name", "prompt_id", *_VERDICT]]
    write_table(opened.path, "steered", trial.completions.merge(said, on=["name", "prompt_id"], how="left"))
    write_table(opened.path, "effects", trial.effects())
    return opened


def utility_study(
    opened: StudyFolder,
    model: TransformerBridge,
    *,
    questions: str = KNOWLEDGE,
    per_language: int | None = None,
    repaired: bool = True,
    say: Say = _silent,
) -> StudyFolder:
    """Multiple-choice accuracy by language, plain, adding, and under the conditional gate: leaves `utility`.

    Args:
        opened: the study.
        model: the study's model.
        questions: as for `load_questions`.
        per_language: so many questions of each language; all by default.
        repaired: also with the repairs on; plain is enough for the comprehension column of the budget.
        say: called with a line on each step.
    """
    table = load_questions(questions, opened.study.languages, per_language=per_language)
    repairs = [baseline()]
    if repaired:
        made = fit_ingredients(_acts(opened, model), opened.study.working_layer(opened.provenance))
        repairs += [Repair("add", made.gap * add(made.direction)), conditional_repair(made, 0)]
    say(f"Asking {len(table)} questions under {len(repairs)} conditions")
    write_table(opened.path, "utility", try_utility(model, table, repairs))
    return opened


def sweep_study(
    opened: StudyFolder,
    model: TransformerBridge,
    *,
    pairs_per_type: int | None = 1,
    strengths: Sequence[float] = STRENGTHS,
    say: Say = _silent,
) -> StudyFolder:
    """Refusal and damage against strength, on validation prompts: leaves `strengths`.

    Args:
        opened: the study.
        model: the study's model.
        pairs_per_type: validation pairs of each harm type; None takes all.
        strengths: shares of the gap between harmful and harmless projections.
        say: called with a line on each step.
    """
    study = opened.study
    made = fit_ingredients(_acts(opened, model), study.working_layer(opened.provenance), study.source_tier)
    table = sweep_strengths(
        model, _pairs(opened, "val", pairs_per_type), made.direction, [k * made.gap for k in strengths],
        lexicon_judge(), max_new_tokens=study.max_new_tokens, say=say,
    )  # fmt: skip
    # In units of the gap a sweep can be compared between models, layers and papers.
    write_table(opened.path, "strengths", table.assign(strength=(table["strength"] / made.gap).fillna(0.0)))
    return opened


def layers_study(
    opened: StudyFolder, model: TransformerBridge, *, pairs_per_type: int | None = 1, say: Say = _silent
) -> StudyFolder:
    """What ablating the direction at each layer does to refusal, on validation prompts: leaves `layers`.

    Args:
        opened: the study.
        model: the study's model.
        pairs_per_type: validation pairs of each harm type; None takes all.
        say: called with a line on each step.
    """
    study = opened.study
    directions = layer_directions(_acts(opened, model), study.position, {"tier": study.source_tier, "split": "train"})
    prompts = _pairs(opened, "val", pairs_per_type)
    table = layer_sweep(model, prompts, directions, lexicon_judge(), max_new_tokens=study.max_new_tokens, say=say)
    write_table(opened.path, "layers", table)
    return opened


def invert_study(
    opened: StudyFolder, model: TransformerBridge, *, pairs_per_type: int | None = 2, say: Say = _silent
) -> StudyFolder:
    """Whether the harmfulness direction, and the refusal direction, move what the model says of harm: leaves `inversion`.

    Args:
        opened: the study; a refusal direction needs completions of prompts that are not test.
        model: the study's model.
        pairs_per_type: test pairs of each harm type; None takes all.
        say: called with a line on each step.
    """
    study = opened.study
    acts, layer = _acts(opened, model), study.working_layer(opened.provenance)
    made = fit_ingredients(acts, layer, study.source_tier)
    vectors = {"harmfulness": made.gap * add(made.direction, tokens="all")}
    vectors["minus harmfulness"] = -made.gap * add(made.direction, tokens="all")
    try:
        judged = opened.verdicts.query("split != 'test'")
        here = acts.sel(layer=layer, position="last_prompt", prompt_id=list(judged["prompt_id"]))
        refusal = fit_refusal(here, judged)
        vectors["refusal"] = made.gap * add(refusal, tokens="all")
        vectors["minus refusal"] = -made.gap * add(refusal, tokens="all")
    except (FitError, WorkbenchError) as error:
        say(f"The refusal direction is left out: {error}")
    changes = {name: (lambda value=value: steer(model, value)) for name, value in vectors.items()}
    test = _pairs(opened, "test", pairs_per_type)
    say(f"Asking whether {len(test)} requests are harmful, with {', '.join(vectors)} on")
    write_table(opened.path, "inversion", inversion(model, test, changes))
    return opened
