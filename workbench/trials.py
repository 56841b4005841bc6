"""Trying repairs: complete the same prompts under each, judge the replies, measure the damage, take the time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from workbench.accuracies import accuracy_table, answers
from workbench.completions import complete_grid
from workbench.costs import Change, damage, timing
from workbench.directions import Direction
from workbench.effects import effect_table
from workbench.errors import FitError
from workbench.judges import Judge, judge
from workbench.parts import Intervention
from workbench.repairs import Repair, strength_repairs
from workbench.steering import steer
from workbench.store import Store

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class Trial:
    """What came of trying repairs; every table has a column `name`, of the repair.

    Attributes:
        completions: of `complete`, a row per repair and prompt.
        verdicts: of `judge`, a row per repair, prompt and judge.
        damage: of `damage`, a row per repair and prompt.
        seconds: of `timing`; None where no time was taken.
    """

    completions: pd.DataFrame
    verdicts: pd.DataFrame
    damage: pd.DataFrame
    seconds: pd.DataFrame | None

    def effects(self, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
        """The effects table."""
        return effect_table(self.verdicts, self.damage, self.seconds, draws=draws, seed=seed)


def try_repairs(
    model: TransformerBridge,
    prompts: pd.DataFrame,
    repairs: Sequence[Repair],
    by: Judge | Sequence[Judge],
    *,
    max_new_tokens: int = 32,
    batch_size: int = 32,
    timed: int = 8,
    store: Store | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Trial:
    """Complete prompts under each repair, judge the replies, and measure what each repair costs.

    What the store has already is not computed again, but for the time, which is taken on a few prompts of one language.

    Args:
        model: from `load_model`, with nothing on that belongs to a repair.
        prompts: held-out prompts, of both labels.
        repairs: named differently; one of them the baseline.
        by: the judge, or several.
        max_new_tokens: length of completions.
        batch_size: rows computed together.
        timed: time so many prompts; 0 takes no time.
        store: by default the model's own.
        progress: show bars.
        say: called with a line on each step.

    Raises:
        FitError: two repairs have one name.
    """
    names = [repair.name for repair in repairs]
    if len(set(names)) < len(names):
        raise FitError(f"Repairs must have names of their own; got {', '.join(names)}. Rename one.")
    how = {"store": store, "progress": progress}
    say(f"Completing {len(prompts)} prompts under {len(repairs)} repairs: {', '.join(names)}")
    done = complete_under(model, prompts, repairs, max_new_tokens=max_new_tokens, batch_size=batch_size, **how)
    say("Judging")
    verdicts = pd.concat([_judged(done, one, store) for one in ([by] if isinstance(by, Judge) else by)])
    say("Measuring perplexity and divergence")
    harm = [
        damage(model, part, _change(model, intervention), batch_size=max(1, batch_size // 2), **how)
        for repair in repairs
        for intervention, part in _parts(repair, done[done["name"] == repair.name])
    ]
    seconds = None
    if timed:
        say("Taking the time")
        few = prompts[prompts["language"] == prompts["language"].iloc[-1]][:timed]
        changes = {repair.name: _change(model, repair.of(few["language"].iloc[0])) for repair in repairs}
        seconds = timing(model, few, changes, max_new_tokens=max_new_tokens)
    return Trial(done, verdicts.reset_index(drop=True), pd.concat(harm, ignore_index=True), seconds)


def complete_under(
    model: TransformerBridge,
    prompts: pd.DataFrame,
    repairs: Sequence[Repair],
    *,
    max_new_tokens: int = 32,
    batch_size: int = 32,
    store: Store | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Completions of every prompt under each repair, each under what the repair has on in the prompt's language.

    Returns:
        The tables of `complete`, one below the other in the order of the repairs, with `name`.
    """
    how = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "store": store, "progress": progress}
    _fill_grid(model, prompts, repairs, how)
    tables = []
    for repair in repairs:
        parts = [complete_grid(model, part, [on], **how) for on, part in _parts(repair, prompts)]
        rows = pd.concat(parts, ignore_index=True).set_index("prompt_id").loc[prompts["prompt_id"]].reset_index()
        tables.append(rows.assign(name=repair.name))
    return pd.concat(tables, ignore_index=True)


def sweep_strengths(
    model: TransformerBridge,
    prompts: pd.DataFrame,
    direction: Direction,
    strengths: Sequence[float],
    by: Judge,
    *,
    tokens: str | None = None,
    max_new_tokens: int = 32,
    batch_size: int = 32,
    draws: int = 1000,
    store: Store | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Effect and damage of a direction at each strength; give it to `trade_off` for Delta against damage.

    Args:
        model: from `load_model`.
        prompts: validation prompts of both labels.
        direction: what is added.
        strengths: residual-stream units, none of them 0; the baseline always takes part.
        by: the judge.
        tokens: where; as `add` has it by default.
        max_new_tokens: length of completions.
        batch_size: rows computed together.
        draws: bootstrap resamples.
        store: by default the model's own.
        progress: show bars.
        say: called with a line on each step.

    Returns:
        `strength` and the columns of `effects.EFFECT_COLUMNS`.

    Raises:
        FitError: a strength is 0 or comes twice.
    """
    sweep = strength_repairs(direction, strengths, tokens)
    how = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "store": store, "progress": progress, "say": say}
    table = try_repairs(model, prompts, sweep, by, timed=0, **how).effects(draws)
    table.insert(0, "strength", table["name"].map({repair.name: repair.strength for repair in sweep}))
    return table


def try_utility(
    model: TransformerBridge,
    questions: pd.DataFrame,
    repairs: Sequence[Repair],
    *,
    batch_size: int = 16,
    store: Store | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Accuracy on multiple-choice questions under each repair, and its change against the baseline, paired.

    Args:
        model: from `load_model`.
        questions: from `load_questions`.
        repairs: one of them the baseline.
        batch_size: questions answered together.
        store: by default the model's own.
        progress: show bars.

    Returns:
        The columns of `measures.MEASURE_COLUMNS`; the measure is `accuracy`, in [0, 1].

    Raises:
        FitError: there is no baseline.
    """
    parts = []
    for repair in repairs:
        for intervention, part in _parts(repair, questions):
            with steer(model, intervention) if intervention else contextlib.nullcontext():
                done = answers(model, part, batch_size=batch_size, store=store, progress=progress)
            parts.append(done.assign(name=repair.name))
    return accuracy_table(pd.concat(parts, ignore_index=True))


def _fill_grid(model: TransformerBridge, prompts: pd.DataFrame, repairs: Sequence[Repair], how: dict) -> None:
    """Complete at once what can share the prompts' keys and values: the strengths of a sweep."""
    grid = [r.everywhere for r in repairs if not r.by_language and r.everywhere and r.everywhere.spares_prompt]
    grid = list(dict.fromkeys(grid))
    if len(grid) > 1:
        complete_grid(model, prompts, grid, **how)


def _parts(repair: Repair, rows: pd.DataFrame) -> list[tuple[Intervention | None, pd.DataFrame]]:
    """Rows by what the repair has on in their language."""
    on = {code: repair.of(code) for code in rows["language"].unique()}
    codes: dict[Intervention | None, list[str]] = {}
    for code, intervention in on.items():
        codes.setdefault(intervention, []).append(code)
    return [(which, rows[rows["language"].isin(mine)].reset_index(drop=True)) for which, mine in codes.items()]


def _judged(completions: pd.DataFrame, by: Judge, store: Store | None) -> pd.DataFrame:
    return judge(completions, by, store=store).assign(name=completions["name"].to_numpy())


def _change(model: TransformerBridge, intervention: Intervention | None) -> Change | None:
    return None if intervention is None else partial(steer, model, intervention)
