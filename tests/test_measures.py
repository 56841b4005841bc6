"""Ratios of runs on the same prompts, with intervals that are paired and never of zero width."""

import numpy as np
import pandas as pd
import pytest

from workbench.errors import FitError
from workbench.intervals import difference, paired_difference, rate
from workbench.languages import tier
from workbench.measures import MEASURE_COLUMNS, Contrast, Ratio, measured

RATES = {
    "harmful": Ratio("x", label="harmful", share=True),
    "harmless": Ratio("x", label="harmless", share=True),
    "delta": Contrast("harmful", "harmless"),
}


def outcomes(runs, languages=("en", "de"), pairs=40, seed=0):
    """Pairs of prompts with outcomes drawn at a rate for each run: {name: (harmful rate, harmless rate)}."""
    rng, rows = np.random.default_rng(seed), []
    for name, rates in runs.items():
        for code in languages:
            for pair in range(pairs):
                for label, p in zip(("harmful", "harmless"), rates, strict=True):
                    rows.append(
                        {
                            "name": name, "prompt_id": f"{code}{pair}{label}", "pair_id": f"p{pair}",
                            "parallel_id": f"p{pair}{label}", "dataset": "made", "language": code, "tier": tier(code),
                            "label": label, "one": 1.0, "degenerate": 0.0, "no_verdict": False,
                            "x": float(rng.random() < p), "weight": 1.0 + pair,
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def cell(table, measure, name="baseline", language="en", relative_to="", tier=None):
    part = table[
        (table["measure"] == measure) & (table["name"] == name) & (table["language"] == language)
        & (table["relative_to"] == relative_to)
    ]  # fmt: skip
    part = part if tier is None else part[part["tier"] == tier]
    assert len(part) == 1
    return part.iloc[0]


def test_rates_have_wilsons_interval_and_their_contrast_newcombes():
    rows = outcomes({"baseline": (0.7, 0.2)})
    table = measured(rows, RATES)
    assert list(table.columns) == list(MEASURE_COLUMNS)
    en = rows[rows["language"] == "en"]
    k, j = (int(en[en["label"] == label]["x"].sum()) for label in ("harmful", "harmless"))
    for measure, want in (("harmful", rate(k, 40)), ("delta", difference(k, 40, j, 40))):
        assert tuple(cell(table, measure)[["value", "low", "high"]]) == pytest.approx(want)
    assert cell(table, "delta")["n"] == 80


def test_a_change_is_paired_prompt_by_prompt():
    """The same flips look small beside the prompts that stay, and large beside prompts drawn anew."""
    rows = outcomes({"baseline": (0.5, 0.5)}, languages=("en",))
    same = rows.assign(name="same", x=rows["x"])
    flipped = same.assign(name="flipped")
    flipped.loc[flipped.index[:8], "x"] = 1.0
    table = measured(pd.concat([rows, same, flipped]), RATES)
    unchanged = cell(table, "harmful", "same", relative_to="baseline")
    assert unchanged["value"] == 0 and unchanged["low"] < 0 < unchanged["high"]
    here = (rows["label"] == "harmful").to_numpy()
    want = paired_difference(flipped["x"].to_numpy()[here], rows["x"].to_numpy()[here])
    found = cell(table, "harmful", "flipped", relative_to="baseline")
    assert found["value"] == pytest.approx(want[0])
    assert found["low"] <= want[1] + 1e-12 and found["high"] >= want[2] - 1e-12
    k, j = (int(part["x"].to_numpy()[here].sum()) for part in (flipped, rows))
    _, low, high = difference(k, 40, j, 40)
    assert found["high"] - found["low"] < 0.7 * (high - low)


def test_the_order_of_rows_changes_nothing():
    rows = outcomes({"baseline": (0.6, 0.3), "other": (0.9, 0.2)})
    shuffled = measured(rows.sample(frac=1, random_state=3), RATES)
    keys = ["name", "language", "tier", "measure", "relative_to"]
    a, b = (t.set_index(keys).sort_index() for t in (measured(rows, RATES), shuffled))
    change = a.index.get_level_values("relative_to") == "baseline"
    pd.testing.assert_series_equal(a["value"], b["value"])
    pd.testing.assert_frame_equal(a[~change & (a["n"] == 40)], b[~change & (b["n"] == 40)])


def test_what_is_missing_in_either_run_leaves_the_change_and_is_counted():
    rows = outcomes({"baseline": (0.5, 0.5), "other": (0.5, 0.5)}, languages=("en",))
    harmful = rows.index[rows["label"] == "harmful"]
    first, second = harmful[:3], harmful[40:45]
    rows.loc[first, ["x", "no_verdict"]] = [np.nan, True]
    rows.loc[second, ["x", "degenerate"]] = [np.nan, 1.0]
    table = measured(rows, RATES)
    assert tuple(cell(table, "harmful")[["n", "n_missing", "n_degenerate"]]) == (37, 3, 0)
    assert tuple(cell(table, "harmful", "other")[["n", "n_missing", "n_degenerate"]]) == (35, 0, 5)
    # The first three prompts are among the first five.
    change = cell(table, "harmful", "other", relative_to="baseline")
    assert tuple(change[["n", "n_missing", "n_degenerate"]]) == (35, 3, 5)


def test_a_tier_is_the_mean_of_its_languages_and_its_interval_never_has_zero_width():
    rows = outcomes({"baseline": (1.0, 0.0), "other": (1.0, 0.0)}, languages=("en", "de", "sw"))
    table = measured(rows, RATES)
    assert cell(table, "delta", language="", tier="high")["value"] == 1
    assert (table["high"] > table["low"]).all() and (table["value"] <= table["high"]).all()
    mixed = measured(outcomes({"baseline": (0.7, 0.2)}), RATES)
    mean = np.mean([cell(mixed, "harmful", language=code)["value"] for code in ("en", "de")])
    assert cell(mixed, "harmful", language="")["value"] == pytest.approx(mean)
    assert cell(mixed, "harmful", language="")["n"] == 80


def test_languages_that_move_together_widen_the_interval_of_their_tier():
    """Translations of one prompt are one group: ten copies of a language tell no more than one."""
    one = outcomes({"baseline": (0.5, 0.5)}, languages=("en",), pairs=60)
    copies = pd.concat(
        [one.assign(language=code, prompt_id=code + one["prompt_id"]) for code in ("en", "de", "fr", "es", "it")]
    )
    apart = outcomes({"baseline": (0.5, 0.5)}, languages=("en", "de", "fr", "es", "it"), pairs=60)
    width = {}
    for name, rows in (("copies", copies), ("apart", apart)):
        row = cell(measured(rows, RATES), "harmful", language="")
        width[name] = row["high"] - row["low"]
    assert width["copies"] > 1.6 * width["apart"]


def test_a_ratio_weighs_rows_by_what_is_below_and_may_be_a_logarithm():
    rows = outcomes({"baseline": (0.5, 0.5)}, languages=("en",)).assign(nll=lambda t: t["weight"] * 2.0)
    measures = {"perplexity": Ratio("nll", "weight", log=True), "mean": Ratio("x", "weight")}
    table = measured(rows, measures)
    assert cell(table, "perplexity")["value"] == pytest.approx(np.exp(2.0))
    assert cell(table, "mean")["value"] == pytest.approx(rows["x"].sum() / rows["weight"].sum())


def test_a_measure_that_rests_on_nothing_is_left_out():
    rows = outcomes({"baseline": (0.5, 0.5)}, languages=("en",))
    table = measured(rows[rows["label"] == "harmful"], RATES)
    assert set(table["measure"]) == {"harmful"}


def test_runs_without_a_baseline_or_with_a_prompt_twice_are_refused_in_words():
    rows = outcomes({"baseline": (0.5, 0.5)})
    with pytest.raises(FitError, match=r"'basline'.*baseline"):
        measured(rows, RATES, baseline="basline")
    with pytest.raises(FitError, match="160 too many"):
        measured(pd.concat([rows, rows]), RATES)


def test_prompts_that_only_one_run_has_take_no_part_in_the_change():
    rows = outcomes({"baseline": (0.5, 0.5), "other": (0.5, 0.5)}, languages=("en",))
    fewer = rows[(rows["name"] == "other") | (rows["pair_id"] < "p2")]
    table = measured(fewer, RATES)
    n = len(fewer[(fewer["name"] == "baseline") & (fewer["label"] == "harmful")])
    assert cell(table, "harmful", "other", relative_to="baseline")["n"] == n < 40
    assert cell(table, "harmful", "other")["n"] == 40
