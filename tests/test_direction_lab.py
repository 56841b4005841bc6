import numpy as np
import pandas as pd
import pytest
import synthetic

from workbench.study import open_study
from workbench.sweeps import choose_layer
from workbench.widgets import DirectionLab
from workbench.widgets.heatmaps import cell
from workbench.widgets.surfaces import surfaces

CODES = ("en", "de", "ar", "sw", "yo")
PLACES = synthetic.POSITIONS


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return synthetic.study(tmp_path_factory.mktemp("study"), CODES, n_layers=4, without=("allocation", "budget"))


@pytest.fixture
def lab(opened):
    made = DirectionLab(opened)
    assert made.error == ""
    return made


def rewritten(opened, folder, **tables):
    """The study again, with other tables; None leaves a table out."""
    for file in opened.path.iterdir():
        if tables.get(file.stem, "") is not None:
            (folder / file.name).write_bytes(file.read_bytes())
    for name, table in tables.items():
        if table is not None:
            table.to_parquet(folder / f"{name}.parquet", index=False)
    return open_study(folder)


def drawn(figure):
    """Values of a heat map, first row on top."""
    return np.asarray(figure.data[0].z, dtype=float)[::-1]


def mean_auroc(opened, **where):
    table = opened.sweep
    for name, value in where.items():
        table = table[table[name].isin(value) if isinstance(value, tuple) else table[name] == value]
    return table["auroc"].mean()


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_it_opens_on_the_working_place_and_on_validation_prompts(lab, opened):
    assert (lab.layer, lab.position, lab.split) == (opened.study.layer, "last_prompt", "val")
    assert lab.direction in set(opened.scores["direction"])
    assert set(lab.selection["language"]) == set(CODES)
    assert set(lab.selection["layer"]) == {lab.layer} and set(lab.selection["split"]) == {"val"}


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("method", ["mean_difference", "first_component"])
def test_every_cell_of_both_maps_is_the_mean_of_the_sweep(lab, opened, method, split):
    lab.method, lab.split, lab.group, lab.rows = method, split, "tier:low", "tiers"
    z = drawn(lab.places)
    assert z.shape == (3, 4)
    for place, position in enumerate(PLACES):
        for layer in range(4):
            where = {"method": method, "split": split, "layer": layer, "language": ("sw", "yo")}
            assert z[place, layer] == pytest.approx(mean_auroc(opened, position=position, **where))
    tiers = drawn(lab.languages)
    assert list(lab.languages.data[0].y)[::-1] == ["high", "mid", "low"]
    np.testing.assert_allclose(tiers[2], z[PLACES.index(lab.position)])
    lab.rows = "languages"
    expected = mean_auroc(opened, method=method, split=split, layer=2, position=lab.position, language="ar")
    assert drawn(lab.languages)[2, 2] == pytest.approx(expected)


def test_a_click_sets_the_working_direction_and_the_controls_follow(lab):
    lab.places.click(0, 0 * 4 + 3)  # the lowest row of the map is the last position
    assert (lab.position, lab.layer) == (PLACES[-1], 3)
    assert (lab.controls["position"].value, lab.controls["layer"].value) == (PLACES[-1], 3)
    lab.languages.click(0, 0 * 4 + 1)
    assert (lab.group, lab.layer) == ("yo", 1) and lab.controls["group"].value == "yo"
    assert list(lab.selection["language"]) == ["yo"] and set(lab.selection["position"]) == {PLACES[-1]}
    lab.places.click(0, 2 * 4)
    assert (lab.position, lab.layer) == (PLACES[0], 0)
    assert lab.direction == f"harmfulness/mean_difference/0/{PLACES[0]}"
    assert set(lab.scores["direction"]) == {lab.direction} and len(lab.scores) == len(lab.opened.prompts)


def test_the_frame_is_round_the_working_cell(lab):
    lab.layer, lab.position = 1, PLACES[0]
    frame = lab.places.layout.shapes[0]
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (0.5, 1.5, 1.5, 2.5)
    whole = lab.languages.layout.shapes[0]
    assert (whole.x0, whole.y0, whole.y1) == (0.5, -0.5, len(CODES) - 0.5)
    lab.group = "en"
    assert lab.languages.layout.shapes[0].y0 == len(CODES) - 1.5


def test_the_best_place_is_the_one_that_choose_layer_finds_on_validation_prompts(lab, opened):
    lab.split, lab.group = "test", "tier:low"
    lab.controls["best"].click()
    table = opened.sweep.query("split == 'val' and method == 'mean_difference' and tier == 'low'")
    best = choose_layer(table)
    assert lab.error == "" and (lab.layer, lab.position) == (best.layer, best.position)


def test_choosing_by_test_prompts_is_warned_of(lab):
    assert "test prompts" not in lab._notes.value
    lab.split = "test"
    assert "A layer chosen by them must not be reported on them" in lab._notes.value
    lab.split = "val"
    assert "test prompts" not in lab._notes.value


def test_controls_are_bands_with_the_limits_of_the_table(lab, opened):
    for trace, name in zip(lab.nulls.data, ("random", "permuted", "n_tokens", "n_chars"), strict=False):
        part = opened.controls[opened.controls["control"] == name]
        np.testing.assert_allclose(trace.y, part["auroc"])
        np.testing.assert_allclose(np.asarray(trace.y) + trace.error_y.array, part["high"])
        np.testing.assert_allclose(np.asarray(trace.y) - trace.error_y.arrayminus, part["low"])
    assert len({trace.marker.symbol for trace in lab.nulls.data}) == len(lab.nulls.data)
    lab.bands = ("permuted",)
    assert [len(trace.x) for trace in lab.nulls.data[:4]] == [0, len(CODES), 0, 0]
    assert lab.controls["bands"].value == ("permuted",)


def test_a_picked_cell_elsewhere_is_shown_beside_the_controls_and_said(lab, opened):
    assert len(lab.nulls.data[5].x) == 0
    lab.layer = 1
    expected = [
        mean_auroc(opened, method=lab.method, split="val", layer=1, position=lab.position, language=c) for c in CODES
    ]
    np.testing.assert_allclose(lab.nulls.data[5].y, expected)
    assert "The picked cell is another" in lab._null_words.value


def test_cosines_are_those_of_the_place_with_one_on_the_diagonal(lab, opened):
    matrix = lab.cosines
    assert list(matrix.index) == [f"harm:{code}" for code in CODES]
    np.testing.assert_allclose(np.diag(matrix), 1.0)
    np.testing.assert_allclose(drawn(lab.angles), matrix.to_numpy())
    lab.layer, lab.among = 0, "harmfulness and refusal"
    names = ["harm:high", "harm:mid", "harm:low", "refusal:all", "refusal:high"]
    assert list(lab.cosines.index) == names
    row = opened.cosines.query("layer == 0 and position == 'last_prompt' and a == 'harm:low' and b == 'refusal:all'")
    assert lab.cosines.loc["harm:low", "refusal:all"] == row["cosine"].item()
    lab.position = "prompt_mean"
    assert "No refusal direction is defined here" in lab._angle_words.value
    lab.among = "everything"
    assert len(lab.cosines) == len(CODES) + 3 + 8


def test_a_cell_is_the_same_whether_counted_through_or_said_as_row_and_column(lab):
    trace = lab.places.data[0]
    assert cell(trace, [2, 3]) == cell(trace, 2 * 4 + 3) == (0, 3)  # browsers count rows from below


# --- state -----------------------------------------------------------------------------------------------------------


def test_its_state_goes_into_another_one(lab, opened):
    lab.layer, lab.position, lab.group, lab.rows, lab.among = 1, "prompt_mean", "sw", "tiers", "harm types"
    lab.bands, lab.split = ("random",), "test"
    again = DirectionLab(opened, **lab.state)
    assert again.state == lab.state and again.error == ""
    pd.testing.assert_frame_equal(again.selection, lab.selection)
    assert drawn(again.angles).tolist() == drawn(lab.angles).tolist()


def test_a_layer_that_is_not_there_is_said_and_the_widget_lives_on(opened):
    lab = DirectionLab(opened, layer=77)
    assert lab.error
    lab.layer = 1
    assert lab.error == "" and set(lab.selection["layer"]) == {1}


# --- studies that lack something -------------------------------------------------------------------------------------


def test_without_any_of_its_tables_it_opens_and_says_what_is_missing(opened, tmp_path):
    lab = DirectionLab(rewritten(opened, tmp_path, sweep=None, controls=None, cosines=None))
    for name in ("sweep", "controls", "cosines"):
        assert f"no table &#x27;{name}&#x27;" in lab._notes.value
    assert lab.error == "" and lab.layer == opened.study.layer and lab.selection.empty and lab.cosines.empty
    lab.controls["best"].click()
    assert "no table 'sweep'" in lab.error
    assert len(lab.scores) == len(opened.prompts)


@pytest.mark.parametrize("lacking", ["sweep", "controls", "cosines"])
def test_without_one_table_the_others_are_still_drawn(opened, tmp_path, lacking):
    lab = DirectionLab(rewritten(opened, tmp_path, **{lacking: None}))
    lab.layer, lab.position = 1, "prompt_mean"
    assert lab.error == ""
    figures = {"sweep": lab.places, "controls": lab.nulls, "cosines": lab.angles}
    assert {name: len(figure.data) > 0 for name, figure in figures.items()} == {n: n != lacking for n in figures}


def test_one_language_makes_one_row(tmp_path):
    lab = DirectionLab(synthetic.study(tmp_path, ("en",), n_layers=2, without=("allocation",)))
    assert lab.error == "" and drawn(lab.languages).shape == (1, 2) and len(lab.selection) == 1
    lab.rows, lab.group = "tiers", "en"
    assert lab.error == "" and lab.cosines.shape == (1, 1)


def test_a_cell_without_a_number_is_a_gap_and_says_why(opened, tmp_path):
    sweep = opened.sweep
    here = (sweep["layer"] == 0) & (sweep["position"] == "last_prompt") & (sweep["language"] == "sw")
    sweep.loc[here, ["auroc", "low", "high"]] = np.nan
    sweep.loc[here, "reason"] = "the contrast is <b>exactly</b> zero"
    lab = DirectionLab(rewritten(opened, tmp_path, sweep=sweep), group="sw", layer=0)
    z = drawn(lab.places)
    assert np.isnan(z[1, 0]) and np.isfinite(z[1, 1:]).all()
    said = lab.places.data[0].hovertext[1][0]
    assert "the contrast is &lt;b&gt;exactly&lt;/b&gt; zero" in said and "<b>" not in lab._words.value
    lab.group = "all"
    # A mean that left its worst language out would flatter the layer.
    assert np.isnan(drawn(lab.places)[1, 0])
    assert lab.error == ""


def test_names_from_the_tables_never_become_markup(opened, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    cosines = opened.cosines.replace({"type:fraud": f"type:{evil}"})
    sweep = opened.sweep.replace({"position": {"prompt_mean": evil}})
    lab = DirectionLab(rewritten(opened, tmp_path, cosines=cosines, sweep=sweep), among="everything", position=evil)
    shown = [lab._words.value, lab._angle_words.value, lab._null_words.value, lab._notes.value]
    for figure in (lab.places, lab.languages, lab.angles):
        shown += [str(figure.data), str(figure.layout)]
    assert not any("<img" in text for text in shown)


def test_a_surface_has_the_languages_of_the_study_in_the_order_of_the_paper(opened):
    surface = surfaces(opened.sweep.sample(frac=1, random_state=0))["mean_difference", "val"]
    assert surface.languages == list(CODES) and surface.tiers == ["high", "mid", "low"]
    assert surface.members("tier:high") == ["en", "de"] and surface.members("sw") == ["sw"]
    assert surfaces(None) == {} == surfaces(opened.sweep.iloc[:0])
