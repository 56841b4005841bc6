"""The list of repairs a study tries, made of training prompts only."""

import numpy as np
import pytest

from workbench.activations import cache_activations
from workbench.errors import FitError
from workbench.gates import recalibrate
from workbench.interventions import add
from workbench.repairs import Repair, conditional_repair, default_repairs, fit_ingredients, strength_repairs


@pytest.fixture
def made(home, tiny, prompts):
    acts = cache_activations(tiny("llama"), prompts, positions=["last_prompt"], progress=False)
    return fit_ingredients(acts, layer=2)


def test_the_default_list_begins_with_the_model_itself_and_names_everything_once(made):
    repairs = default_repairs(made, budgets=(0, 1), others=[Repair("another", add(made.direction, 2.0))])
    assert [r.name for r in repairs] == ["baseline", "add", "ablate", "another", "conditional b=0", "conditional b=1"]
    assert repairs[0].of("en") is None and repairs[1].of("th") == repairs[1].everywhere


def test_add_is_as_strong_as_the_conditional_repair_on_prompts_it_fires_on(made):
    add_part = default_repairs(made, strength=0.5, budgets=(0,))[1].everywhere.parts[0]
    gated = conditional_repair(made, 0, strength=0.5).everywhere.parts[0]
    np.testing.assert_allclose(add_part.vector, gated.alpha * gated.unit, rtol=1e-5)


def test_at_a_budget_each_target_language_has_its_own_threshold_and_source_languages_keep_theirs(made):
    none, one = (conditional_repair(made, budget) for budget in (0, 1))
    assert not none.by_language and set(one.by_language) == set(made.targets) == {"ar", "th"}
    assert one.of("en") == none.everywhere == none.of("th")
    for code in made.targets:
        rows = made.rows[(made.rows["language"] == code) & (made.rows["split"] == "train")]
        want = recalibrate(made.gate, rows, per_class=1).threshold
        assert one.of(code).parts[0].threshold == pytest.approx(want)


def test_test_prompts_take_no_part(made, prompts):
    test = set(prompts.loc[prompts["split"] == "test", "pair_id"])
    assert test and not test & (made.gate.groups | made.direction.groups | made.space.groups)


def test_a_budget_beyond_the_examples_names_the_language(made):
    with pytest.raises(FitError, match="ar at 99"):
        conditional_repair(made, 99)


def test_without_target_languages_only_the_source_threshold_is_tried(home, tiny, prompts):
    source = prompts[prompts["tier"] == "high"].reset_index(drop=True)
    acts = cache_activations(tiny("llama"), source, positions=["last_prompt"], progress=False)
    names = [r.name for r in default_repairs(fit_ingredients(acts, layer=2))]
    assert names == ["baseline", "add", "ablate", "conditional b=0"]


def test_a_sweep_adds_each_strength_once_and_the_baseline_is_0(made):
    sweep = strength_repairs(made.direction, [0.5, 1])
    assert [(r.name, r.strength) for r in sweep] == [("baseline", 0.0), ("add 0.5", 0.5), ("add 1", 1.0)]
    assert sweep[2].everywhere == add(made.direction, 1.0)
    for strengths in ([0, 1], [1, 1]):
        with pytest.raises(FitError, match="different and not 0"):
            strength_repairs(made.direction, strengths)
