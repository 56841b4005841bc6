import numpy as np
import pandas as pd
import pytest
import synthetic

from workbench.allocations import allocation_in_words
from workbench.study import open_study
from workbench.widgets import AllocationExplorer
from workbench.widgets.slips import Slips

CODES = ("en", "de", "sw", "yo", "am")
PAIRS = [("sw", "sw"), ("am", "am"), ("yo", "yo"), ("sw", "yo"), ("yo", "sw")]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return synthetic.study(tmp_path_factory.mktemp("study"), CODES, n_layers=2, without=("fewshot",))


@pytest.fixture
def explorer(opened):
    made = AllocationExplorer(opened)
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
    return np.asarray(figure.data[0].z, dtype=float)[::-1]


def value(opened, pair, kind, measure, source="", column="value"):
    """A cell of the table, looked up without any array."""
    table = opened.allocation
    here = (table["calibrated"] == pair[0]) & (table["judged"] == pair[1]) & (table["harm_type"] == kind)
    here &= (table["measure"] == measure) & (table["calibrated_type"] == source)
    return table[here & (table["allocation"] == ("deep" if source else "broad"))][column].item()


@pytest.mark.parametrize("measure", ["slips", "false_alarms", "loss"])
def test_every_cell_of_the_maps_is_one_of_the_table(explorer, opened, measure):
    explorer.measure, explorer.second = measure, "deep"
    kinds = explorer.kinds
    assert explorer.pairs == PAIRS
    expected = [[value(opened, pair, kind, measure) for kind in kinds] for pair in PAIRS]
    np.testing.assert_allclose(drawn(explorer.broad), expected)
    own = [[value(opened, pair, kind, measure, kind) for kind in kinds] for pair in PAIRS]
    np.testing.assert_allclose(drawn(explorer.deep), own)
    explorer.source = "hate"
    hate = [[value(opened, pair, kind, measure, "hate") for kind in kinds] for pair in PAIRS]
    np.testing.assert_allclose(drawn(explorer.deep), hate)
    explorer.second = "difference"
    np.testing.assert_allclose(drawn(explorer.deep), np.subtract(hate, expected))


def test_one_language_shows_where_examples_come_from_against_what_is_judged(explorer, opened):
    explorer.pair = "yo/sw"
    z = drawn(explorer.sources)
    assert z.shape == (8, 8)
    for row, source in enumerate(explorer.kinds):
        for column, kind in enumerate(explorer.kinds):
            pair = ("yo", "sw")
            assert z[row, column] == pytest.approx(
                value(opened, pair, kind, "slips", source) - value(opened, pair, kind, "slips")
            )


def test_a_star_marks_cells_whose_intervals_do_not_overlap(opened, tmp_path):
    table = opened.allocation
    here = (table["calibrated"] == "sw") & (table["judged"] == "sw") & (table["measure"] == "slips")
    here &= (table["harm_type"] == "fraud") & (table["allocation"] != "deep - broad")
    table.loc[here, ["value", "low", "high"]] = [10.0, 5.0, 15.0]
    table.loc[here & (table["calibrated_type"] == "fraud"), ["value", "low", "high"]] = [30.0, 15.5, 40.0]
    table.loc[here & (table["calibrated_type"] == "hate"), ["value", "low", "high"]] = [30.0, 14.5, 40.0]
    explorer = AllocationExplorer(rewritten(opened, tmp_path, allocation=table))
    fraud, hate = explorer.kinds.index("fraud"), explorer.kinds.index("hate")
    words = explorer.sources.data[0].text[::-1]
    assert words[fraud][fraud] == "+20*" and words[hate][fraud] == "+20"


def test_intervals_are_those_of_the_table(explorer, opened):
    explorer.pair, explorer.source = "am/am", "fraud"
    for trace, source in zip(explorer.intervals.data, ("", "fraud"), strict=True):
        low, high = (
            [value(opened, ("am", "am"), kind, "slips", source, column) for kind in explorer.kinds]
            for column in ("low", "high")
        )
        np.testing.assert_allclose(np.asarray(trace.x) - trace.error_x.arrayminus, low, atol=1e-9)
        np.testing.assert_allclose(np.asarray(trace.x) + trace.error_x.array, high, atol=1e-9)
    contrasts = opened.allocation.query("allocation == 'deep - broad' and measure == 'slips'")
    for trace, where in zip(explorer.contrasts.data, ("inside", "outside"), strict=True):
        part = contrasts[contrasts["harm_type"] == where].set_index(["calibrated", "judged"])
        expected = part.loc[[*PAIRS, ("all", "itself"), ("all", "related")]]
        np.testing.assert_allclose(trace.x, expected["value"])
        np.testing.assert_allclose(np.asarray(trace.x) + trace.error_x.array, expected["high"])
    assert explorer.intervals.data[0].marker.symbol != explorer.intervals.data[1].marker.symbol


def test_a_click_chooses_language_and_type_and_the_selection_follows(explorer):
    assert len(explorer.selection) == 16
    explorer.broad.click(0, 2)  # the lowest row is the last pair
    assert (explorer.pair, explorer.harm_type) == ("yo/sw", explorer.kinds[2])
    assert explorer.controls["pair"].value == "yo/sw" and explorer.controls["harm_type"].value == explorer.kinds[2]
    found = explorer.selection
    assert list(found["allocation"]) == ["broad", "deep"] and list(found["calibrated_type"]) == ["", explorer.kinds[2]]
    assert set(found["calibrated"]) == {"yo"} and set(found["judged"]) == {"sw"} and set(found["measure"]) == {"slips"}
    explorer.sources.click(0, 7 * 8 + 5)
    assert (explorer.source, explorer.harm_type) == (explorer.kinds[0], explorer.kinds[5])
    assert list(explorer.selection["calibrated_type"]) == ["", explorer.kinds[0]]
    assert explorer.rows.grid.total == 2


def test_the_sentence_is_the_one_of_the_table(explorer, opened):
    from html import unescape

    assert allocation_in_words(opened.allocation) in unescape(explorer._sentence.value)


def test_its_state_goes_into_another_one(explorer, opened):
    explorer.measure, explorer.pair, explorer.source, explorer.harm_type = "loss", "sw/yo", "privacy", "hate"
    explorer.second = "deep"
    again = AllocationExplorer(opened, **explorer.state)
    assert again.state == explorer.state and again.error == ""
    pd.testing.assert_frame_equal(again.selection, explorer.selection)
    np.testing.assert_allclose(drawn(again.deep), drawn(explorer.deep))


def test_several_budgets_are_kept_apart(opened, tmp_path):
    table = opened.allocation
    more = table.assign(k=8, value=table["value"] + 1, high=table["high"] + 1)
    explorer = AllocationExplorer(rewritten(opened, tmp_path, allocation=pd.concat([table, more])))
    few = drawn(explorer.broad)
    explorer.k = 8
    np.testing.assert_allclose(drawn(explorer.broad), few + 1)
    assert "8 + 8 examples" in explorer._sentence.value and set(explorer.selection["k"]) == {8}


def test_without_the_table_it_says_what_it_needs(opened, tmp_path):
    explorer = AllocationExplorer(rewritten(opened, tmp_path, allocation=None))
    assert "no table &#x27;allocation&#x27;" in explorer._notes.value and "full study" in explorer._notes.value
    assert explorer.error == "" and explorer.selection.empty
    again = AllocationExplorer(opened, pair="xx/yy")
    assert again.error
    again.pair = "am/am"
    assert again.error == "" and set(again.selection["calibrated"]) == {"am"}


def test_one_calibrated_language_without_relatives_is_one_row(tmp_path):
    study = synthetic.study(tmp_path, ("en", "am"), n_layers=1, without=("fewshot", "budget"))
    explorer = AllocationExplorer(study)
    assert explorer.error == "" and explorer.pairs == [("am", "am")] and drawn(explorer.broad).shape == (1, 8)
    assert list(explorer.contrasts.layout.yaxis.ticktext) == ["Amharic (am)", "mean, judged in itself"]


def test_a_cell_that_the_table_lacks_is_a_gap(opened, tmp_path):
    table = opened.allocation
    gone = (table["calibrated"] == "sw") & (table["judged"] == "sw") & (table["harm_type"] == "hate")
    explorer = AllocationExplorer(rewritten(opened, tmp_path, allocation=table[~gone]))
    hate = explorer.kinds.index("hate")
    z = drawn(explorer.broad)
    assert np.isnan(z[0, hate]) and np.isfinite(np.delete(z, hate, 1)).all() and explorer.error == ""
    assert explorer.broad.data[0].text[::-1][0][hate] == ""


def test_harm_types_of_the_table_never_become_markup(opened, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    table = opened.allocation.replace({"fraud": evil})
    explorer = AllocationExplorer(rewritten(opened, tmp_path, allocation=table), source=evil, harm_type=evil)
    assert explorer.error == "" and set(explorer.selection["harm_type"]) == {evil}
    texts = [str(figure.data) + str(figure.layout) for figure in explorer.figures.values()]
    texts += [caption.value for caption in explorer._captions] + [explorer._sentence.value]
    assert not any("<img" in text for text in texts)


def test_arrays_hold_every_row_of_the_table_once(opened):
    table = opened.allocation
    slips = Slips.of(table.sample(frac=1, random_state=0))
    cells = table[table["allocation"] != "deep - broad"]
    filled = np.concatenate([cube[..., 0].ravel() for cube in slips.values.values()])
    np.testing.assert_allclose(np.sort(filled), np.sort(cells["value"]))
    assert slips.means("slips", 4) == [("all", "itself"), ("all", "related")]
