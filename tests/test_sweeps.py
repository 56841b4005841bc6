"""Sweeps find the layer that was planted, choose it without test prompts, and come with their controls."""

import numpy as np
import pandas as pd
import pytest
from planted import planted
from sklearn.metrics import roc_auc_score

from workbench.activations import Activations
from workbench.directions import fit_direction
from workbench.errors import FitError
from workbench.nulls import controls
from workbench.scores import auroc, project
from workbench.sweeps import choose_layer, sweep
from workbench.sweeps import surface as surface_of
from workbench.translations import by_layer, u_scores


@pytest.fixture(scope="module")
def acts():
    """Nothing at layer 0, a little at 1, most at 2 in all languages, most at 3 in the source languages only."""
    source = {"en": 12.0, "de": 12.0, "fr": 12.0}
    return planted(strength={0: 0.0, 1: 1.0, 2: 6.0, 3: source}, pairs=64)[0]


@pytest.fixture(scope="module")
def surface(acts):
    return sweep(acts, draws=200)


# --- harm ------------------------------------------------------------------------------------------------------------


def test_a_sweep_has_a_row_for_each_language_layer_and_position_with_the_area_of_a_projection(acts, surface):
    assert len(surface) == 5 * 4 * 2 and (surface["split"] == "val").all() and (surface["reason"] == "").all()
    assert not surface.duplicated(["language", "layer", "position"]).any()
    here = acts.sel(layer=1, position="last_instruction")
    scores = project(here.sel(split="val"), fit_direction(here.sel(tier="high", split="train")))
    want = auroc(scores, draws=200).set_index("language")
    got = surface[(surface["layer"] == 1) & (surface["position"] == "last_instruction")].set_index("language")
    for column, name in (("auroc", "auroc"), ("auroc_low", "low"), ("auroc_high", "high"), ("auroc_n", "n")):
        assert got[name].to_numpy() == pytest.approx(want.loc[got.index, column].to_numpy()), name


def test_a_sweep_of_scores_that_are_there_is_the_sweep_of_the_activations(acts, surface):
    from workbench.sweeps import cells

    tables = []
    for here in cells(acts):
        try:
            tables.append(project(here, fit_direction(here.sel(tier="high", split="train"))))
        except FitError:
            continue
    got = surface_of(pd.concat(tables, ignore_index=True), "val", draws=200)
    places = ["language", "layer", "position"]
    want = surface[surface["reason"] == ""].sort_values(places).reset_index(drop=True)
    pd.testing.assert_frame_equal(got.sort_values(places).reset_index(drop=True), want)
    with pytest.raises(FitError, match="split 'x'"):
        surface_of(tables[0], "x")


def test_the_planted_layer_is_chosen_on_validation_with_the_whole_surface_kept(surface):
    choice = choose_layer(surface)
    assert choice.layer == 2 and choice.value > 0.95 and choice.measure == "auroc"
    assert len(choice.surface) == 8 and choice.surface["mean"].is_monotonic_decreasing
    assert (choice.surface["n_languages"] == 5).all()
    # Layer 3 is perfect for the source languages, and an even choice is made for them alone.
    assert choose_layer(surface[surface["tier"] == "high"]).value == 1.0
    third = choice.surface[choice.surface["layer"] == 3]
    assert set(third["lowest"]) <= {"sw", "yo"} and third["mean"].max() < 0.9


def test_the_earliest_layer_wins_among_equals():
    rows = [
        {"language": c, "layer": layer, "position": p, "split": "val", "auroc": 1.0}
        for p in ("last_prompt", "last_instruction")
        for layer in (3, 1, 2)
        for c in ("en", "sw")
    ]
    choice = choose_layer(pd.DataFrame(rows))
    assert (choice.layer, choice.position) == (1, "last_prompt")


def test_choosing_on_test_raises(acts):
    for on in ({"split": "test"}, {"split": ["val", "test"]}):
        on_test = sweep(acts.sel(layer=2), on=on, draws=20)
        with pytest.raises(FitError, match="without test prompts"):
            choose_layer(on_test)
    with pytest.raises(FitError, match="without test prompts"):
        choose_layer(u_scores(acts.sel(layer=2), draws=5), "u_score")


def test_rows_judged_share_no_group_with_rows_fitted_on_not_even_through_a_translation(acts):
    with pytest.raises(FitError, match="translations"):
        sweep(acts, fit={"language": "en", "split": "val"}, on={"language": "sw", "split": "val"})
    with pytest.raises(FitError, match="translations"):
        controls(acts.sel(layer=2, position="last_prompt"), fit={"split": "val"}, on={"split": "val"})
    for splits in ("test", ["train", "test"]):
        with pytest.raises(FitError, match="Test prompts"):
            sweep(acts, fit={"split": splits})


def test_a_degenerate_layer_keeps_its_rows_with_the_reason_and_cannot_be_chosen(acts):
    values = acts.values
    values[:, :, 0] = 1.0
    flat = Activations.from_arrays(values, acts.rows, acts.positions, acts.layers, acts.provenance)
    table = sweep(flat, draws=20)
    zero = table[table["layer"] == 0]
    assert len(zero) == 10 and zero["auroc"].isna().all() and zero["reason"].str.contains("must differ").all()
    assert table.loc[table["layer"] > 0, "auroc"].notna().all() and choose_layer(table).layer == 2
    with pytest.raises(FitError, match="number in every language"):
        choose_layer(zero)


def test_areas_before_and_after_taking_the_direction_out():
    acts, _ = planted(strength=8.0, pairs=400, layers=(2,), positions=("last_prompt",))
    here = acts.sel(layer=2, position="last_prompt")
    strong = fit_direction(here.sel(split="train"))
    without = here.vectors - np.outer(strong(here.vectors), strong.vector)
    rest = Activations.from_arrays(without[:, None, None], here.rows, here.positions, here.layers, here.provenance)
    before = sweep(here, fit={"split": "train"}, on={"split": "test"}, draws=50)
    after = sweep(rest, fit={"split": "val"}, on={"split": "test"}, draws=50)
    assert before["auroc"].min() > 0.98 and after["auroc"].mean() == pytest.approx(0.5, abs=0.1)


# --- controls --------------------------------------------------------------------------------------------------------


def test_controls_stand_beside_the_result_for_every_language(acts):
    table = controls(acts.sel(layer=2, position="last_prompt"), repeats=30, draws=100)
    assert set(table["control"]) == {"direction", "random", "permuted", "n_tokens", "n_chars"}
    assert (table.groupby("control")["language"].nunique() == 5).all()
    by = table.groupby("control")["auroc"].mean()
    assert by["direction"] > 0.95 and by["permuted"] == pytest.approx(0.5, abs=0.15)
    assert by["random"] == pytest.approx(0.5, abs=0.15)
    # Both sides of every planted pair are equally long.
    assert by["n_tokens"] == by["n_chars"] == 0.5
    assert (table["high"] > table["low"]).all()
    chance = table[table["interval"] == "repeats"]
    assert set(chance["control"]) == {"random", "permuted"} and ((chance["low"] < 0.5) & (chance["high"] > 0.5)).all()


def test_length_alone_is_told_when_it_gives_the_label_away_in_either_direction(acts):
    here = acts.sel(layer=0, position="last_prompt")
    shorter = here.rows["n_chars"] - 100 * (here.rows["label"] == "harmful")
    told = Activations.from_arrays(
        here.vectors[:, None, None],
        here.rows.assign(n_chars=shorter + 200),
        here.positions,
        here.layers,
        here.provenance,
    )
    table = controls(told, repeats=2, draws=20).groupby("control")["auroc"].mean()
    assert table["n_chars"] == 1.0 and table["n_tokens"] == 0.5
    bare = Activations.from_arrays(
        here.vectors[:, None, None],
        here.rows.drop(columns=["n_chars", "n_tokens"]),
        here.positions,
        here.layers,
        here.provenance,
    )
    with pytest.raises(FitError, match="n_tokens or n_chars"):
        controls(bare)


def test_permuted_labels_are_the_same_in_all_translations():
    # Without noise between translations, a deal of labels per row would cancel out over languages; this one must not.
    acts, _ = planted(strength=0.0, pairs=24, d_model=64, layers=(2,), positions=("last_prompt",))
    table = controls(acts, fit={"split": "train"}, on={"split": "val"}, repeats=10, draws=20)
    spread = table[table["control"] == "permuted"]
    assert (spread["high"] - spread["low"]).mean() > 0.2


# --- translations ----------------------------------------------------------------------------------------------------


def test_u_scores_are_matched_minus_mismatched_cosines_with_the_anchor(acts):
    table = u_scores(acts, draws=20)
    assert len(table) == 4 * 4 * 2 and "en" not in set(table["language"])
    here = acts.sel(layer=1, position="last_prompt", scope="global")
    sides = {}
    for language in ("en", "yo"):
        part = here.sel(language=language)
        order = part.rows["parallel_id"].sort_values().index.to_numpy()
        sides[language] = part.vectors[order] / np.linalg.norm(part.vectors[order], axis=1, keepdims=True)
    cosine = sides["yo"].astype(np.float64) @ sides["en"].T
    matched, mismatched = np.diag(cosine).mean(), cosine[~np.eye(len(cosine), dtype=bool)].mean()
    got = table[(table["layer"] == 1) & (table["position"] == "last_prompt") & (table["language"] == "yo")].iloc[0]
    assert (got["matched"], got["mismatched"]) == pytest.approx((matched, mismatched), abs=1e-5)
    assert got["u_score"] == pytest.approx(matched - mismatched, abs=1e-5) and got["low"] < got["u_score"] < got["high"]
    assert got["n"] == len(cosine) == 2 * 56


def test_prompts_of_local_scope_are_left_out_of_u_scores(acts):
    values = acts.values
    values[(acts.rows["scope"] == "local").to_numpy()] = np.random.default_rng(0).standard_normal(values.shape[1:]) * 99
    changed = Activations.from_arrays(values, acts.rows, acts.positions, acts.layers, acts.provenance)
    pd.testing.assert_frame_equal(u_scores(changed, draws=5), u_scores(acts, draws=5))


def test_a_layer_is_chosen_by_u_score_on_train_and_validation():
    acts, _ = planted(pairs=32, layers=(0, 1), positions=("last_prompt",))
    values = acts.values
    values[:, :, 1] = np.random.default_rng(0).standard_normal(values[:, :, 1].shape)
    half = Activations.from_arrays(values, acts.rows, acts.positions, acts.layers, acts.provenance)
    table = u_scores(half.sel(split=["train", "val"]), draws=20)
    assert set(table["split"]) == {"train+val"}
    choice = choose_layer(table, "u_score")
    means = by_layer(table).set_index("layer")["u_score"]
    assert choice.layer == 0 and means[0] > 0.03 and means[1] == pytest.approx(0, abs=0.02)
    assert choice.value == pytest.approx(means[0])


def test_u_scores_need_translations_of_the_anchor(acts):
    with pytest.raises(FitError, match="'pl'"):
        u_scores(acts, anchor="pl")
    with pytest.raises(FitError, match="at least two prompts of global scope"):
        u_scores(acts.sel(language="en"))


def test_controls_of_a_perfect_direction_leave_no_overlap_with_chance(acts):
    here = acts.sel(layer=2, position="last_prompt")
    table = controls(here, repeats=20, draws=50).set_index(["control", "language"])
    for language in acts.rows["language"].unique():
        assert table.loc[("direction", language), "low"] > table.loc[("permuted", language), "auroc"]
    held = here.sel(split="val", language="en")
    direction = fit_direction(here.sel(split="train", tier="high"))
    want = roc_auc_score(held.rows["label"] == "harmful", direction(held.vectors))
    assert table.loc[("direction", "en"), "auroc"] == pytest.approx(want)
