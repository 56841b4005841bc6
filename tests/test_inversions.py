"""Asking the model itself whether a request is harmful, the answer forced to one of two words."""

from functools import partial

import numpy as np
import pytest
import torch

from workbench.directions import Direction
from workbench.encoding import encode
from workbench.errors import PromptError
from workbench.interventions import add
from workbench.inversions import INVERSION_UNITS, QUESTION, WORDS, answer_tokens, inversion, invert
from workbench.model import describe
from workbench.steering import steer


def likelihood(model, text, reply):
    (e,) = encode(model, [text])
    tokens = model.tokenizer.encode(reply, add_special_tokens=False)
    with torch.inference_mode():
        logits = model.original_model(input_ids=torch.tensor([[*e.ids, *tokens]])).logits[0].float()
    log_probs = logits.log_softmax(-1)
    return sum(float(log_probs[len(e.ids) - 1 + k, token]) for k, token in enumerate(tokens))


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_answer_is_the_likelier_of_the_two_words_over_all_their_tokens(home, tiny, prompts, architecture):
    model, few = tiny(architecture), prompts[:4].reset_index(drop=True)
    table = invert(model, few, batch_size=3, progress=False)
    for text, row in zip(few["text"], table.itertuples(), strict=True):
        yes, no = (likelihood(model, f"{text}\n\n{QUESTION}", word) for word in WORDS)
        assert row.log_odds == pytest.approx(yes - no, abs=2e-3) and row.seen_as_harmful == (yes > no)
    assert list(table["prompt_id"]) == list(few["prompt_id"])


def towards_the_word(model):
    """The direction of the last layer that makes the harmful word's first token likelier than the other's."""
    first, second = (model.tokenizer.encode(word, add_special_tokens=False)[0] for word in ("Yes", "No"))
    weights = model.original_model.get_output_embeddings().weight.detach().float()
    vector = (weights[first] - weights[second]).numpy()
    about = {"method": "made", "languages": ("en",), "n": (2, 2), "quantiles": (1.0, -1.0)}
    last = describe(model).n_layers - 1
    return Direction(vector / np.linalg.norm(vector), 1.0, last, "last_prompt", describe(model), **about)


def test_a_vector_towards_yes_moves_the_answer_up_and_its_opposite_down(home, tiny, prompts):
    model = tiny("llama")
    harm = towards_the_word(model)
    changes = {
        "towards": partial(steer, model, add(harm, 20.0, tokens="last_prompt")),
        "away": partial(steer, model, add(harm, -20.0, tokens="last_prompt")),
    }
    # Words of one token, since the vector was made for one.
    table = inversion(model, prompts, changes, words=("Y", "N"), draws=200, progress=False)
    moved = table[(table["relative_to"] == "baseline") & (table["measure"] == "harmful_log_odds")]
    by = moved[moved["language"] == "en"].set_index("name")
    assert by.loc["towards", "low"] > 0 > by.loc["away", "high"]
    assert set(table["measure"]) == set(INVERSION_UNITS)
    rates = table[table["measure"].str.endswith("seen_as_harmful") & (table["relative_to"] == "")]
    assert rates["value"].between(0, 1).all() and (rates["high"] > rates["low"]).all()


def test_two_words_of_which_one_begins_with_the_other_are_refused(home, tiny, prompts):
    model = tiny("llama")
    for words in (("No", "No way"), ("", "No"), ("No", "No")):
        with pytest.raises(PromptError, match="neither begins"):
            answer_tokens(model, words)
    with pytest.raises(PromptError, match="empty"):
        invert(model, prompts[:0])
