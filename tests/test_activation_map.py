import numpy as np
import pandas as pd
import pytest
import synthetic
from planes import complains, dies, fake_umap, slow

from workbench.errors import WorkbenchError
from workbench.study import open_study
from workbench.widgets import ActivationMap
from workbench.widgets.jobs import Job, Stopped
from workbench.widgets.processes import in_process

CODES = ("en", "de", "ar", "sw", "yo")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return synthetic.study(tmp_path_factory.mktemp("study"), CODES, n_layers=4, quick=True)


@pytest.fixture
def panel(opened):
    made = ActivationMap(opened)
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


def shown(panel):
    """Name of each group -> its points, `[point, 2]`."""
    return {trace.name: np.c_[trace.x, trace.y] for trace in panel.map.data if len(trace.x)}


def brought(panel, *points):
    """A lasso round points, as the browser tells of it."""
    traces, places = zip(*points, strict=True) if points else ((), ())
    event = {"event_type": "plotly_selected", "device_state": {}, "selector": None}
    event["points"] = {
        "trace_indexes": list(traces),
        "point_indexes": list(places),
        "xs": [0] * len(traces),
        "ys": [0] * len(traces),
    }
    panel.map._js2py_pointsCallback = event


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_it_opens_on_the_test_prompts_of_the_working_layer_by_label(panel, opened):
    maps = opened.maps.query("layer == @opened.study.layer and split == 'test'")
    assert panel.layer == opened.study.layer and set(shown(panel)) == {"harmful", "harmless"}
    for label, points in shown(panel).items():
        expected = maps[maps["label"] == label][["pca_x", "pca_y"]].to_numpy()
        np.testing.assert_allclose(points, expected, rtol=1e-5)


@pytest.mark.parametrize("layer", range(4))
def test_the_layer_moves_the_points_and_nothing_else(panel, opened, layer):
    panel.layer, panel.split = layer, "all"
    points = np.concatenate(list(shown(panel).values()))
    expected = opened.maps.query("layer == @layer")[["pca_x", "pca_y"]].to_numpy()
    np.testing.assert_allclose(np.sort(points, axis=0), np.sort(expected.astype(np.float32), axis=0))


@pytest.mark.parametrize("colour", ["language", "tier", "label", "harm_type", "verdict", "quadrant"])
def test_points_are_grouped_by_the_column_and_no_two_groups_look_the_same(panel, opened, colour):
    panel.colour = colour
    ledger = opened.ledger
    values = ledger[colour].astype(object).where(ledger[colour].notna(), "missing")
    assert sorted(len(points) for points in shown(panel).values()) == sorted(values.value_counts())
    looks = [(trace.marker.color, trace.marker.symbol) for trace in panel.map.data]
    assert len(set(looks)) == len(looks)


def test_twenty_three_languages_differ_in_colour_or_symbol(tmp_path):
    from workbench.languages import LANGUAGES

    codes = tuple(LANGUAGES)[:23]
    panel = ActivationMap(
        synthetic.study(tmp_path, codes, n_layers=1, pairs_per_type=16, quick=True), colour="language"
    )
    assert len({(trace.marker.color, trace.marker.symbol) for trace in panel.map.data}) == 23
    assert panel.error == ""


def test_filters_leave_the_prompts_they_say(panel, opened):
    panel.language = "sw"
    assert sum(map(len, shown(panel).values())) == len(opened.ledger.query("language == 'sw'"))
    panel.split = "all"
    assert sum(map(len, shown(panel).values())) == len(opened.prompts.query("language == 'sw'"))


def test_axes_can_be_the_same_at_all_layers(panel, opened):
    def limits():
        return (*panel.map.layout.xaxis.range, *panel.map.layout.yaxis.range)

    fitted = [limits() for panel.layer in (0, 3)]
    assert fitted[0] != fitted[1]
    panel.scale = "same"
    same = [limits() for panel.layer in (0, 3)]
    assert same[0] == same[1]
    points = opened.maps[["pca_x", "pca_y"]]
    assert same[0][0] < points["pca_x"].min() and points["pca_x"].max() < same[0][1]
    assert same[0][2] < points["pca_y"].min() and points["pca_y"].max() < same[0][3]


# --- from points to the ledger ---------------------------------------------------------------------------------------


def test_a_lasso_leads_to_the_ledger_rows_of_its_points(panel, opened):
    panel.colour = "language"
    brought(panel, (0, 3), (0, 4), (3, 0))
    assert panel.error == "" and panel.selection_count == 3
    ids = list(panel.selection["prompt_id"])
    expected = opened.ledger.set_index("prompt_id").loc[ids]
    assert list(panel.selection["quadrant"]) == list(expected["quadrant"])
    np.testing.assert_allclose(panel.selection["score"], expected["score"])
    assert list(panel.selection["language"]) == ["en", "en", "sw"]
    assert panel.ledger.grid.total == 3
    assert [list(trace.selectedpoints) for trace in panel.map.data] == [[3, 4], [], [], [0], []]
    place = panel.selection.iloc[0]
    np.testing.assert_allclose(shown(panel)["English (en)"][3], place[["x", "y"]].to_numpy(float), rtol=1e-5)


def test_the_choice_survives_another_layer_and_other_colours(panel, opened):
    panel.lasso([(0, 1), (1, 2)])
    before = panel.selection
    panel.layer, panel.colour = 0, "tier"
    pd.testing.assert_series_equal(panel.selection["prompt_id"], before["prompt_id"])
    assert set(panel.selection["layer"]) == {0} and list(panel.selection["x"]) != list(before["x"])
    assert sum(len(trace.selectedpoints) for trace in panel.map.data) == 2


def test_a_double_click_and_the_button_let_all_points_go(panel):
    nothing = {key: [] for key in ("trace_indexes", "point_indexes", "xs", "ys")}
    event = {"event_type": "plotly_deselect", "points": nothing}
    for let_go in (
        lambda: setattr(panel.map, "_js2py_pointsCallback", event),
        lambda: panel.controls["clear"].click(),
    ):
        panel.lasso([(0, 1)])
        assert panel.selection_count == 1
        let_go()
        assert panel.selection_count == 0 and panel.map.data[0].selectedpoints is None


def test_a_lasso_round_nothing_chooses_nothing(panel):
    panel.lasso([(0, 1)])
    brought(panel)
    assert panel.selection_count == 0 and panel.error == ""


def test_a_group_is_chosen_from_the_keyboard(panel, opened):
    panel.colour = "quadrant"
    assert [value for _, value in panel.controls["group"].options][1:] == panel.points.groups("quadrant")[0]
    panel.controls["group"].value = "knows and answers"
    assert panel.selection_count == len(opened.ledger.query("quadrant == 'knows and answers'")) > 0
    assert set(panel.selection["quadrant"]) == {"knows and answers"}


def test_a_rule_chooses_among_the_points_that_are_shown(panel, opened):
    panel.language = "sw"
    panel.where = "label == 'harmful' and x < 2"
    maps = opened.maps.query(
        "layer == @panel.layer and split == 'test' and language == 'sw' and label == 'harmful' and pca_x < 2"
    )
    assert set(panel.selection["prompt_id"]) == set(maps["prompt_id"]) and len(maps)


@pytest.mark.parametrize("rule", ["nothing > 3", "label ==", "1 +", "language", "x + 1"])
def test_a_rule_that_is_none_is_said_in_words_and_leaves_the_choice(panel, rule):
    panel.lasso([(0, 1)])
    panel.where = rule
    assert "A rule must" in panel.error and panel.selection_count == 1
    panel.where = "x < 1e9"
    assert panel.error == "" and panel.selection_count > 1


def test_its_state_and_its_choice_go_into_another_one(panel, opened):
    panel.layer, panel.colour, panel.language, panel.scale = 1, "harm_type", "yo", "same"
    panel.lasso([(2, 1), (3, 0)])
    again = ActivationMap(opened, **panel.state, chosen=panel.chosen)
    assert again.state == panel.state and again.error == ""
    pd.testing.assert_frame_equal(again.selection, panel.selection)


# --- texts -----------------------------------------------------------------------------------------------------------


def test_texts_of_a_row_are_escaped_and_folded_and_no_text_is_on_the_map(tmp_path):
    study = synthetic.study(tmp_path, ("en", "sw"), texts=synthetic.NASTY, n_layers=1, quick=True)
    panel = ActivationMap(study)
    panel.lasso([(0, 0)])
    panel.controls["ledger"].chosen = 0
    html = panel._detail.value
    assert html.count("<details") == html.count("<summary>") == 3 and " open" not in html
    for live in ("<script", "<img", "<svg", "<iframe", "<a "):
        assert live not in html
    assert "&lt;script&gt;" in html and 'dir="auto"' in html
    assert "script" not in str(panel.map.data)


def test_group_names_never_become_markup(opened, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    maps = opened.maps.replace({"harm_type": {"fraud": evil}})
    panel = ActivationMap(rewritten(opened, tmp_path, maps=maps), colour="harm_type")
    assert panel.error == "" and "<img" not in str(panel.map.data)
    panel.controls["group"].value = evil
    assert set(panel.selection["harm_type"]) == {evil}


# --- studies that lack something, or have much of it -----------------------------------------------------------------


def test_without_maps_it_says_so(opened, tmp_path):
    panel = ActivationMap(rewritten(opened, tmp_path, maps=None))
    assert "no table &#x27;maps&#x27;" in panel._notes.value and panel.error == "" and panel.selection.empty


def test_without_ledger_texts_and_completions_points_are_still_chosen(opened, tmp_path):
    panel = ActivationMap(rewritten(opened, tmp_path, ledger=None, prompts=None, completions=None))
    assert "no table &#x27;ledger&#x27;" in panel._notes.value
    assert "verdict" not in panel.points.columns().values()
    panel.lasso([(0, 0)])
    panel.controls["ledger"].chosen = 0
    assert panel.error == "" and "no text" in panel._detail.value and panel.selection_count == 1


def test_one_language_without_verdicts_looks_right(tmp_path):
    panel = ActivationMap(synthetic.study(tmp_path, ("sw", "en")[1:], verdicts=False, n_layers=2, quick=True))
    assert panel.error == "" and "verdict" not in panel.points.columns().values()
    panel.colour = "language"
    assert list(shown(panel)) == ["English (en)"]


def test_choices_that_leave_nothing_say_so(opened, tmp_path):
    maps = opened.maps.query("not (language == 'yo' and split == 'test')")
    panel = ActivationMap(rewritten(opened, tmp_path, maps=maps), language="yo")
    assert "No prompts are left" in panel._words.value and panel.error == "" and not shown(panel)
    panel.split = "all"
    assert shown(panel)


def test_rows_of_a_layer_in_another_order_are_the_same_points(opened, tmp_path):
    parts = [part.sample(frac=1, random_state=int(layer)) for layer, part in opened.maps.groupby("layer")]
    panel = ActivationMap(rewritten(opened, tmp_path, maps=pd.concat(parts)), layer=3)
    panel.where = "language == 'sw' and label == 'harmful' and harm_type == 'fraud'"
    panel.layer = 1
    merged = panel.selection.merge(opened.maps.query("layer == 1"), on="prompt_id")
    assert len(merged) == panel.selection_count > 0
    np.testing.assert_allclose(merged["x"], merged["pca_x"])


def test_forty_thousand_points_are_one_trace_per_group_and_one_page_of_rows(opened, tmp_path):
    copies = -(-40_000 // len(opened.maps.query("layer == 0")))

    def many(table):
        parts = [table.assign(prompt_id=table["prompt_id"] + f"-{n}") for n in range(copies)]
        return pd.concat(parts, ignore_index=True)

    maps = many(opened.maps.query("layer == 0"))
    panel = ActivationMap(rewritten(opened, tmp_path, maps=maps, ledger=many(opened.ledger)), split="all", layer=0)
    assert sum(map(len, shown(panel).values())) == len(maps) >= 40_000
    panel.where = "x > -100"
    assert panel.selection_count == len(maps)
    assert len(panel.ledger.grid.page) == panel.ledger.grid.size


# --- UMAP ------------------------------------------------------------------------------------------------------------


def test_umap_runs_in_the_background_of_one_layer_and_says_so(panel, opened, monkeypatch):
    monkeypatch.setattr("workbench.widgets.activation_map.umap", fake_umap)
    flat = shown(panel)["harmful"]
    assert panel.controls["compute"].disabled
    panel.method = "umap"
    assert "not computed yet" in panel._words.value and not panel.controls["compute"].disabled
    np.testing.assert_array_equal(shown(panel)["harmful"], flat)
    panel.controls["compute"].click()
    assert panel.jobs.running and "UMAP of 1,280 prompts" in panel.jobs.label.value
    panel.jobs.wait(600)
    assert panel.error == "" and "not computed yet" not in panel._words.value
    assert panel.map.layout.xaxis.title.text == "UMAP 1"
    # Distances are those of the plane; axes are turned to agree with the PCA.
    here = opened.maps.query("layer == @panel.layer")
    found = panel._points(panel.layer)
    plane = here[["p1", "p2"]].to_numpy()
    np.testing.assert_allclose(
        np.linalg.norm(found - found[0], axis=1), np.linalg.norm(plane - plane[0], axis=1), atol=1e-9
    )
    panel.layer = 0
    assert "not computed yet" in panel._words.value and panel.map.layout.xaxis.title.text.startswith("PC 1")


def test_umap_can_be_stopped_and_its_process_is_gone(panel, monkeypatch):
    from multiprocessing import active_children

    monkeypatch.setattr("workbench.widgets.activation_map.umap", slow)
    panel.method = "umap"
    panel.controls["compute"].click()
    thread = panel.jobs._thread
    panel.jobs.stop_button.click()
    assert not panel.jobs.running
    thread.join(600)
    assert not thread.is_alive() and not active_children()
    assert panel.error == "" and "not computed yet" in panel._words.value


@pytest.mark.parametrize(("call", "words"), [(dies, "ended without one"), (complains, "no neighbours")])
def test_a_umap_that_fails_is_said_in_words(panel, monkeypatch, call, words):
    monkeypatch.setattr("workbench.widgets.activation_map.umap", call)
    panel.method = "umap"
    panel.controls["compute"].click()
    panel.jobs.wait(600)
    assert words in panel.error and not panel.jobs.running
    panel.layer = 0
    assert panel.error == ""


def test_a_process_hands_back_what_the_function_returns_and_stops_where_the_job_does():
    points = np.arange(12.0).reshape(3, 4)
    said = []
    np.testing.assert_array_equal(
        in_process(Job("w", lambda *a: said.append(a)), "w", fake_umap, points), fake_umap(points)
    )
    job = Job("w", lambda *a: None)
    job.stop()
    with pytest.raises(Stopped):
        in_process(job, "w", slow, points)
    with pytest.raises(WorkbenchError, match="without one"):
        in_process(Job("w", lambda *a: None), "w", dies, points)
