"""CAST and AdaSteer adapted to the target languages: what they are fitted on, and that the study goes on without them."""

import pytest
from planted import planted
from test_ablations import first_letter_judge

from workbench import rivals
from workbench.activations import cache_activations
from workbench.completions import complete
from workbench.errors import FitError
from workbench.judges import constant_judge
from workbench.laws import PUBLISHED, Law, adasteer_vectors
from workbench.prompts import load_prompts
from workbench.rivals import adasteer_repair, cast_repair, examples_of, study_repairs, target_languages
from workbench.steering import steer


def test_the_low_tier_is_adapted_to_and_where_there_is_none_whatever_is_not_a_source(prompts):
    assert target_languages(planted()[0].rows) == ["sw", "yo"]
    assert set(target_languages(prompts)) == {"ar", "th"}
    with pytest.raises(FitError, match="high"):
        target_languages(prompts[prompts["tier"] == "high"])


def test_examples_are_whole_pairs_of_one_split_and_the_same_in_every_language():
    acts, _ = planted()
    rows = examples_of(acts, ["sw", "yo"], "train", per_class=6).rows
    assert set(rows["split"]) == {"train"} and set(rows["language"]) == {"sw", "yo"}
    assert rows.groupby(["language", "label"]).size().eq(6).all()
    pairs = rows.groupby(["language", "label"])["pair_id"].agg(set)
    assert all(chosen == pairs.iloc[0] for chosen in pairs)
    other = examples_of(acts, ["sw"], "train", per_class=6, seed=1).rows
    assert set(other["pair_id"]) != pairs.iloc[0]
    assert len(examples_of(acts, ["sw"], "train").rows) == 40


def test_examples_of_a_set_without_pairs_are_counted_class_by_class():
    acts, _ = planted(paired=False)
    rows = examples_of(acts, ["sw"], "train", per_class=6).rows
    assert rows.groupby("label").size().to_dict() == {"harmful": 6, "harmless": 6}


@pytest.mark.parametrize(
    ("depth", "want"), [(42, range(15, 24)), (28, range(15, 24)), (24, range(13, 21)), (4, range(2, 3))]
)
def test_cast_changes_the_published_layers_or_the_same_share_of_a_shallower_model(monkeypatch, depth, want):
    acts, _ = planted(layers=tuple(range(depth)), pairs=8, d_model=8)
    object.__setattr__(acts.provenance, "n_layers", depth)
    seen = {}
    monkeypatch.setattr(
        rivals, "fit_cast", lambda train, held, layers, strength: seen.update(train=train, held=held, layers=layers)
    )
    cast_repair(acts, ["sw"], per_class=2)
    assert seen["layers"] == want
    assert set(seen["train"].rows["split"]) == {"train"} and len(seen["train"].rows) == 4
    assert set(seen["held"].rows["split"]) == {"val"}


@pytest.fixture
def small(home, tiny):
    """A tiny model's activations of a few pairs of all splits in one source and one target language."""
    table = load_prompts(languages=["en", "de", "sw"], test_pairs_per_type=1)
    pairs = table.drop_duplicates("pair_id").groupby("split").head(6)["pair_id"]
    table = table[table["pair_id"].isin(pairs)].reset_index(drop=True)
    return tiny("llama"), cache_activations(tiny("llama"), table, progress=False)


def half_refused(model, acts):
    said = complete(model, acts.rows[acts.rows["split"] == "val"], max_new_tokens=2, progress=False)["completion"]
    return first_letter_judge(set(said.str[:1].value_counts().index[::2]), {"en", "de", "sw"})


def test_published_laws_are_used_where_there_are_some_and_fitted_where_there_are_none(small, monkeypatch):
    model, acts = small
    fitted, asked = Law(1, 0.01, 0.0, 0.1, -1.0, 1.0), []
    monkeypatch.setattr(rivals, "fit_laws", lambda *a, **k: asked.append(a[2]) or (fitted, fitted))
    repair = adasteer_repair(model, acts, ["sw"], constant_judge(), law_groups=3, progress=False)
    assert repair.everywhere.parts[0].laws == (fitted, fitted)
    assert set(asked[0]["split"]) == {"val"} and len(asked[0]) == 6 and set(asked[0]["language"]) == {"sw"}
    monkeypatch.setitem(PUBLISHED, "qwen2.5-7b", (fitted, Law(2, 0.0, 0.0)))
    monkeypatch.setattr(rivals, "describe", lambda m: type("P", (), {"name": "qwen2.5-7b"}))
    monkeypatch.setattr(rivals, "adasteer", lambda vectors, laws=None: laws)
    assert adasteer_repair(model, acts, ["sw"], constant_judge()).everywhere is None and len(asked) == 1
    assert adasteer_vectors(examples_of(acts, ["sw"], "train")).rejection.shape == (4, 32)


def test_a_study_tries_everything_and_every_repair_can_be_put_on(small):
    model, acts = small
    repairs = study_repairs(model, acts, half_refused(model, acts), 2, budgets=(0, 1), max_new_tokens=2, progress=False)
    names = [repair.name for repair in repairs]
    assert names == ["baseline", "add", "ablate", "CAST", "AdaSteer", "conditional b=0", "conditional b=1"]
    test = acts.rows[acts.rows["split"] == "test"]
    for repair in repairs[1:]:
        with steer(model, repair.of("sw")):
            assert len(complete(model, test, max_new_tokens=2, progress=False)) == len(test)


def test_a_method_that_cannot_be_fitted_is_left_out_and_said(small):
    model, acts = small
    lines = []
    source = acts.sel(tier="high")
    repairs = study_repairs(model, source, constant_judge(), 2, progress=False, say=lines.append)
    assert [r.name for r in repairs] == ["baseline", "add", "ablate", "conditional b=0"]
    assert [line for line in lines if "left out" in line and "high tier" in line] == lines[1::2]
