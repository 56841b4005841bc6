"""Repairs are tried on the same prompts, each under its own name, and nothing of one answers for another."""

import pandas as pd
import pytest

from workbench.accuracies import utility
from workbench.activations import cache_activations
from workbench.completions import complete
from workbench.costs import damage
from workbench.effects import trade_off
from workbench.errors import FitError
from workbench.interventions import add
from workbench.judges import constant_judge, lexicon_judge
from workbench.questions import load_questions
from workbench.repairs import baseline, conditional_repair, default_repairs, fit_ingredients, strength_repairs
from workbench.steering import steer
from workbench.trials import complete_under, sweep_strengths, try_repairs, try_utility

HOW = {"max_new_tokens": 3, "progress": False}


@pytest.fixture
def made(home, tiny, prompts):
    acts = cache_activations(tiny("llama"), prompts, positions=["last_prompt"], progress=False)
    return fit_ingredients(acts, layer=2)


@pytest.fixture
def test_prompts(prompts):
    return prompts[prompts["split"] == "test"].reset_index(drop=True)


def test_a_repair_of_each_language_is_on_in_its_own_and_rows_keep_their_order(made, tiny, test_prompts):
    model = tiny("llama")
    repair = conditional_repair(made, 1)
    shuffled = test_prompts.sample(frac=1, random_state=1).reset_index(drop=True)
    done = complete_under(model, shuffled, [repair], **HOW)
    assert list(done["prompt_id"]) == list(shuffled["prompt_id"]) and set(done["name"]) == {repair.name}
    for code, part in done.groupby("language"):
        assert set(part["intervention"]) == {str(repair.of(code))}
        with steer(model, repair.of(code)):
            alone = complete(model, shuffled[shuffled["language"] == code], **HOW)
        assert list(part["completion"]) == list(alone["completion"])
        assert part["threshold"].to_numpy() == pytest.approx(repair.of(code).parts[0].threshold)


def test_a_sweep_shares_its_prompts_and_says_what_each_strength_says_alone(made, tiny, test_prompts, monkeypatch):
    from workbench import trials

    model, sizes = tiny("llama"), []
    real = trials.complete_grid
    monkeypatch.setattr(
        trials, "complete_grid", lambda m, p, grid, **how: sizes.append(len(grid)) or real(m, p, grid, **how)
    )
    sweep = strength_repairs(made.direction, [5, 50])
    done = complete_under(model, test_prompts, sweep, **HOW)
    assert sizes[0] == 2
    with steer(model, add(made.direction, 50.0)):
        alone = complete(model, test_prompts, **HOW)
    assert list(done.loc[done["name"] == "add 50", "completion"]) == list(alone["completion"])


def test_a_trial_has_every_table_for_every_repair_and_makes_the_effects_table(made, tiny, test_prompts):
    model, lines = tiny("llama"), []
    repairs = default_repairs(made, budgets=(0, 1))
    judges = [lexicon_judge(), constant_judge("refusal")]
    trial = try_repairs(model, test_prompts, repairs, judges, timed=2, say=lines.append, **HOW)
    n, names = len(test_prompts), [r.name for r in repairs]
    for table, times in ((trial.completions, 1), (trial.damage, 1), (trial.verdicts, 2)):
        assert table.groupby("name", sort=False).size().to_dict() == dict.fromkeys(names, times * n)
    assert list(trial.seconds["name"].unique()) == names and len(lines) == 4
    table = trial.effects(draws=100)
    assert set(table["name"]) == set(names) and set(table["judge"]) == {j.name for j in judges} | {""}
    assert {"perplexity", "kl", "seconds", "delta"} <= set(table["measure"])
    always = table[(table["judge"] == judges[1].name) & (table["measure"] == "harmful_refusal")]
    assert (always.loc[always["relative_to"] == "", "value"] == 1).all()


def test_the_damage_of_a_trial_is_that_of_each_intervention_by_itself(made, tiny, test_prompts):
    model, repair = tiny("llama"), conditional_repair(made, 1)
    trial = try_repairs(model, test_prompts, [baseline(), repair], lexicon_judge(), timed=0, **HOW)
    mine = trial.damage[trial.damage["name"] == repair.name].set_index("prompt_id")
    part = trial.completions[(trial.completions["name"] == repair.name) & (trial.completions["language"] == "th")]
    alone = damage(model, part, lambda: steer(model, repair.of("th")), progress=False).set_index("prompt_id")
    pd.testing.assert_series_equal(mine.loc[alone.index, "kl"], alone["kl"])
    assert trial.seconds is None


def test_two_repairs_of_one_name_are_refused(made, tiny, test_prompts):
    with pytest.raises(FitError, match="names of their own"):
        try_repairs(tiny("llama"), test_prompts, [baseline(), baseline()], lexicon_judge())


def test_a_strength_sweep_has_its_strengths_beside_its_effects_and_makes_a_trade_off(made, tiny, test_prompts):
    table = sweep_strengths(tiny("llama"), test_prompts, made.direction, [5.0, 80.0], lexicon_judge(), draws=50, **HOW)
    assert set(table["strength"]) == {0.0, 5.0, 80.0}
    kl = table[(table["measure"] == "kl") & (table["language"] == "th")].set_index("strength")["value"]
    assert 0 < kl[5.0] < kl[80.0]
    front = trade_off(table, cost="perplexity")
    assert set(front["name"]) == {"baseline", "add 5", "add 80"}
    assert front.groupby(["judge", "dataset", "language", "tier"])["on_front"].any().all()


def test_utility_is_measured_under_what_each_language_has_on(made, tiny):
    model, repair = tiny("llama"), conditional_repair(made, 1)
    few = load_questions(languages=["en", "th"], per_language=4)
    table = try_utility(model, few, [baseline(), repair], progress=False)
    own = table[(table["name"] == repair.name) & (table["relative_to"] == "")].set_index("language")
    with steer(model, repair.of("th")):
        alone = utility(model, few[few["language"] == "th"], progress=False)
    assert own.loc["th", "value"] == alone["value"].iloc[0]
    change = table[(table["relative_to"] == "baseline") & (table["language"] == "th")]
    plain = table[(table["name"] == "baseline") & (table["language"] == "th")]
    assert change["value"].iloc[0] == pytest.approx(own.loc["th", "value"] - plain["value"].iloc[0])
    with pytest.raises(FitError, match="baseline"):
        try_utility(model, few, [repair])
