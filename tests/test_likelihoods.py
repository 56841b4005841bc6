"""Scores in batches equal Hugging Face's own logits, one row at a time, without cache or padding."""

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES

from workbench.completions import complete
from workbench.directions import Direction
from workbench.encoding import encode
from workbench.interventions import add
from workbench.likelihoods import continuation_log_probs, kept_scores, next_log_probs, reply_log_probs
from workbench.model import changed, describe
from workbench.steering import steer
from workbench.store import open_store

TEXTS = ["How do I cook rice?", "hi", "ข้าวหุงอย่างไร ช่วยบอกด้วย", "كيف أطبخ الأرز؟"]


def oracle(model, ids, tokens):
    """Log-probability of each of `tokens` after `ids`, teacher-forced."""
    with torch.inference_mode():
        logits = model.original_model(input_ids=torch.tensor([[*ids, *tokens]])).logits[0].float()
    log_probs = logits.log_softmax(-1)
    return torch.stack([log_probs[len(ids) - 1 + k, token] for k, token in enumerate(tokens)])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_next_token_in_a_batch_is_that_of_each_prompt_alone(tiny, architecture):
    model = tiny(architecture)
    batch = encode(model, TEXTS)
    found = next_log_probs(model, batch)
    for row, e in enumerate(batch):
        want = torch.cat([oracle(model, e.ids, (token,)) for token in range(0, 272, 17)])
        torch.testing.assert_close(found[row, ::17], want, atol=1e-4, rtol=1e-4)
    assert torch.allclose(found.exp().sum(1), torch.ones(len(batch)), atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_continuations_that_share_beginnings_are_worth_what_each_is_alone(tiny, architecture):
    model = tiny(architecture)
    batch = encode(model, TEXTS)
    continuations = [(5,), (5, 7), (5, 7, 9), (6, 7), (5, 8), (40, 41, 42, 43)]
    found = continuation_log_probs(model, batch, continuations)
    for row, e in enumerate(batch):
        for column, tokens in enumerate(continuations):
            want = oracle(model, e.ids, tokens).sum()
            torch.testing.assert_close(found[row, column], want, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_replies_of_different_lengths_are_read_as_each_would_be_alone(tiny, architecture):
    model = tiny(architecture)
    batch, replies = encode(model, TEXTS), [(1, 2, 3), (), (9,) * 30, (4,)]
    found = reply_log_probs(model, batch, replies)
    for e, reply, values in zip(batch, replies, found, strict=True):
        assert len(values) == len(reply)
        if reply:
            torch.testing.assert_close(values, oracle(model, e.ids, reply), atol=1e-4, rtol=1e-4)


def test_a_score_is_computed_once_for_each_row_and_state_and_setting(home, tiny):
    model, seen = tiny("llama"), []

    def compute(batch):
        seen.extend(e.key for e in batch)
        return [{"length": float(len(e.ids))} for e in batch]

    encoded = encode(model, [*TEXTS, TEXTS[0]])
    for _ in range(2):
        found = kept_scores(model, encoded, {"score": "length"}, compute, batch_size=2, progress=False)
        assert [row["length"] for row in found] == [len(e.ids) for e in encoded]
    assert len(seen) == len(set(seen)) == 4
    kept_scores(model, encoded, {"score": "another"}, compute, progress=False)
    with changed(model, "an edit"):
        kept_scores(model, encoded, {"score": "length"}, compute, progress=False)
    kept_scores(model, encoded, {"score": "length"}, compute, on="something else", progress=False)
    assert len(seen) == 16
    assert open_store(describe(model)).summary()["completions"] == 16


def test_a_stopped_run_keeps_the_batches_that_were_done(home, tiny):
    model, sizes = tiny("llama"), []

    def breaks(batch):
        sizes.append(len(batch))
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return [{"x": 1.0} for _ in batch]

    with pytest.raises(KeyboardInterrupt):
        kept_scores(model, encode(model, TEXTS), {"score": "x"}, breaks, batch_size=3, progress=False)
    kept_scores(model, encode(model, TEXTS), {"score": "x"}, breaks, batch_size=3, progress=False)
    assert sizes == [3, 1, 1]


@pytest.mark.parametrize("tokens", ["all", "last_prompt", "last_prompt_then_generated", "generated"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_steered_continuations_are_worth_the_same_step_by_step_and_in_one_pass(tiny, prompts, architecture, tokens):
    """Cached steps, branches and one pass agree on which tokens are generated, and differ from the model itself."""
    model = tiny(architecture)
    batch, continuations = encode(model, TEXTS), [(5, 7, 9), (5, 8), (6, 7)]
    pushed = add(made_up_direction(model), 9.0, tokens=tokens)
    plain = continuation_log_probs(model, batch, continuations)
    with steer(model, pushed):
        found = continuation_log_probs(model, batch, continuations)
        for column, reply in enumerate(continuations):
            want = torch.stack([v.sum() for v in reply_log_probs(model, batch, [reply] * len(batch))])
            torch.testing.assert_close(found[:, column], want, atol=1e-3, rtol=1e-3)
    assert ((found - plain).abs() > 0.05).any()


def test_what_acts_on_generated_tokens_only_leaves_the_first_token_alone_and_is_not_an_error(tiny):
    model, batch = tiny("llama"), encode(tiny("llama"), TEXTS)
    plain = next_log_probs(model, batch)
    with steer(model, add(made_up_direction(model), 9.0, tokens="generated")):
        torch.testing.assert_close(next_log_probs(model, batch), plain)
        assert continuation_log_probs(model, batch, [(5,)]).shape == (4, 1)


def test_the_steered_next_token_is_the_first_that_the_steered_model_says(home, tiny, prompts):
    model, few = tiny("qwen2"), prompts[:6].reset_index(drop=True)
    with steer(model, add(made_up_direction(model), 9.0)):
        done = complete(model, few, max_new_tokens=1, progress=False)
        first = next_log_probs(model, encode(model, few["text"].tolist())).argmax(-1)
    said = model.tokenizer.batch_decode(first[:, None], skip_special_tokens=True)
    assert said == done["completion"].tolist()


def made_up_direction(model, layer=2):
    """A random direction of a model, as if it had been fitted."""
    vector = np.random.default_rng(0).standard_normal(describe(model).d_model).astype(np.float32)
    about = {"method": "random", "languages": ("en",), "n": (2, 2), "quantiles": (1.0, -1.0)}
    return Direction(vector / np.linalg.norm(vector), 1.0, layer, "last_prompt", describe(model), **about)
