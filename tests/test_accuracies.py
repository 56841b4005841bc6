import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARCHITECTURES

from workbench import accuracies as module
from workbench.accuracies import VARIANTS, accuracy_table, answers, comprehension, letter_tokens, utility
from workbench.encoding import encode
from workbench.errors import FitError, PromptError
from workbench.intervals import paired_difference, rate
from workbench.measures import MEASURE_COLUMNS
from workbench.model import changed, describe
from workbench.questions import LETTERS, load_questions, question_prompts
from workbench.store import open_store


@pytest.fixture
def few():
    """Six short questions in English."""
    table = load_questions(languages=["en"])
    return table[table["question"].str.len() < 60][:6].reset_index(drop=True)


def likelihood(model, text, reply):
    """Of a reply to a chat prompt, teacher-forced by Hugging Face."""
    (e,) = encode(model, [text])
    tokens = model.tokenizer.encode(reply, add_special_tokens=False)
    with torch.inference_mode():
        logits = model.original_model(input_ids=torch.tensor([[*e.ids, *tokens]])).logits[0].float()
    log_probs = logits.log_softmax(-1)
    return sum(float(log_probs[len(e.ids) - 1 + k, token]) for k, token in enumerate(tokens))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_chosen_letter_is_the_likeliest_over_all_four_spellings(home, tiny, few, architecture):
    model = tiny(architecture)
    found = answers(model, few, batch_size=4, progress=False)
    for text, row in zip(question_prompts(few), found.to_dict("records"), strict=True):
        want = {letter: max(likelihood(model, text, way.format(letter)) for way in VARIANTS) for letter in LETTERS}
        assert {letter: row[letter] for letter in LETTERS} == pytest.approx(want, abs=1e-3)
        assert row["chosen"] == max(want, key=want.get) and row["correct"] == (row["chosen"] == row["answer"])


def test_a_spelling_that_begins_with_another_is_never_likelier_and_is_not_run(tiny):
    tokenizer = tiny("llama").tokenizer
    for letter, known in letter_tokens(tokenizer).items():
        ways = [tuple(tokenizer.encode(way.format(letter), add_special_tokens=False)) for way in VARIANTS]
        assert set(known) <= set(ways)
        assert all(any(way[: len(short)] == short for short in known) for way in ways)
        assert not any(a != b and b[: len(a)] == a for a, b in itertools.product(known, known))


def test_answers_come_from_the_store_and_what_is_on_never_answers_for_the_model_itself(home, tiny, few, monkeypatch):
    model = tiny("llama")
    first = answers(model, few, progress=False)
    with changed(model, "an edit"):
        edited = answers(model, few, progress=False)
    assert set(edited["intervention"]) == {"an edit"} and set(first["intervention"]) == {""}
    assert open_store(describe(model)).summary()["completions"] == 12
    monkeypatch.setattr(module, "continuation_log_probs", None)
    pd.testing.assert_frame_equal(answers(model, few, progress=False), first)


def answered(correct, code="en", tier="high", name="baseline"):
    """A table of `answers` with these outcomes."""
    places = range(len(correct))
    names = {"question_id": [f"{code}-{k}" for k in places], "parallel_id": [f"q{k}" for k in places]}
    about = {"dataset": "made", "language": code, "tier": tier, "model": "m", "name": name}
    return pd.DataFrame(names).assign(**about, correct=np.array(correct, dtype=bool))


def test_accuracy_is_a_rate_with_wilsons_interval_by_language_and_the_mean_of_languages_by_tier():
    sets = answered([1] * 30 + [0] * 10), answered([1] * 10 + [0] * 30, "de"), answered([0] * 9, "sw", "low")
    table = accuracy_table(pd.concat(sets))
    assert list(table.columns) == list(MEASURE_COLUMNS) and set(table["measure"]) == {"accuracy"}
    by = table.set_index(["language", "tier"])
    assert tuple(by.loc[("en", "high"), ["value", "low", "high"]]) == pytest.approx(rate(30, 40))
    assert by.loc[("", "high"), "value"] == 0.5 and by.loc[("", "high"), "n"] == 80
    assert by.loc[("", "low"), "high"] > 0.2 and by.loc[("", "low"), "value"] == 0


def test_a_change_is_paired_question_by_question():
    before, after = answered([1] * 30 + [0] * 10), answered([1] * 25 + [0] * 15, name="x")
    table = accuracy_table(pd.concat([before, after.sample(frac=1, random_state=1)]))
    row = table[(table["relative_to"] == "baseline") & (table["language"] == "en")].iloc[0]
    value, low, high = paired_difference([1] * 25 + [0] * 15, [1] * 30 + [0] * 10)
    assert row["value"] == pytest.approx(value) and row["low"] <= low + 1e-12 and row["high"] >= high - 1e-12
    assert row["high"] - row["low"] < 1.3 * (high - low)
    assert (row["name"], row["n"]) == ("x", 40)


def test_comprehension_is_what_the_budget_takes(home, tiny, few):
    table = utility(tiny("llama"), few, progress=False)
    found = comprehension(table)
    assert set(found) == {"en"} and found["en"] == table["value"].iloc[0]
    with pytest.raises(FitError, match="more than once"):
        comprehension(pd.concat([table, table]))


def test_what_cannot_be_compared_or_answered_is_said_in_words(home, tiny, few):
    with pytest.raises(PromptError, match="empty"):
        utility(tiny("llama"), few[:0])
    with pytest.raises(FitError, match="one model"):
        accuracy_table(pd.concat([answered([1]), answered([1], name="x").assign(model="other")]))


def test_what_is_on_names_the_run(home, tiny, few):
    with changed(tiny("llama"), "an edit"):
        assert set(utility(tiny("llama"), few, progress=False)["name"]) == {"an edit"}
    assert set(utility(tiny("llama"), few, progress=False)["name"]) == {"baseline"}
