"""Cosines between the directions of a study: named, symmetric, and true to what was planted."""

import numpy as np
import pandas as pd
import pytest
from planted import planted

from workbench.directions import fit_direction
from workbench.similarities import COLUMNS, compare_directions


@pytest.fixture(scope="module")
def acts():
    return planted(strength={0: 0.0, 1: 6.0}, layers=(0, 1), pairs=64)[0]


def _matrix(table: pd.DataFrame, layer: int, position: str = "last_prompt") -> pd.DataFrame:
    here = table[(table["layer"] == layer) & (table["position"] == position)]
    return here.pivot(index="a", columns="b", values="cosine")


def test_the_table_is_symmetric_with_ones_on_the_diagonal(acts):
    table = compare_directions(acts)
    assert list(table.columns) == list(COLUMNS)
    matrix = _matrix(table, 1)
    assert np.allclose(matrix, matrix.T) and np.allclose(np.diag(matrix), 1)
    assert {"harm:en", "harm:sw", "harm:high"} <= set(matrix.index)
    assert not any(name.startswith("refusal") for name in matrix.index)


def test_a_cosine_is_that_of_the_directions_it_names(acts):
    train = acts.sel(layer=1, position="last_prompt", split="train")
    want = fit_direction(train.sel(language="en")).cosine(fit_direction(train.sel(tier="high")))
    assert _matrix(compare_directions(acts), 1).loc["harm:en", "harm:high"] == pytest.approx(want)


def test_languages_that_share_a_planted_direction_are_alike_where_it_is_planted_and_not_elsewhere(acts):
    table = compare_directions(acts)
    assert _matrix(table, 1).loc["harm:en", "harm:de"] > 0.9 > abs(_matrix(table, 0).loc["harm:en", "harm:de"])


def test_a_refusal_direction_appears_where_some_were_refused_and_some_answered(acts):
    rows = acts.rows[acts.rows["split"] == "val"]
    said = ["refusal" if row // 2 % 2 else "compliance" for row in range(len(rows))]
    verdicts = rows[["prompt_id", "language"]].assign(verdict=said, judge="j", intervention="", model="m")
    names = set(compare_directions(acts, verdicts=verdicts)["a"])
    assert {"refusal:all", "refusal:high"} <= names
    never = verdicts.assign(verdict="compliance")
    assert not any(name.startswith("refusal") for name in compare_directions(acts, verdicts=never)["a"])
