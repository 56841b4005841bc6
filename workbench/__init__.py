"""A workbench for multilingual LLM safety: where representation and action part ways, and how to repair it.

Public names are resolved on first use, so that `import workbench` loads no heavy library.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# Threads that spin while they wait slow each other down five- to twentyfold once another program wants the cores (measured
# on two cores); sleeping costs microseconds on a quiet machine. It must be said before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_PUBLIC = {
    "errors": ("WorkbenchError", "PromptError", "ModelError", "StoreError", "FitError", "JudgeError"),
    "languages": ("LANGUAGES", "Language", "tier"),
    "verdicts": ("VERDICTS", "refused"),
    "intervals": ("rate", "difference", "paired_difference", "bootstrap"),
    "provenance": ("Provenance",),
    "reviews": ("add_review", "read_reviews", "reviewed"),
    "prompts": ("load_prompts", "read_prompts", "check_prompts"),
    "store": ("Store", "open_store", "find_stores"),
    "encoding": ("chat", "locate"),
    "weights": ("MODELS",),
    "model": ("load_model", "describe"),
    "activations": ("Activations", "cache_activations"),
    "contrasts": (
        *("mean_difference", "whitened", "logistic", "random_direction"),
        *("first_component", "pairwise_component", "within_languages"),
    ),
    "directions": ("Direction", "fit_direction", "fit_each", "cosines"),
    "refusals": ("Refusals", "fit_refusal", "fit_refusals"),
    "subspaces": ("Subspace", "fit_subspace", "harm_directions", "principal_components", "random_subspace"),
    "scores": ("project", "cross_project", "features", "auroc"),
    "sweeps": ("sweep", "choose_layer"),
    "nulls": ("controls",),
    "maps": ("coordinates",),
    "similarities": ("compare_directions",),
    "translations": ("u_scores",),
    "gates": ("Gate", "fit_gate", "recalibrate", "recalibrate_unlabelled", "refit"),
    "fewshot": ("few_shot",),
    "allocations": ("allocation",),
    "completions": ("complete", "complete_grid"),
    "parts": ("Intervention",),
    "interventions": ("add", "ablate", "patch"),
    "conditionals": ("conditional",),
    "conditions": ("cast", "fit_cast"),
    "laws": ("adasteer", "adasteer_vectors", "fit_laws"),
    "steering": ("steer",),
    "benches": ("Bench",),
    "questions": ("load_questions",),
    "question_checks": ("check_questions",),
    "accuracies": ("utility", "comprehension"),
    "costs": ("damage", "timing"),
    "effects": ("effect_table", "trade_off"),
    "inversions": ("inversion",),
    "repairs": ("Repair", "default_repairs", "fit_ingredients"),
    "rivals": ("study_repairs",),
    "trials": ("try_repairs", "try_utility", "sweep_strengths"),
    "ablations": ("layer_directions", "layer_sweep", "choose_by_ablation"),
    "judges": ("Judge", "lexicon_judge", "judge", "reading"),
    "guards": ("guard_judge",),
    "endpoints": ("api_judge",),
    "labels": ("add_label", "read_labels"),
    "transcripts": ("read_completions", "read_verdicts"),
    "agreements": ("agreement", "confusion", "krippendorff_alpha"),
    "corrections": ("corrected_rates",),
    "analysis": ("refusal_rates", "gap_table"),
    "ledger": ("gap_ledger",),
    "budget": ("selectivity_budget",),
    "confounds": ("confound_panel",),
    "study": ("Study", "run", "open_study", "analyse"),
    "experiments": ("steer_study", "utility_study", "sweep_study", "layers_study", "invert_study"),
    "plots": ("overview",),
    "widgets": (
        *("GapExplorer", "DirectionLab", "RecalibrationStudio", "SteeringBench"),
        *("ActivationMap", "Annotator", "AllocationExplorer"),
    ),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"workbench.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
