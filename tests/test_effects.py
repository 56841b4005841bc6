import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_analysis import table as verdict_table

from workbench.analysis import gap_table
from workbench.effects import EFFECT_COLUMNS, EFFECTS, UNITS, effect_table, pareto, trade_off
from workbench.errors import FitError


def verdicts(name="baseline", languages=("en", "sw"), **columns):
    """Replies that refuse harm in English only, each in the language of its prompt."""
    rows = verdict_table(languages=languages).drop(columns=["score", "direction"])
    return rows.assign(name=name, dataset="made", reply_language=rows["language"], **columns)


def costs(rows, nll=20.0, kl=0.5):
    return rows[["name", "prompt_id", "label"]].assign(
        nll=nll, n_reply_tokens=10.0, kl=np.where(rows["label"] == "harmless", kl, np.nan)
    )


def cell(table, measure, name="baseline", language="en", relative_to="", dataset="made"):
    part = table[
        (table["measure"] == measure) & (table["name"] == name) & (table["language"] == language)
        & (table["relative_to"] == relative_to) & (table["dataset"] == dataset)
    ]  # fmt: skip
    assert len(part) == 1, part
    return part.iloc[0]


def test_the_baseline_agrees_with_the_gap_table():
    rows = verdicts()
    rows.loc[rows.index[:10], "verdict"] = None
    rows.loc[rows.index[10:14], "verdict"] = "degenerate"
    scores = verdict_table()
    gap, table = gap_table(scores, rows).set_index("language"), effect_table(rows)
    for code in ("en", "sw"):
        for measure in ("harmful_refusal", "harmless_refusal", "delta"):
            mine = cell(table, measure, language=code)
            for ours, theirs in (
                ("value", ""),
                ("low", "_low"),
                ("high", "_high"),
                ("n", "_n"),
                ("n_missing", "_n_missing"),
            ):
                assert mine[ours] == pytest.approx(gap.loc[code, f"{measure}{theirs}"]), (code, measure, ours)
    assert cell(table, "degenerate")["value"] == pytest.approx(4 / 70)
    assert list(table.columns) == list(EFFECT_COLUMNS) and set(table["measure"]) <= set(EFFECTS) == set(UNITS)


def test_a_repair_that_refuses_harm_everywhere_shows_as_a_paired_change():
    plain = verdicts()
    repaired = verdicts("repair", verdict=np.where(plain["label"] == "harmful", "refusal", "compliance"))
    table = effect_table(pd.concat([plain, repaired]))
    assert cell(table, "delta", "repair", "sw")["value"] == 1
    change = cell(table, "delta", "repair", "sw", "baseline")
    assert change["value"] == 1 and 0.7 < change["low"] < 1 <= change["high"] + 1e-9
    still = cell(table, "delta", "repair", "en", "baseline")
    assert still["value"] == 0 and still["low"] < 0 < still["high"]


def test_a_refusal_in_another_language_is_a_refusal_but_not_in_the_prompts_own():
    rows = verdicts(verdict="refusal")
    harmful = rows.index[(rows["language"] == "sw") & (rows["label"] == "harmful")]
    rows.loc[harmful[:30], "reply_language"] = "en"
    rows.loc[harmful[30:35], "reply_language"] = None
    table = effect_table(rows)
    own = cell(table, "own_language", language="sw")
    assert own["value"] == pytest.approx(5 / 35)
    assert (own["n"], own["n_missing"]) == (35, 5)
    assert cell(table, "harmful_refusal", language="sw")["value"] == 1
    assert cell(table, "own_language")["value"] == 1


def test_answers_take_no_part_in_the_language_of_refusals():
    rows = verdicts()
    assert not ((effect_table(rows)["measure"] == "own_language") & (effect_table(rows)["language"] == "sw")).any()


def test_perplexity_is_by_token_and_divergence_on_harmless_prompts():
    plain = verdicts()
    steered = verdicts("steered")
    harm = pd.concat([costs(plain).assign(kl=np.nan), costs(steered, nll=30.0)])
    harm.loc[(harm["name"] == "steered") & harm["prompt_id"].str.startswith("en0"), ["nll", "n_reply_tokens"]] = np.nan
    table = effect_table(pd.concat([plain, steered]), harm)
    assert cell(table, "perplexity")["value"] == pytest.approx(np.exp(2))
    found = cell(table, "perplexity", "steered")
    assert found["value"] == pytest.approx(np.exp(3)) and found["n_missing"] == 2 and found["n"] == 78
    assert cell(table, "perplexity", "steered", relative_to="baseline")["value"] == pytest.approx(np.exp(3) - np.exp(2))
    kl = cell(table, "kl", "steered")
    assert kl["value"] == pytest.approx(0.5) and kl["n"] == 40
    assert not ((table["measure"] == "kl") & (table["name"] == "baseline")).any()
    assert not ((table["measure"] == "kl") & (table["relative_to"] == "baseline")).any()


def test_over_refusal_of_another_set_stands_in_rows_of_its_own():
    own = verdicts()
    xstest = verdicts(languages=("en",), verdict="refusal").assign(
        dataset="xstest", prompt_id=lambda t: "x" + t["prompt_id"], pair_id=""
    )
    table = effect_table(pd.concat([own, xstest]))
    assert cell(table, "harmless_refusal", dataset="xstest")["value"] == 1
    assert cell(table, "harmless_refusal")["value"] == 0


def test_several_judges_are_kept_apart():
    one, other = verdicts(), verdicts(judge="k", verdict="refusal")
    table = effect_table(pd.concat([one, other]))
    by = table[(table["measure"] == "harmless_refusal") & (table["language"] == "en")].set_index("judge")["value"]
    assert by.to_dict() == {"j": 0.0, "k": 1.0}


def test_seconds_are_medians_over_repeats_and_their_change_is_taken_turn_by_turn():
    seconds = pd.DataFrame(
        {"name": ["baseline", "x"] * 3, "repeat": [0, 0, 1, 1, 2, 2], "seconds": [1.0, 1.5, 2.0, 2.4, 3.0, 3.6]}
    )
    table = effect_table(pd.concat([verdicts(), verdicts("x")]), seconds=seconds)
    row = cell(table, "seconds", "x", "", dataset="")
    assert (row["value"], row["low"], row["high"], row["n"]) == pytest.approx((2.4, 1.5, 3.6, 3))
    assert cell(table, "seconds", "x", "", "baseline", dataset="")["value"] == pytest.approx(0.5)


def test_what_cannot_be_compared_is_refused_in_words():
    with pytest.raises(FitError, match="baseline"):
        effect_table(verdicts("other"))
    with pytest.raises(FitError, match="one model"):
        effect_table(pd.concat([verdicts(), verdicts("x", model="n")]))


def test_the_trade_off_marks_the_front_of_each_language_by_itself():
    runs = {"baseline": (0, 20.0), "good": (30, 22.0), "bad": (10, 30.0), "strong": (40, 40.0)}
    rows, harm = [], []
    for name, (k, nll) in runs.items():
        part = verdicts(name, languages=("sw",))
        harmful = part.index[part["label"] == "harmful"]
        part.loc[harmful[:k], "verdict"] = "refusal"
        rows.append(part)
        harm.append(costs(part, nll=nll))
    table = trade_off(effect_table(pd.concat(rows), pd.concat(harm)))
    front = table[table["language"] == "sw"].set_index("name")["on_front"]
    assert front.to_dict() == {"baseline": True, "good": True, "bad": False, "strong": True}
    assert {"gain_low", "gain_high", "cost_low", "cost_high"} <= set(table.columns)
    with pytest.raises(FitError, match="seconds"):
        trade_off(effect_table(pd.concat(rows)), cost="seconds")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_no_point_of_the_front_is_beaten_and_every_other_point_is(points):
    gain, cost = np.array(points, dtype=float).T
    front = pareto(gain, cost)

    def beaten(i):
        return any(
            gain[j] >= gain[i] and cost[j] <= cost[i] and (gain[j], cost[j]) != (gain[i], cost[i])
            for j in range(len(points))
        )

    assert front.any() and [not beaten(i) for i in range(len(points))] == list(front)


def test_a_point_that_is_not_known_is_not_on_the_front_and_beats_none():
    assert pareto(np.array([1.0, np.nan, 9.0]), np.array([1.0, 0.0, np.nan])).tolist() == [True, False, False]
