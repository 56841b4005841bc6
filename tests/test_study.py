"""The whole line on a random-weight model: tables as the contract says, from the cache the second time."""

import dataclasses
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from workbench import study as studies
from workbench.analysis import GAP_COLUMNS
from workbench.errors import WorkbenchError
from workbench.rows import KEYS
from workbench.study import Study, open_study, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model_folder):
    path = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(path / "home"))
        what = Study(model=str(model_folder("qwen2")), languages=("en", "sw"), test_pairs_per_type=1, max_new_tokens=4)
        run(what, path / "results")
        yield path / "results"


def test_every_table_is_there_with_its_keys(folder):
    opened = open_study(folder)
    for name in ("prompts", "scores", "features", "maps", "completions", "verdicts"):
        table = opened.table(name)
        assert set(KEYS) <= set(table.columns) and len(table), name
    assert list(opened.gap.columns) == list(GAP_COLUMNS) and list(opened.gap["language"]) == ["en", "sw"]
    assert len(opened.prompts) == 2 * (128 + 16) and opened.prompts["n_tokens"].gt(0).all()
    assert len(opened.scores) == len(opened.prompts) * 3 * 4
    assert len(opened.completions) == len(opened.verdicts) == 2 * 16
    assert opened.study.languages == ("en", "sw") and opened.study.completed == ("test",)


def test_the_sweep_and_the_working_scores_agree_with_the_gap_table(folder):
    opened = open_study(folder)
    layer = opened.study.working_layer(opened.provenance)
    assert set(opened.sweep["split"]) == {"val", "test"} and len(opened.sweep) == 2 * 2 * 3 * 4
    there = opened.sweep.query(f"split == 'test' and layer == {layer} and position == 'last_prompt'")
    assert list(there["auroc"]) == pytest.approx(list(opened.gap["auroc"]))
    direction = opened.controls.query("control == 'direction'")
    assert list(direction["auroc"]) == pytest.approx(list(opened.gap["auroc"]))
    assert set(opened.controls["control"]) == {"direction", "random", "permuted", "n_tokens", "n_chars"}


def test_refusals_confounds_and_u_scores_say_what_they_rest_on(folder):
    opened = open_study(folder)
    # Only test prompts are completed here: no language has a refusal direction, and each says why.
    assert not opened.refusals["defined"].any() and opened.refusals["reason"].str.len().gt(0).all()
    assert set(opened.u_scores["language"]) == {"sw"} and opened.u_scores["layer"].nunique() == 4
    assert list(opened.confounds["language"]) == ["en", "sw"]
    whole = opened.gap_without.query("dropped == 'none'")
    assert list(whole["delta"]) == pytest.approx(list(opened.gap["delta"]))


def test_the_maps_hold_every_prompt_at_every_layer_and_the_features_lie_on_one_of_them(folder):
    opened = open_study(folder)
    assert len(opened.maps) == len(opened.prompts) * 4
    here = opened.maps[opened.maps["layer"] == opened.study.working_layer(opened.provenance)].set_index("prompt_id")
    mine = opened.features.set_index("prompt_id")
    # The plane is the same up to its mirror: the map follows the layer before.
    far = [t[["pca_x", "pca_y"]].pow(2).sum(axis=1).reindex(mine.index) for t in (here, mine)]
    assert list(far[0]) == pytest.approx(list(far[1]), rel=1e-3, abs=1e-3)


def test_a_second_run_answers_from_the_cache_with_equal_tables(folder, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(folder.parent / "home"))
    first = open_study(folder)
    monkeypatch.setattr("workbench.completions._greedy", None)
    monkeypatch.setattr("workbench.capture.Capture.run", None)
    again = run(first.study, folder.parent / "again")
    for name in studies.TABLES[: studies.TABLES.index("ledger")]:
        pd.testing.assert_frame_equal(first.table(name), again.table(name))


def test_a_finished_study_is_opened_as_it_is_and_made_again_when_its_recipe_changes(folder, tmp_path, monkeypatch):
    copy = tmp_path / "results"
    shutil.copytree(folder, copy)
    study = open_study(copy).study
    monkeypatch.setattr("workbench.study.load_model", None)
    pd.testing.assert_frame_equal(run(study, copy).gap, open_study(folder).gap)
    for other in (dataclasses.replace(study, max_new_tokens=3), dataclasses.replace(study, languages=("en",))):
        with pytest.raises(TypeError):  # it sets out to load the model
            run(other, copy)


def test_the_analysis_needs_no_model_and_leaves_its_tables(folder, monkeypatch):
    monkeypatch.setattr("workbench.study.load_model", None)
    opened = studies.analyse(open_study(folder))
    assert set(opened.ledger["prompt_id"]) == set(opened.completions["prompt_id"])
    terms = opened.budget.query("side == 'delta' and relative_to == '' and measure != 'degenerate'")
    assert terms.groupby("language")["value"].sum().round(6).eq(100).all()
    assert set(opened.fewshot["language"].dropna()) >= {"en", "sw"}


def test_no_group_of_prompts_is_in_two_splits(folder):
    groups = open_study(folder).prompts.groupby("pair_id")["split"].nunique()
    assert (groups == 1).all()


def test_a_folder_without_a_study_and_a_table_that_is_not_there_are_errors_in_words(folder, tmp_path):
    with pytest.raises(WorkbenchError, match="make demo"):
        open_study(tmp_path)
    with pytest.raises(WorkbenchError, match="prompts"):
        open_study(folder).table("promts")


def test_the_command_prints_the_table_and_two_sentences_and_draws_the_figure(model_folder, home, tmp_path, monkeypatch):
    from workbench.cli import app

    monkeypatch.setattr("workbench.prompts.languages_of", lambda codes: ["en", "sw"])
    done = CliRunner().invoke(app, ["demo", "--model", str(model_folder("llama")), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "sw Swahili" in done.output and "held-out prompts" in done.output and "make lab" in done.output
    for suffix in ("pdf", "png"):
        assert (tmp_path / "out" / f"refusal_and_auroc_by_tier.{suffix}").stat().st_size > 5000


def test_the_command_says_mistakes_in_words(home, tmp_path):
    from workbench.cli import app

    done = CliRunner().invoke(app, ["demo", "--model", "qwen3-coder", "--out", str(tmp_path)])
    assert done.exit_code == 1 and "Did you mean" in done.output and "Traceback" not in done.output
