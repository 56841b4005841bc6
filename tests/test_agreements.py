import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from said import said, words
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from workbench.agreements import COLUMNS, agreement, confusion, krippendorff_alpha
from workbench.errors import FitError
from workbench.verdicts import VERDICTS

NAN = float("nan")


# --- Krippendorff's alpha --------------------------------------------------------------------------------------------


def test_alpha_of_three_units_is_what_one_gets_by_hand():
    # Coincidences 2, 1, 1, 2 of n = 6, margins 3 and 3: observed 2/6, expected 18/30.
    assert krippendorff_alpha(np.array([[0, 0], [0, 1], [1, 1]])) == pytest.approx(1 - (2 / 6) / (18 / 30))


def test_alpha_is_that_of_krippendorffs_examples():
    meg_owen = np.array([[ord(a), ord(b)] for a, b in zip("aabbdcccedda", "babbbccceddd", strict=True)])
    assert krippendorff_alpha(meg_owen) == pytest.approx(0.692, abs=5e-4)
    units = [
        (1, 1, NAN, 1), (2, 2, 3, 2), (3, 3, 3, 3), (3, 3, 3, 3), (2, 2, 2, 2), (1, 2, 3, 4), (4, 4, 4, 4),
        (1, 1, 2, 1), (2, 2, 2, 2), (NAN, 5, 5, 5), (NAN, NAN, 1, 1), (NAN, NAN, 3, NAN),
    ]  # fmt: skip
    assert krippendorff_alpha(np.array(units)) == pytest.approx(0.743, abs=5e-4)


def literal_alpha(ratings):
    """Krippendorff's alpha from its definition: pair by pair."""
    pairs = []
    for unit in ratings:
        there = [v for v in unit if v == v]
        pairs += [(a, b, 1 / (len(there) - 1)) for a, b in itertools.permutations(there, 2)]
    n = sum(w for *_, w in pairs)
    observed = sum(w for a, b, w in pairs if a != b) / n
    values = [v for unit in ratings if sum(x == x for x in unit) > 1 for v in unit if v == v]
    differing = sum(a != b for a, b in itertools.permutations(values, 2))
    return 1 - observed / (differing / (len(values) * (len(values) - 1)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, NAN])] * 3), min_size=1, max_size=8))
def test_alpha_equals_its_definition_pair_by_pair(units):
    ratings = np.array(units)
    paired = ratings[(~np.isnan(ratings)).sum(axis=1) > 1]
    alpha = krippendorff_alpha(ratings)
    if len(np.unique(paired[~np.isnan(paired)])) < 2:
        assert np.isnan(alpha)
    else:
        assert alpha == pytest.approx(literal_alpha(units))


# --- agreement -------------------------------------------------------------------------------------------------------


def test_a_pair_of_judges_is_compared_on_what_both_said_and_the_rest_is_counted():
    a, b = words("rrccpdr.rc"), words("rcccp.rrdc")
    row = agreement(pd.concat([said("a", a), said("b", b)]), draws=50).iloc[0]
    both = [
        (x == "refusal", y == "refusal") for x, y in zip(a, b, strict=True) if {x, y}.isdisjoint({None, "degenerate"})
    ]
    assert (row["n"], row["n_missing"]) == (len(both), 10 - len(both)) == (7, 3)
    assert row["same"] == pytest.approx(sum(x == y for x, y in both) / 7)
    assert row["kappa"] == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)))
    assert row["kappa_low"] < row["kappa"] < row["kappa_high"] <= 1 and row["reason"] == ""


def test_on_verdict_all_four_are_told_apart():
    table = pd.concat([said("a", words("rpcd")), said("b", words("rcpd"))])
    assert agreement(table, on="verdict", draws=20)["same"][0] == 0.5
    assert agreement(table, on="refused", draws=20)["same"][0] == 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("rc"), st.sampled_from("rc")), min_size=2, max_size=12), st.integers(0, 99))
def test_kappa_under_weights_is_scikit_learns(pairs, seed):
    from workbench.agreements import _kappa_of

    codes = np.array([[a == "r", b == "r"] for a, b in pairs], dtype=float)
    weights = np.random.default_rng(seed).multinomial(len(codes), np.full(len(codes), 1 / len(codes))).astype(float)
    repeated = np.repeat(codes, weights.astype(int), axis=0)
    if len(np.unique(repeated)) < 2:
        assert np.isnan(_kappa_of(codes)(weights))
    else:
        assert _kappa_of(codes)(weights) == pytest.approx(cohen_kappa_score(*repeated.T))


def test_more_than_two_judges_have_alpha_over_all_and_languages_come_in_order_then_together():
    rng = np.random.default_rng(0)
    table = pd.concat(
        said(judge, rng.choice(["refusal", "compliance"], 20), language) for judge in "abc" for language in ("sw", "en")
    )
    out = agreement(table, draws=30)
    assert list(out["language"].unique()) == ["en", "sw", "all"] and tuple(out) == COLUMNS
    assert out.groupby("language").size().eq(4).all()
    together = out[(out["a"] == "all") & (out["language"] == "en")].iloc[0]
    wide = table[table["language"] == "en"].pivot(index="prompt_id", columns="judge", values="verdict") == "refusal"
    assert together["alpha"] == pytest.approx(literal_alpha(wide.to_numpy(float)))
    assert np.isnan(together["kappa"]) and together["n"] == 20


def test_perfect_agreement_has_an_interval_and_one_word_only_has_a_reason():
    perfect = agreement(pd.concat([said("a", words("rcrcrcrc")), said("b", words("rcrcrcrc"))]), draws=100).iloc[0]
    assert perfect["kappa"] == perfect["alpha"] == 1 and perfect["kappa_low"] < 1
    one_word = agreement(pd.concat([said("a", words("rrrr")), said("b", words("rrrr"))])).iloc[0]
    assert one_word["same"] == 1 and np.isnan(one_word["kappa"]) and "chance cannot be told" in one_word["reason"]
    apart = agreement(pd.concat([said("a", words("r.")), said("b", words(".r"))])).iloc[0]
    assert apart["n"] == 0 and np.isnan(apart["same"]) and "no unit" in apart["reason"]


def test_intervals_rest_on_prompt_groups():
    a, b = words("rc" * 10), words("rccr" * 5)
    wide, narrow = (said("a", a), said("b", b)), {"pair_id": [f"p{i}" for i in range(20)]}
    by_pair = agreement(pd.concat(wide), draws=400).iloc[0]
    by_row = agreement(pd.concat([part.assign(**narrow) for part in wide]), draws=400).iloc[0]
    assert by_pair["kappa_high"] - by_pair["kappa_low"] > 1.2 * (by_row["kappa_high"] - by_row["kappa_low"])


# --- confusion -------------------------------------------------------------------------------------------------------


def test_confusion_is_scikit_learns_per_language_with_the_missing_beside():
    rng = np.random.default_rng(1)
    parts = []
    for language in ("en", "sw"):
        truth, judge = (rng.choice([*VERDICTS, None], 60) for _ in range(2))
        parts += [said("human:Ada", truth, language), said("j", judge, language)]
    table = pd.concat(parts)
    out = confusion(table, "j")
    for language in ("en", "sw"):
        part = table[table["language"] == language].pivot(index="prompt_id", columns="judge", values="verdict")
        part = part[part["human:Ada"].notna()].fillna("missing")
        labels = [*VERDICTS, "missing"]
        expected = confusion_matrix(part["human:Ada"], part["j"], labels=labels)[:4]
        got = (
            out[out["language"] == language]
            .pivot(index="truth", columns="verdict", values="n")
            .loc[list(VERDICTS), labels]
        )
        np.testing.assert_array_equal(got.to_numpy(), expected)
    assert out[out["language"] == "all"]["n"].sum() == sum(out[out["language"] != "all"]["n"])


def test_the_truth_is_the_majority_and_a_tie_is_none():
    people = [said(f"human:{name}", words(v)) for name, v in {"A": "rrc.", "B": "rcc.", "C": ".cr."}.items()]
    out = confusion(pd.concat([*people, said("j", words("rrrr"))]), "j")
    assert out[out["n"] > 0][["truth", "verdict", "n"]].values.tolist() == [
        ["refusal", "refusal", 1],
        ["compliance", "refusal", 2],
    ]
    tie = confusion(pd.concat([*people[:2], said("j", words("rrrr"))]), "j")
    assert tie["n"].sum() == 2


# --- users' mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: agreement(t[t["judge"] == "a"]), "at least two judges"),
        (lambda t: agreement(t, ["a", "z"]), "verdicts of z"),
        (lambda t: agreement(pd.concat([t, t])), "one verdict on each completion"),
        (lambda t: agreement(t, on="reply"), "'refused' or 'verdict'"),
        (lambda t: confusion(t, "a"), "Label some replies first"),
        (lambda t: confusion(t, "a", ["a"]), "other than 'a'"),
    ],
)
def test_mistakes_are_said_in_words(call, message):
    with pytest.raises(FitError, match=message):
        call(pd.concat([said("a", words("rc")), said("b", words("cc"))]))
