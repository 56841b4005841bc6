"""What a change costs, measured without it where it must be and with it where it must be."""

from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch

from workbench import costs as module
from workbench.completions import complete
from workbench.costs import damage, first_token_kl, reply_likelihoods, timing
from workbench.encoding import encode
from workbench.errors import PromptError
from workbench.interventions import add
from workbench.model import changed, describe, state
from workbench.steering import steer
from workbench.store import open_store


@pytest.fixture
def pushed(home, tiny, prompts):
    """A tiny model, and a context in which a vector is added at its last layer."""
    model = tiny("llama")
    return model, partial(steer, model, add(direction_of(model), 6.0))


def direction_of(model, layer=2):
    from workbench.directions import Direction

    vector = np.random.default_rng(0).standard_normal(describe(model).d_model).astype(np.float32)
    vector /= np.linalg.norm(vector)
    about = {"method": "random", "languages": ("en",), "n": (2, 2), "quantiles": (1.0, -1.0)}
    return Direction(vector, 1.0, layer, "last_prompt", describe(model), **about)


def alone(model, text, reply=()):
    """Log-probabilities after a prompt and along a reply, by Hugging Face, one at a time."""
    (e,) = encode(model, [text])
    with torch.inference_mode():
        logits = model.original_model(input_ids=torch.tensor([[*e.ids, *reply]])).logits[0]
    return logits[len(e.ids) - 1 :].float().log_softmax(-1)


def test_a_reply_is_worth_what_the_model_gives_it_token_by_token(home, tiny):
    model, texts = tiny("qwen2"), ["How do I cook rice?", "hi", "hi"]
    replies = ["Boil it.", "", "สวัสดี"]
    found = reply_likelihoods(model, texts, replies, batch_size=2, progress=False)
    for text, reply, scores in zip(texts, replies, found, strict=True):
        tokens = model.tokenizer.encode(reply, add_special_tokens=False)
        log_probs = alone(model, text, tokens)
        want = -sum(float(log_probs[k, token]) for k, token in enumerate(tokens))
        assert scores["n_reply_tokens"] == len(tokens) and scores["nll"] == pytest.approx(want, abs=1e-3)


def test_one_reply_to_two_prompts_is_kept_twice(home, tiny):
    model = tiny("qwen2")
    one, other = reply_likelihoods(model, ["ab", "a"], ["c", "bc"], progress=False)
    again = reply_likelihoods(model, ["a", "ab"], ["bc", "c"], progress=False)
    assert again == [other, one] and one != other


def test_the_divergence_is_that_of_hugging_faces_first_tokens(pushed, prompts):
    model, change = pushed
    texts = prompts["text"][:5].tolist()
    found = first_token_kl(model, texts, change, batch_size=2, progress=False)
    for text, kl in zip(texts, found, strict=True):
        plain = alone(model, text)[-1]
        with change():
            steered = alone(model, text)[-1]
        assert kl == pytest.approx(float((plain.exp() * (plain - steered)).sum()), abs=1e-3) and kl > 0.01
    assert state(model) == ""


def test_a_change_that_changes_nothing_diverges_by_nothing(home, tiny, prompts):
    model = tiny("llama")
    found = first_token_kl(model, prompts["text"][:3].tolist(), partial(changed, model, "nothing"), progress=False)
    assert found == pytest.approx([0, 0, 0], abs=1e-6)


def test_the_divergence_of_one_change_never_answers_for_another(pushed, prompts):
    model, change = pushed
    texts = prompts["text"][:2].tolist()
    strong = partial(steer, model, add(direction_of(model), 12.0))
    one, two = (first_token_kl(model, texts, c, progress=False) for c in (change, strong))
    assert np.all(np.array(two) > np.array(one))
    assert first_token_kl(model, texts, change, progress=False) == one


def test_damage_is_measured_with_the_model_itself_on_what_was_said_under_the_change(pushed, prompts):
    model, change = pushed
    rows = prompts[:6].reset_index(drop=True)
    with change():
        done = complete(model, rows, max_new_tokens=4, progress=False)
        on = state(model)
    table = damage(model, done.assign(name="push"), change, batch_size=3, progress=False)
    assert list(table["prompt_id"]) == list(rows["prompt_id"])
    assert set(table["name"]) == {"push"} and set(table["intervention"]) == {on}
    harmless = rows["label"] == "harmless"
    assert table["kl"].notna().tolist() == harmless.tolist()
    for row, text, reply in zip(table.itertuples(), done["text"], done["completion"], strict=True):
        tokens = model.tokenizer.encode(reply, add_special_tokens=False)
        log_probs = alone(model, text, tokens)
        want = -sum(float(log_probs[k, token]) for k, token in enumerate(tokens))
        if tokens:
            assert row.nll == pytest.approx(want, abs=1e-3)
        else:
            assert np.isnan(row.nll) and np.isnan(row.n_reply_tokens)
    plain = damage(model, complete(model, rows, max_new_tokens=4, progress=False), progress=False)
    assert plain["kl"].isna().all()


def test_damage_of_nothing_is_an_error_in_words(home, tiny, prompts):
    done = complete(tiny("llama"), prompts[:1], max_new_tokens=1, progress=False)
    with pytest.raises(PromptError, match="empty"):
        damage(tiny("llama"), done[:0])


def test_time_is_taken_in_turns_and_leaves_nothing_behind(home, tiny, prompts, monkeypatch):
    """A clock of our own: the change is as slow as we say, and the model's store stays empty."""
    model, clock, turns = tiny("llama"), [0.0], []

    @contextmanager
    def slow():
        turns.append("slow")
        clock[0] += 3.0
        yield

    real = module.complete

    def ticking(model, rows, **how):
        clock[0] += 8.0 if turns and turns[-1] == "slow" else 2.0
        turns.append("done")
        return real(model, rows, **how)

    monkeypatch.setattr(module, "complete", ticking)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    table = timing(model, prompts[:4], {"baseline": None, "slow": slow}, max_new_tokens=2, repeats=2)
    assert table["name"].tolist() == ["baseline", "slow"] * 2 and table["repeat"].tolist() == [0, 0, 1, 1]
    assert table["seconds"].tolist() == [0.5, 2.0] * 2
    assert turns.count("slow") == 3
    assert open_store(describe(model)).summary()["completions"] == 0
