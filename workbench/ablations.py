"""Layer choice by ablation: take the direction out at one layer at a time, and see where refusing harm suffers most."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from workbench.activations import Activations
from workbench.completions import complete
from workbench.contrasts import Strategy, mean_difference
from workbench.costs import Change, first_token_kl
from workbench.directions import Direction, fit_direction
from workbench.effects import effect_table
from workbench.encoding import Encoded, encode
from workbench.errors import FitError
from workbench.interventions import ablate
from workbench.judges import Judge, judge
from workbench.likelihoods import Scores, kept_scores, next_log_probs
from workbench.measures import BASELINE, MEASURE_COLUMNS, Ratio, measured
from workbench.places import group_names
from workbench.repairs import Repair, baseline
from workbench.rows import KEYS
from workbench.steering import steer
from workbench.store import Store
from workbench.sweeps import SOURCE
from workbench.trials import complete_under
from workbench.verdicts import refused

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_SCREEN = {
    "refusal_score": Ratio("refusal_score", label="harmful"),
    "harmless_refusal_score": Ratio("refusal_score", label="harmless"),
    "kl": Ratio("kl", label="harmless", missing="no_kl"),
}
_JUDGED = ("harmful_refusal", "harmless_refusal")

LAYER_UNITS = dict.fromkeys(_SCREEN, "nats") | dict.fromkeys(_JUDGED, "share")
"""Measures of the layer sweep and their units.

refusal_score: mean over harmful prompts of log p - log (1 - p), p the probability that the first token is one that begins
refusals (Arditi et al. 2024, arXiv 2406.11717, section 2.3); harmless_refusal_score: over harmless ones. kl: from the
model to the ablated one, first token, harmless prompts. harmful_refusal, harmless_refusal: share refused by the judge;
of the finalists only.
"""

LAYER_COLUMNS = ("layer", *MEASURE_COLUMNS[1:])
"""Columns of the layer sweep: `layer` is missing for the model itself; the others as in `measures.MEASURE_COLUMNS`."""


def layer_directions(
    acts: Activations,
    position: str = "last_prompt",
    fit: Mapping[str, object] | None = None,
    method: Strategy = mean_difference,
) -> dict[int, Direction]:
    """A harmfulness direction at each layer, fitted on `fit`, by default the training prompts of the high tier."""
    source = acts.sel(position=position, **(SOURCE if fit is None else fit))
    return {layer: fit_direction(source.sel(layer=layer), method) for layer in source.layers}


def layer_sweep(
    model: TransformerBridge,
    prompts: pd.DataFrame,
    directions: Mapping[int, Direction],
    by: Judge,
    *,
    finalists: int = 3,
    max_new_tokens: int = 32,
    batch_size: int = 16,
    draws: int = 1000,
    store: Store | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """What ablating the direction of a layer at that layer does to refusal, for every layer.

    Every layer is screened by the first token of the reply, whose refusal score falls where refusing falls; the layers
    where it falls lowest are completed and judged. Which tokens begin refusals is learned from the model's own replies
    to these prompts, in all their languages.

    Args:
        model: from `load_model`.
        prompts: validation prompts of both labels.
        directions: by layer, from `layer_directions`.
        by: the judge.
        finalists: complete and judge so many layers; all of them, if there are fewer.
        max_new_tokens: length of completions.
        batch_size: rows computed together.
        draws: bootstrap resamples.
        store: by default the model's own.
        progress: show bars.
        say: called with a line on each step.

    Returns:
        The columns of `LAYER_COLUMNS`; every candidate, and the model itself.

    Raises:
        FitError: test prompts, or prompts that a direction was fitted on; or the model refuses none of these prompts.
    """
    _check_prompts(prompts, directions)
    how = {"store": store, "progress": progress}
    say(f"Completing {len(prompts)} validation prompts with nothing on")
    verdicts = judge(
        complete(model, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, **how), by, store=store
    )
    tokens = refusal_tokens(model, prompts, verdicts, batch_size=batch_size, **how)
    repairs = {layer: Repair(str(layer), ablate(direction)) for layer, direction in directions.items()}
    say(f"Screening {len(directions)} layers by the first token")
    changes = {BASELINE: None} | {r.name: partial(steer, model, r.everywhere) for r in repairs.values()}
    screened = measured(
        pd.concat(
            [_screen(model, prompts, name, change, tokens, batch_size, how) for name, change in changes.items()],
            ignore_index=True,
        ),
        _SCREEN,
        draws=draws,
    )
    best = _lowest(screened, "refusal_score")[:finalists]
    say(f"Completing at layers {', '.join(best)}")
    chosen = [baseline(), *(repairs[int(name)] for name in best)]
    done = complete_under(model, prompts, chosen, max_new_tokens=max_new_tokens, batch_size=batch_size, **how)
    judged = judge(done, by, store=store).assign(name=done["name"].to_numpy())
    refusals = effect_table(judged, draws=draws)
    table = pd.concat([screened, refusals[refusals["measure"].isin(_JUDGED)]], ignore_index=True)
    layers = pd.to_numeric(table["name"].where(table["name"] != BASELINE)).astype("Int64")
    return table.assign(layer=layers)[list(LAYER_COLUMNS)]


def choose_by_ablation(table: pd.DataFrame) -> int:
    """The layer where ablation leaves the least harmful refusal, mean over languages; the lower refusal score breaks ties.

    Args:
        table: from `layer_sweep`.

    Raises:
        FitError: no layer was judged, or no layer's harmful refusal falls below the model's own.
    """
    own = table[(table["relative_to"] == "") & (table["language"] != "")]
    means = own.groupby(["measure", own["layer"].astype("Float64").fillna(-1.0)])["value"].mean()
    judged = means.get("harmful_refusal", pd.Series(dtype=float))
    plain = judged.get(-1.0, np.nan)
    judged = judged.drop(-1.0, errors="ignore")
    if judged.empty or not judged.min() < plain:
        raise FitError(
            f"Ablation must lower harmful refusal somewhere to choose a layer by it; the model refuses {plain:.2f}, and "
            f"at best {judged.min():.2f} under ablation. Choose by AUROC (choose_layer), or judge more finalists."
        )
    scores = means["refusal_score"]
    return int(min(judged.index, key=lambda layer: (judged[layer], scores[layer])))


def refusal_tokens(
    model: TransformerBridge,
    prompts: pd.DataFrame,
    verdicts: pd.DataFrame,
    *,
    batch_size: int = 16,
    store: Store | None = None,
    progress: bool = True,
) -> tuple[int, ...]:
    """First tokens that begin more of the model's refusals than of its answers.

    Args:
        model: from `load_model`, with nothing on.
        prompts: the prompts that were completed.
        verdicts: on greedy completions of them by the model itself.
        batch_size: prompts computed together.
        store: by default the model's own.
        progress: show a bar.

    Raises:
        FitError: there is no such token; the message has the counts.
    """

    def compute(batch: list[Encoded]) -> list[Scores]:
        return [{"token": int(token)} for token in next_log_probs(model, batch).argmax(-1)]

    encoded = encode(model, prompts["text"].tolist())
    first = kept_scores(
        model, encoded, {"score": "first token"}, compute, batch_size=batch_size, store=store, progress=progress
    )
    was = refused(prompts["prompt_id"].map(verdicts.set_index("prompt_id")["verdict"]))
    table = pd.DataFrame({"token": [int(score["token"]) for score in first], "refused": was.to_numpy()}).dropna()
    counts = table.groupby("token")["refused"].agg(["sum", "size"])
    tokens = counts.index[2 * counts["sum"] > counts["size"]]
    if tokens.empty:
        raise FitError(
            f"The model must refuse some of these prompts to know how refusals begin; it refused {int(was.sum())} of "
            f"{int(was.notna().sum())}, and no first token begins more refusals than answers. Choose the layer by AUROC."
        )
    return tuple(int(token) for token in tokens)


def refusal_scores(
    model: TransformerBridge,
    texts: Sequence[str],
    tokens: Sequence[int],
    *,
    batch_size: int = 16,
    store: Store | None = None,
    progress: bool = True,
) -> list[float]:
    """Log p - log (1 - p) of the first token being one of `tokens`, nats, with whatever is on (arXiv 2406.11717, 2.3)."""

    def compute(batch: list[Encoded]) -> list[Scores]:
        found = next_log_probs(model, batch).double()
        inside = torch.zeros(found.shape[1], dtype=torch.bool, device=found.device)
        inside[list(tokens)] = True
        odds = found[:, inside].logsumexp(1) - found[:, ~inside].logsumexp(1)
        return [{"refusal_score": float(value)} for value in odds]

    settings = {"score": "first-token refusal", "tokens": [int(token) for token in tokens]}
    encoded = encode(model, [*texts])
    found = kept_scores(model, encoded, settings, compute, batch_size=batch_size, store=store, progress=progress)
    return [score["refusal_score"] for score in found]


def _check_prompts(prompts: pd.DataFrame, directions: Mapping[int, Direction]) -> None:
    if (prompts["split"] == "test").any():
        raise FitError("A layer must not be chosen on test prompts; some of these are. Select split == 'val'.")
    known = group_names(prompts)
    for layer, direction in directions.items():
        if known & direction.groups:
            raise FitError(
                f"The direction of layer {layer} was fitted on {len(known & direction.groups)} groups of these prompts. "
                "Select others, split == 'val'."
            )


def _screen(
    model: TransformerBridge,
    prompts: pd.DataFrame,
    name: str,
    change: Change | None,
    tokens: Sequence[int],
    batch_size: int,
    how: Mapping,
) -> pd.DataFrame:
    """First-token scores of every prompt under one change."""
    rows = prompts[[key for key in KEYS if key in prompts]].reset_index(drop=True)
    texts = prompts["text"].reset_index(drop=True)
    with change() if change else contextlib.nullcontext():
        scores = refusal_scores(model, texts.tolist(), tokens, batch_size=batch_size, **how)
    kl = pd.Series(np.nan, index=rows.index)
    harmless = rows["label"] == "harmless"
    if change and harmless.any():
        kl[harmless] = first_token_kl(model, texts[harmless].tolist(), change, batch_size=batch_size, **how)
    blank = {"one": 1.0, "degenerate": 0.0, "no_verdict": False, "no_kl": False}
    return rows.assign(name=name, refusal_score=scores, kl=kl, **blank)


def _lowest(table: pd.DataFrame, measure: str) -> list[str]:
    """Names of runs by a measure, mean over languages, lowest first."""
    own = table[(table["measure"] == measure) & (table["relative_to"] == "") & (table["language"] != "")]
    means = own[own["name"] != BASELINE].groupby("name")["value"].mean()
    return [str(name) for name in means.sort_values(kind="stable").index]
