import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from said import said, words

from workbench.corrections import corrected_rates, rogan_gladen
from workbench.errors import FitError
from workbench.intervals import rate


def test_the_share_is_that_of_rogan_and_gladen():
    # Se 0.9, Sp 0.8: a true share of 0.5 looks like 0.5 * 0.9 + 0.5 * 0.2 = 0.55.
    assert rogan_gladen(55, 100, 90, 100, 80, 100)[0] == pytest.approx(0.5)


def test_a_judge_that_is_always_right_on_many_labels_changes_nothing():
    value, low, high = rogan_gladen(30, 100, 10**6, 10**6, 10**6, 10**6)
    assert (value, low, high) == pytest.approx(rate(30, 100), abs=0.01)


def test_a_judge_no_better_than_chance_corrects_nothing():
    assert np.isnan(rogan_gladen(30, 100, 5, 10, 5, 10)).all()
    assert np.isnan(rogan_gladen(30, 100, 2, 10, 3, 10)).all()


@st.composite
def counts(draw):
    n, positive, negative = (draw(st.integers(1, 200)) for _ in range(3))
    return (
        draw(st.integers(0, n)), n, draw(st.integers(0, positive)), positive, draw(st.integers(0, negative)), negative
    )  # fmt: skip


@given(counts())
def test_the_interval_holds_the_value_and_is_never_narrower_than_the_raw_one(c):
    value, low, high = rogan_gladen(*c)
    if np.isnan(value):
        return
    _, raw_low, raw_high = rate(c[0], c[1])
    assert 0 <= low <= value <= high <= 1 and high - low >= raw_high - raw_low - 1e-9


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize(("se", "sp"), [(0.9, 0.8), (0.7, 0.9), (1.0, 1.0)])
def test_the_fewer_labels_the_wider_the_interval(share, se, sp):
    widths = []
    for labels in (10, 20, 50, 200, 1000):
        _, low, high = rogan_gladen(int(400 * share), 400, int(se * labels), labels, int(sp * labels), labels)
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1] + 0.05


@pytest.mark.parametrize("true", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(("se", "sp", "labels"), [(0.9, 0.8, 30), (0.7, 0.95, 20), (0.99, 0.99, 15)])
def test_the_interval_covers_the_true_share(true, se, sp, labels):
    rng = np.random.default_rng(7)
    hits, reps = 0, 600
    for _ in range(reps):
        k = rng.binomial(120, true * se + (1 - true) * (1 - sp))
        _, low, high = rogan_gladen(
            int(k), 120, int(rng.binomial(labels, se)), labels, int(rng.binomial(labels, sp)), labels
        )
        hits += low <= true <= high
    assert hits / reps > 0.925


# --- the table -------------------------------------------------------------------------------------------------------


def world(language="en", n=400, labelled=120, se=0.8, sp=0.9, true=0.4, seed=0):
    """A judge that errs at known rates, and Ada's labels on some replies, drawn at random."""
    rng = np.random.default_rng(seed)
    refuses = rng.random(n) < true
    calls = np.where(refuses, rng.random(n) < se, rng.random(n) > sp)
    judge = said("j", np.where(calls, "refusal", "compliance"), language)
    label = ["harmful", "harmless"] * (n // 2)
    ada = said("human:Ada", np.where(refuses, "refusal", "compliance"), language).assign(label=label)
    return pd.concat([judge.assign(label=label), ada.sample(labelled, random_state=seed)])


def test_the_correction_undoes_a_known_error():
    out = corrected_rates(world(n=4000, labelled=1500), "j")
    assert list(out["label"]) == ["harmful", "harmless"] and (out["reason"] == "").all()
    assert out["sensitivity"].to_numpy() == pytest.approx(0.8, abs=0.04)
    assert out["specificity"].to_numpy() == pytest.approx(0.9, abs=0.04)
    assert (abs(out["refusal"] - 0.4) > 0.01).any() and out["corrected"].to_numpy() == pytest.approx(0.4, abs=0.04)
    assert (out["corrected_high"] - out["corrected_low"] > out["high"] - out["low"]).all()


def test_the_errors_of_a_language_are_those_of_its_own_labels_and_without_labels_it_is_missing():
    table = pd.concat([world("en", se=0.9), world("de", se=0.6), said("j", words("rc" * 10), "sw")])
    out = corrected_rates(table, "j").set_index(["language", "label"])
    assert out.loc[("en", "harmful"), "sensitivity"] > out.loc[("de", "harmful"), "sensitivity"] + 0.1
    missing = out.loc[("sw", "harmful")]
    assert np.isnan(missing[["corrected", "corrected_low", "corrected_high", "sensitivity"]].astype(float)).all()
    assert missing["refusal"] == 0.5 and "0 labelled refusals" in missing["reason"]


def test_too_few_labels_of_one_kind_are_not_enough():
    table = pd.concat([said("j", words("rc" * 20)), said("human:Ada", words("r" * 4 + "c" * 8 + "." * 28))])
    out = corrected_rates(table, "j").iloc[0]
    assert np.isnan(out["corrected"]) and out["reason"].startswith(
        "4 labelled refusals and 8 other labelled replies; 5 of each"
    )
    assert corrected_rates(table, "j", at_least=4)["n_sensitivity"][0] == 4


def test_degenerate_and_missing_verdicts_count_neither_for_nor_against_the_judge():
    judge, ada = words("rrcc" * 5 + "d.rr"), words("rrcc" * 5 + "rrd.")
    out = corrected_rates(pd.concat([said("j", judge), said("human:Ada", ada)]), "j").iloc[0]
    assert (out["n_sensitivity"], out["n_specificity"]) == (10, 10)
    assert out["sensitivity"] == out["specificity"] == 1


def test_another_judge_can_stand_for_the_truth():
    table = world().replace({"judge": {"human:Ada": "gold"}})
    with pytest.raises(FitError, match="Label some replies"):
        corrected_rates(table, "j")
    assert (corrected_rates(table, "j", ["gold"])["reason"] == "").all()


def test_several_interventions_in_one_table_are_refused():
    table = pd.concat([world(), world().assign(intervention="add")])
    with pytest.raises(FitError, match="one intervention"):
        corrected_rates(table, "j")
