"""The layer where taking the direction out lowers refusal most, chosen on validation prompts, every candidate kept."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.ablations import (
    LAYER_COLUMNS,
    LAYER_UNITS,
    choose_by_ablation,
    layer_directions,
    layer_sweep,
    refusal_scores,
    refusal_tokens,
)
from workbench.activations import cache_activations
from workbench.completions import complete
from workbench.encoding import encode
from workbench.errors import FitError
from workbench.interventions import ablate
from workbench.judges import Judge, constant_judge, judge, reading
from workbench.prompts import load_prompts
from workbench.steering import steer


@pytest.fixture(scope="module")
def both():
    """A few training and validation pairs in two languages."""
    table = load_prompts(languages=["en", "de"])
    pairs = table.drop_duplicates("pair_id")
    kept = pairs[(pairs.groupby("split").cumcount() % 5 == 0) & (pairs["split"] != "test")].groupby("split").head(4)
    return table[table["pair_id"].isin(kept["pair_id"])].reset_index(drop=True)


@pytest.fixture
def validation(both):
    return both[both["split"] == "val"].reset_index(drop=True)


@pytest.fixture
def directions(home, tiny, both):
    return layer_directions(cache_activations(tiny("llama"), both, positions=["last_prompt"], progress=False))


def first_letter_judge(letters, languages=("en", "de")):
    """Refusals are the replies that begin with one of these letters."""

    def read(rows):
        said = ["refusal" if text[:1] in letters else "compliance" for text in rows["completion"]]
        yield {place: reading(verdict) for place, verdict in enumerate(said)}

    return Judge(f"first-letter-{sorted(letters)}", frozenset(languages), read)


@pytest.fixture
def half(tiny, home, validation):
    """A judge that calls about half of the tiny model's replies refusals."""
    said = complete(tiny("llama"), validation, max_new_tokens=2, progress=False)["completion"].str[:1]
    return first_letter_judge(set(said.value_counts().index[::2]))


def test_refusal_tokens_are_those_that_begin_more_refusals_than_answers(tiny, half, validation):
    model = tiny("llama")
    done = complete(model, validation, max_new_tokens=2, progress=False)
    verdicts = judge(done, half)
    tokens = refusal_tokens(model, validation, verdicts, progress=False)
    first = [int(logits(model, text)[-1].argmax()) for text in validation["text"]]
    counts = pd.crosstab(pd.Series(first), verdicts["verdict"])
    assert set(tokens) == set(counts.index[counts["refusal"] > counts["compliance"]])


def logits(model, text):
    (e,) = encode(model, [text])
    with torch.inference_mode():
        return model.original_model(input_ids=torch.tensor([e.ids])).logits[0].double()


def test_the_refusal_score_is_the_log_odds_of_the_first_token(home, tiny, validation):
    model, tokens = tiny("llama"), (3, 40, 41, 100)
    found = refusal_scores(model, validation["text"][:4].tolist(), tokens, batch_size=3, progress=False)
    for text, score in zip(validation["text"], found, strict=False):
        p = float(logits(model, text)[-1].softmax(-1)[list(tokens)].sum())
        assert score == pytest.approx(np.log(p) - np.log(1 - p), abs=1e-3)


def test_every_layer_is_screened_and_the_lowest_are_judged(tiny, half, validation, directions):
    model = tiny("llama")
    table = layer_sweep(model, validation, directions, half, finalists=2, max_new_tokens=2, draws=50, progress=False)
    assert list(table.columns) == list(LAYER_COLUMNS) and set(table["measure"]) == set(LAYER_UNITS)
    own = table[(table["relative_to"] == "") & (table["language"] == "en")]
    scores = own[own["measure"] == "refusal_score"].set_index("layer")["value"]
    assert set(scores.index.dropna()) == set(directions) and scores.index.isna().sum() == 1
    tokens = refusal_tokens(
        model, validation, judge(complete(model, validation, max_new_tokens=2, progress=False), half)
    )
    harmful = validation[(validation["label"] == "harmful") & (validation["language"] == "en")]["text"].tolist()
    for layer, direction in directions.items():
        with steer(model, ablate(direction)):
            want = np.mean(refusal_scores(model, harmful, tokens, progress=False))
        assert scores[layer] == pytest.approx(want, abs=1e-6)
    means = table[(table["measure"] == "refusal_score") & (table["relative_to"] == "") & (table["language"] != "")]
    lowest = means.dropna(subset="layer").groupby("layer")["value"].mean().nsmallest(2).index
    judged = own[own["measure"] == "harmful_refusal"]["layer"]
    assert set(judged.dropna()) == set(lowest) and judged.isna().any()


def made(refusal, score):
    """A layer sweep with these values by layer; None is the model itself."""
    rows = [
        {"layer": layer, "language": "en", "relative_to": "", "measure": measure, "value": value}
        for measure, values in (("harmful_refusal", refusal), ("refusal_score", score))
        for layer, value in values.items()
    ]
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def test_the_layer_chosen_has_the_least_refusal_and_the_score_breaks_ties():
    score = {None: 1.0, 0: 0.5, 1: -1.0, 2: -2.0, 3: -3.0}
    assert choose_by_ablation(made({None: 0.9, 1: 0.2, 2: 0.4}, score)) == 1
    assert choose_by_ablation(made({None: 0.9, 1: 0.4, 2: 0.4}, score)) == 2


def test_a_layer_is_not_chosen_where_ablation_lowers_nothing():
    with pytest.raises(FitError, match=r"0\.30.*0\.30"):
        choose_by_ablation(made({None: 0.3, 1: 0.3}, {None: 0.0, 1: 0.0}))


def test_a_model_that_never_refuses_is_said_in_words(tiny, validation, directions):
    sweep = partial(layer_sweep, tiny("llama"), by=constant_judge("compliance"), max_new_tokens=2, progress=False)
    with pytest.raises(FitError, match="refused 0 of 16"):
        sweep(prompts=validation, directions=directions)


def test_a_layer_is_never_chosen_on_test_prompts_or_those_of_the_fit(tiny, both, validation, directions):
    with pytest.raises(FitError, match="test prompts"):
        layer_sweep(tiny("llama"), validation.assign(split="test"), directions, constant_judge())
    with pytest.raises(FitError, match="fitted on"):
        layer_sweep(tiny("llama"), both[both["split"] == "train"], directions, constant_judge())
