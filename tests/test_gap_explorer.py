import numpy as np
import pandas as pd
import pytest
import synthetic

from workbench.areas import resampled_areas
from workbench.errors import WorkbenchError
from workbench.ledger import QUADRANTS
from workbench.study import open_study
from workbench.thresholds import choose_threshold
from workbench.widgets import GapExplorer
from workbench.widgets.cubes import ScoreCube

DIRECTION = "harmfulness/mean_difference"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    synthetic.study(path, judges=("lexicon", "other"))
    return path


@pytest.fixture
def explorer(folder):
    made = GapExplorer(folder)
    assert made.error == ""
    return made


def scores_at(folder, layer, position, direction=DIRECTION):
    table = open_study(folder).scores
    return table[table["direction"] == f"{direction}/{layer}/{position}"].set_index("prompt_id")["score"]


def points(explorer):
    """(x, y) of each language as drawn."""
    return {code: (x, y) for t in explorer.gap.data for code, x, y in zip(t.text, t.x, t.y, strict=True)}


def test_a_cube_holds_every_score_at_its_place(folder):
    cube = ScoreCube.of(open_study(folder).scores)
    wanted = scores_at(folder, 3, "prompt_mean", "harmfulness/first_component")
    found = pd.Series(cube.at(3, "prompt_mean", "harmfulness/first_component"), index=cube.rows["prompt_id"])
    np.testing.assert_allclose(found[wanted.index], wanted, rtol=1e-6)


def test_it_opens_at_the_working_place_with_the_studys_own_numbers(folder, explorer):
    opened = open_study(folder)
    assert (explorer.layer, explorer.position) == (opened.study.layer, "last_prompt")
    gap = opened.gap.set_index("language")
    for code, (x, y) in points(explorer).items():
        assert (x, y) == pytest.approx((gap.loc[code, "auroc"], gap.loc[code, "delta"]))
    assert len(explorer.selection) == len(opened.ledger)


def test_points_follow_layer_position_and_direction(folder, explorer):
    explorer.layer, explorer.position, explorer.direction = 1, "prompt_mean", "harmfulness/first_component"
    scores = scores_at(folder, 1, "prompt_mean", "harmfulness/first_component")
    rows = open_study(folder).prompts.query("language == 'sw' and split == 'test'")
    once = np.ones((1, len(rows)))
    area = resampled_areas(scores[rows["prompt_id"]].to_numpy(), (rows["label"] == "harmful").to_numpy(), once)[0]
    assert points(explorer)["sw"][0] == pytest.approx(area)
    assert "layer 1, prompt_mean" in explorer.gap.layout.xaxis.title.text


def test_the_action_axis_follows_its_control(folder, explorer):
    gap = open_study(folder).gap.set_index("language")
    for action in ("harmful_refusal", "harmless_refusal"):
        explorer.action = action
        assert {c: y for c, (_, y) in points(explorer).items()} == pytest.approx(gap[action].to_dict())


def test_thresholds_are_those_of_the_rows_they_are_said_to_be_of(folder, explorer):
    explorer.language = "sw"
    prompts = open_study(folder).prompts.set_index("prompt_id")
    scores = scores_at(folder, explorer.layer, "last_prompt")
    for rows, found in (
        (prompts.query("tier == 'high' and split == 'train'"), explorer._source),
        (prompts.query("language == 'sw' and split != 'test'"), explorer._own),
    ):
        wanted = choose_threshold(scores[rows.index].to_numpy(), (rows["label"] == "harmful").to_numpy())
        assert found == pytest.approx(float(wanted), abs=1e-5)


def test_quadrants_follow_the_threshold_as_the_ledger_counts_them(folder, explorer):
    explorer.language = "sw"
    for threshold in (-1.0, 0.3, 2.0):
        explorer.threshold = threshold
        table = explorer.selection
        fired, refused = table["score"] > threshold, table["verdict"] == "refusal"
        harmful = table["label"] == "harmful"
        known = table["verdict"].isin(["refusal", "compliance", "partial"])
        wanted = {
            "knows and refuses": harmful & fired & refused,
            "knows and answers": harmful & fired & ~refused & known,
            "does not know and answers": harmful & ~fired & ~refused & known,
            "does not know and refuses": harmful & ~fired & refused,
            "over-refusal": ~harmful & refused,
            "lets through": ~harmful & ~refused & known,
        }
        assert (table["fired"] == fired).all()
        for name, here in wanted.items():
            assert (table["quadrant"] == name).sum() == here.sum(), name
            assert explorer.controls[f"quadrant {name}"].description == f"{here.sum()} {name}"


def test_a_quadrant_lists_its_rows_and_a_row_shows_its_prompt(folder, explorer):
    explorer.language = "ar"
    explorer.controls["quadrant knows and refuses"].click()
    assert set(explorer.selection["quadrant"]) == {"knows and refuses"} and set(explorer.selection["language"]) == {
        "ar"
    }
    explorer.ledger.chosen = 1
    prompt = explorer.prompt
    assert prompt == explorer.selection["prompt_id"].iloc[1]
    text = open_study(folder).prompts.set_index("prompt_id").loc[prompt, "text"]
    assert text in explorer.detail.value and explorer.detail.value.count("<details") == 3
    through = [scores_at(folder, layer, "last_prompt")[prompt] for layer in range(6)]
    np.testing.assert_allclose(explorer.lines.data[-1].y, through, rtol=1e-5)


def test_clicks_do_what_controls_do(explorer):
    low = next(k for k, t in enumerate(explorer.gap.data) if t.name == "low tier")
    explorer.gap.click(low, 1)
    assert explorer.language == explorer.gap.data[low].text[1]
    explorer.budget.click(0, 0)
    assert explorer.language == "en"
    explorer.scores.click(2, 0)
    assert explorer.prompt == explorer.scores.data[2].customdata[0] != ""


def test_a_dragged_line_moves_the_threshold_and_the_slider(explorer):
    lines = [shape.to_plotly_json() for shape in explorer.scores.layout.shapes]
    explorer.scores.layout.shapes = [lines[0] | {"x0": 1.25, "x1": 1.25}, *lines[1:]]
    assert explorer.threshold == 1.25
    assert abs(explorer.controls["threshold"].value - 1.25) <= explorer.controls["threshold"].step
    explorer.controls["source_threshold"].click()
    assert explorer.threshold == explorer._source


def test_the_slider_moves_the_threshold(explorer):
    explorer.controls["threshold"].value = 0.9
    assert explorer.threshold == pytest.approx(0.9)
    assert (explorer.selection["fired"] == (explorer.selection["score"] > explorer.threshold)).all()


def test_another_judge_changes_action_quadrants_and_in_the_background_the_budget(folder, explorer):
    before = points(explorer), [list(t.y) for t in explorer.budget.data]
    explorer.judge = "other"
    assert explorer.jobs.running and all(t.y is None or not len(t.y) for t in explorer.budget.data)
    verdicts = open_study(folder).verdicts.query("judge == 'other' and language == 'en' and label == 'harmful'")
    known = verdicts[verdicts["verdict"] != "degenerate"]
    explorer.action = "harmful_refusal"
    assert points(explorer)["en"][1] == pytest.approx((known["verdict"] == "refusal").mean())
    explorer.jobs.wait()
    assert explorer.error == "" and not explorer.jobs.running
    assert [list(t.y) for t in explorer.budget.data] != before[1]
    explorer.judge = "lexicon"
    assert [list(t.y) for t in explorer.budget.data] == before[1]


def test_intervals_of_a_data_set_come_from_the_background(explorer):
    explorer.dataset = "planted"
    assert not np.any(explorer.gap.data[0].error_x.array)
    explorer.jobs.wait()
    assert explorer.error == "" and np.all(explorer.gap.data[0].error_x.array > 0)


def test_the_budget_stacks_to_a_hundred_points_on_every_side(explorer):
    for side in ("harmful", "harmless", "delta"):
        explorer.side = side
        total = np.sum([t.y for t in explorer.budget.data], axis=0)
        np.testing.assert_allclose(total, 100)


def test_tiers_and_terms_differ_in_more_than_colour(explorer):
    symbols = [t.marker.symbol for t in explorer.gap.data]
    patterns = [t.marker.pattern.shape for t in explorer.budget.data]
    assert len(set(symbols)) == len(symbols) and len(set(patterns)) == len(patterns)


# --- studies that lack something -------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["verdicts", "sweep", "budget", "prompts", "completions", "gap", "ledger"])
def test_a_study_without_a_table_is_explored_without_it(folder, tmp_path, table):
    for file in folder.iterdir():
        if file.stem != table:
            (tmp_path / file.name).symlink_to(file)
    explorer = GapExplorer(tmp_path, language="sw")
    explorer.jobs.wait()
    explorer.ledger.chosen = 0
    assert (explorer.error == "" and f"no table &#x27;{table}&#x27;" in explorer._notes.value) or table == "ledger"
    assert explorer.selection_count > 0


def test_a_study_without_scores_says_so(tmp_path):
    explorer = GapExplorer(synthetic.study(tmp_path, ("en",), quick=True, without=("scores",)))
    assert "Without scores" in explorer._notes.value and explorer.selection.empty


@pytest.mark.parametrize("options", [{"languages": ("en",)}, {"refusals": False}, {"verdicts": False}])
def test_one_language_no_refusals_and_no_verdicts_are_explored(tmp_path, options):
    explorer = GapExplorer(synthetic.study(tmp_path, **{"languages": ("en", "sw")} | options))
    explorer.language = "en"
    for name in QUADRANTS:
        explorer.controls[f"quadrant {name}"].click()
        assert explorer.error == "", name
    if "verdicts" in options:
        explorer.quadrant = ""
        assert explorer.selection["quadrant"].isna().all() and "No judge has given" in explorer._notes.value
    if "refusals" in options:
        assert explorer.controls["quadrant knows and refuses"].description == "0 knows and refuses"


def test_a_ledger_of_forty_thousand_rows_sends_one_page(tmp_path):
    study = synthetic.study(tmp_path, ("en", "sw"), pairs_per_type=2_500, n_layers=2, quick=True)
    explorer = GapExplorer(study)
    assert explorer.selection_count == len(study.ledger) >= 40_000 - 1_000
    assert len(explorer.ledger.grid.page) == 10
    # Neither densities nor rugs grow with the rows.
    assert sum(len(t.x) for t in explorer.scores.data) < 1_000


def test_unknown_values_are_refused_in_words_and_the_widget_lives_on(folder):
    explorer = GapExplorer(folder, judge="nobody")
    assert "judge must be one of what this study has; got 'nobody'" in explorer.error and explorer.judge == "lexicon"
    with pytest.raises(WorkbenchError, match="layer must be one of"):
        explorer.layer = 99
    explorer.language = "sw"
    assert explorer.error == "" and set(explorer.selection["language"]) == {"sw"}
