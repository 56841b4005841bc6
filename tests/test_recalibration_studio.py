from math import comb

import numpy as np
import pytest
import synthetic

from workbench.gates import Gate, fit_gate, recalibrate, recalibrate_unlabelled
from workbench.study import open_study
from workbench.thresholds import mean_shift, shrinkage
from workbench.widgets import RecalibrationStudio
from workbench.widgets.pools import MOST_DRAWS, Pool, all_draws


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    synthetic.study(path, ("en", "de", "ar", "sw"), quick=True)
    return path


@pytest.fixture(scope="module")
def rows(folder):
    return open_study(folder).features


@pytest.fixture(scope="module")
def source(rows):
    return fit_gate(rows.query("tier == 'high' and split == 'train'"))


@pytest.fixture
def studio(folder):
    made = RecalibrationStudio(folder)
    assert made.error == "" and made.language == "sw"
    return made


def train(rows, code="sw"):
    return rows.query(f"language == '{code}' and split == 'train'")


# --- pools and draws -------------------------------------------------------------------------------------------------


def test_all_draws_of_one_example_are_every_pair_once():
    drawn, of = all_draws(np.arange(6), np.arange(10, 17), 1, 1)
    assert of == len(drawn) == 42 and len({tuple(pair) for pair in drawn}) == 42
    assert set(drawn[:, 0]) == set(range(6)) and set(drawn[:, 1]) == set(range(10, 17))


def test_larger_draws_are_sampled_without_replacement_and_evenly():
    drawn, of = all_draws(np.arange(12), np.arange(20, 40), 3, 2)
    assert of == comb(12, 3) * comb(20, 2) and len(drawn) == MOST_DRAWS
    assert all(len(set(one[:3])) == 3 and len(set(one[3:])) == 2 for one in drawn)
    share = np.bincount(drawn[:, :3].ravel(), minlength=12) / drawn[:, :3].size
    np.testing.assert_allclose(share, 1 / 12, atol=0.01)


def test_the_spread_is_that_of_gates_recalibrated_one_by_one(rows, source):
    part = rows.query("language == 'sw'")
    few = part.groupby(["split", "label"]).head(7)
    pool = Pool(source, few)
    test, drawn = few.query("split == 'test'"), few.query("split == 'train'")
    harmful = (test["label"] == "harmful").to_numpy()
    for variant, rule in (("recalibrated", None), ("shrunk", shrinkage)):
        values = []
        for one in drawn.query("label == 'harmful'").index:
            for other in drawn.query("label == 'harmless'").index:
                gate = recalibrate(source, drawn.loc[[one, other]], **({"shrink": rule} if rule else {}))
                fired = gate.fires(test)
                values.append(100 * (fired[harmful].mean() - fired[~harmful].mean()))
        found = pool.spread(1, 1).query(f"variant == '{variant}' and measure == 'Delta'").iloc[0]
        assert found["draws"] == found["of"] == 49
        np.testing.assert_allclose(
            found[["low", "median", "high"]].astype(float), np.quantile(values, [0.025, 0.5, 0.975])
        )


def test_more_examples_spread_less(rows, source):
    pool = Pool(source, rows.query("language == 'sw'"))
    widths = []
    for b in (1, 2, 4):
        one = pool.spread(b, b).query("variant == 'recalibrated' and measure == 'TPR'").iloc[0]
        widths.append(one["high"] - one["low"])
    assert widths[0] > widths[1] > widths[2]


@pytest.mark.parametrize("per_class", [1, 2, 4])
def test_proposed_examples_beat_most_draws_of_their_size(rows, source, per_class):
    better = 0
    for code in ("sw", "ar"):
        part = rows.query(f"language == '{code}'")
        pool, labelled = Pool(source, part), train(rows, code)
        best = recalibrate(source, labelled).threshold
        off = abs(recalibrate(source, labelled[labelled["prompt_id"].isin(pool.propose(per_class))]).threshold - best)
        drawn = [abs(recalibrate(source, labelled, per_class, seed).threshold - best) for seed in range(60)]
        better += off < np.median(drawn)
    assert better == 2


def test_proposals_are_spread_over_harm_types(rows, source):
    chosen = Pool(source, rows.query("language == 'sw'")).propose(4)
    kinds = rows.set_index("prompt_id").loc[chosen].groupby("label")["harm_type"].nunique()
    assert (kinds == 4).all()


# --- the widget ------------------------------------------------------------------------------------------------------


def test_it_opens_on_a_low_language_with_nothing_chosen(studio, source):
    assert studio.selection.empty and set(studio._gates) == {"source", "mean shift", "mixture"}
    assert studio._gates["source"].threshold == pytest.approx(source.threshold)


def test_clicked_examples_move_the_threshold_to_where_recalibrate_puts_it(studio, rows, source):
    studio.curves.click(2, 3)
    assert "recalibrated" not in studio._gates
    studio.curves.click(3, 5)
    chosen = rows[rows["prompt_id"].isin(studio.examples)]
    assert len(chosen) == len(studio.selection) == 2 and chosen["label"].nunique() == 2
    assert studio._gates["recalibrated"].threshold == pytest.approx(recalibrate(source, chosen).threshold)
    assert studio._gates["shrunk"].threshold == pytest.approx(recalibrate(source, chosen, shrink=shrinkage).threshold)
    wanted = recalibrate_unlabelled(source, train(rows), mean_shift).threshold
    assert studio._gates["mean shift"].threshold == pytest.approx(wanted)
    lines = {shape.label.text: shape.x0 for shape in studio.curves.layout.shapes}
    assert lines == pytest.approx({name: gate.threshold for name, gate in studio._gates.items()})


def test_what_is_drawn_of_each_threshold_is_what_its_gate_does_on_test_prompts(studio, rows):
    studio.controls["propose"].click()
    test = rows.query("language == 'sw' and split == 'test'")
    harmful = (test["label"] == "harmful").to_numpy()
    tpr = next(t for t in studio.results.data if t.name == "TPR")
    for name, x, y in zip(studio._gates, tpr.x, tpr.y, strict=True):
        assert y == pytest.approx(100 * studio._gates[name].fires(test)[harmful].mean()), (name, x)


def test_a_click_on_a_chosen_example_drops_it(studio):
    studio.curves.click(2, 3)
    studio.curves.click(2, 3)
    assert studio.examples == [] and studio.selection.empty


def test_a_fifth_example_of_a_class_is_refused_in_words(studio):
    for point in range(5):
        studio.curves.click(2, point)
    assert len(studio.examples) == 4 and "At most 4 examples of a class" in studio.error
    studio.controls["clear"].click()
    assert studio.examples == [] and studio.error == ""


def test_rows_of_the_table_are_read_and_taken_with_the_keyboard(studio, folder):
    assert studio.controls["take"].disabled
    studio.pool_table.chosen = 12
    prompt = studio.pool_table.row["prompt_id"]
    text = open_study(folder).prompts.set_index("prompt_id").loc[prompt, "text"]
    assert text in studio.detail.value and studio.detail.value.startswith("<details")
    studio.controls["take"].click()
    assert studio.examples == [prompt] and studio.pool_table.grid.first == 10
    assert studio.pool_table.grid.page[2][0] == "yes"


def test_another_language_starts_afresh(studio):
    studio.controls["propose"].click()
    studio.language = "ar"
    assert studio.examples == [] and "Arabic" in studio.words.value
    assert studio._pool.rows["language"].unique().tolist() == ["ar"]


def test_the_spread_says_over_how_many_draws_it_is(studio):
    studio.controls["propose"].click()
    n = len(studio._pool.rows) // 2
    assert f"all {n * n:,} draws" in studio.words.value
    studio.per_class = 2
    studio.controls["propose"].click()
    assert f"{MOST_DRAWS:,} of {comb(n, 2) ** 2:,} draws" in studio.words.value


def test_the_exported_gate_is_the_one_on_show(studio, tmp_path, rows):
    studio.path = str(tmp_path / "sw.safetensors")
    studio.controls["export"].click()
    assert "needs an example of each class" in studio.error
    studio.controls["propose"].click()
    for variant in ("recalibrated", "shrunk", "mixture", "source"):
        studio.variant = variant
        studio.controls["export"].click()
        saved = Gate.load(studio.path)
        assert studio.error == "" and saved.threshold == studio._gates[variant].threshold == studio.gate.threshold
    test = rows.query("language == 'sw' and split == 'test'")
    np.testing.assert_array_equal(saved.fires(test), studio.gate.fires(test))


def test_an_export_without_a_name_or_folder_is_said(studio, tmp_path):
    studio.variant, studio.path = "source", "  "
    studio.controls["export"].click()
    assert "must have a file" in studio.error
    studio.path = str(tmp_path / "nowhere" / "gate.safetensors")
    studio.controls["export"].click()
    assert studio.error and "Traceback" in studio._errors.value


def test_state_is_restored_with_its_examples(studio, folder):
    studio.controls["propose"].click()
    again = RecalibrationStudio(folder, **studio.state, examples=studio.examples)
    assert again.selection.equals(studio.selection) and again.numbers.value == studio.numbers.value


@pytest.mark.parametrize("without", ["features", "prompts"])
def test_a_study_without_a_table_says_so(tmp_path, without):
    studio = RecalibrationStudio(synthetic.study(tmp_path, ("en", "sw"), quick=True, without=(without,)))
    assert without in studio._notes.value and studio.error == ""
    if without == "prompts":
        studio.controls["propose"].click()
        assert studio.selection_count == 2 and studio.error == ""


def test_a_study_of_one_language_recalibrates_that(tmp_path):
    studio = RecalibrationStudio(synthetic.study(tmp_path, ("en",), quick=True))
    studio.controls["propose"].click()
    assert studio.error == "" and len(studio._gates) == 5
