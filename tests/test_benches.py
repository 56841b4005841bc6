"""A bench says what `complete` says, token by token, and reads what the model goes on with."""

import itertools
import threading

import numpy as np
import pytest
import torch

from workbench import benches
from workbench.activations import cache_activations
from workbench.benches import Bench, _Texts
from workbench.completions import complete
from workbench.directions import fit_direction
from workbench.encoding import encode
from workbench.errors import FitError, PromptError, WorkbenchError
from workbench.interventions import ablate, add
from workbench.model import SITES, state
from workbench.scopes import InterventionError

NEW = 10
ARCHITECTURES = ("llama", "gemma2", "gpt2")


@pytest.fixture
def made(home, tiny, prompts):
    """architecture -> a bench on a direction at layer 1, with an addition and an ablation."""

    def make(architecture="llama", max_new_tokens=NEW):
        model = tiny(architecture)
        acts = cache_activations(model, prompts, layers=[1], positions=["last_prompt"], progress=False)
        harm = fit_direction(acts.sel(layer=1, position="last_prompt", split="train"))
        changes = {
            "add": lambda strength: add(harm, strength),
            "ablate": lambda strength: ablate(harm),
            "later": lambda strength: add(harm, strength, tokens="generated"),
        }
        return Bench(model, changes, harm, max_new_tokens)

    return make


def last(replies):
    return list(replies)[-1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_plain_and_the_steered_reply_are_those_of_complete(made, prompts, architecture):
    from workbench.steering import steer

    bench, some = made(architecture), prompts[::9]
    for name, strength in (("", 1.0), ("add", 30.0), ("ablate", 1.0)):
        got = [last(bench(text, name, strength)) for text in some["text"]]
        if name:
            with steer(bench.model, bench.interventions[name](strength)):
                want = complete(bench.model, some, max_new_tokens=NEW, progress=False)
        else:
            want = complete(bench.model, some, max_new_tokens=NEW, progress=False)
        assert [r.completion for r in got] == list(want["completion"])
        assert [r.finish for r in got] == list(want["finish"])
        assert [r.n_new_tokens for r in got] == list(want["n_new_tokens"])
        sizes = [r.trace.get("added_norm", np.nan) for r in got]
        np.testing.assert_allclose(sizes, want["added_norm"].astype(float), rtol=1e-4)


def test_every_reply_goes_on_from_the_one_before_and_only_the_last_is_finished(made, prompts):
    replies = list(made()(prompts["text"][0], "add", 5.0))
    assert [r.n_new_tokens for r in replies] == [*range(1, len(replies)), replies[-1].n_new_tokens]
    assert all(r.finish == "" and not r.trace for r in replies[:-1]) and replies[-1].finish in ("end", "length")
    for before, after in itertools.pairwise(replies):
        shared = len(before.tokens) - 1
        assert [t.text for t in after.tokens[:shared]] == [t.text for t in before.tokens[:shared]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_projections_are_those_of_one_pass_over_prompt_and_reply(made, prompts, architecture):
    bench = made(architecture)
    reply = last(bench(prompts["text"][0]))
    model = bench.model
    (encoded,) = encode(model, [prompts["text"][0]])
    ids = list(encoded.ids)
    seen = {}

    def take(value, hook):
        seen["v"] = value[0].float().numpy()

    with torch.inference_mode(), model.hooks(fwd_hooks=[(SITES["resid"].format(layer=1), take)]):
        for _ in range(reply.n_new_tokens):
            logits = model.original_model(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.argmax()))
    read = [t.projection for t in reply.tokens if np.isfinite(t.projection)]
    np.testing.assert_allclose(read, seen["v"][: len(read)] @ bench.direction.vector, atol=2e-3)
    cut = reply.finish == "length"
    assert len(read) == len(reply.tokens) - cut


def test_an_ablated_stream_projects_to_nothing_and_an_addition_shifts_it_from_the_last_prompt_token_on(made, prompts):
    bench, text = made(), prompts["text"][0]
    plain = last(bench(text)).tokens
    ablated = [t.projection for t in last(bench(text, "ablate")).tokens]
    assert np.nanmax(np.abs(ablated)) < 1e-3 < np.nanmax(np.abs([t.projection for t in plain]))
    added = last(bench(text, "add", 7.0)).tokens
    n = sum(t.part != "reply" for t in plain)
    shift = [a.projection - p.projection for a, p in zip(added[:n], plain[:n], strict=True)]
    np.testing.assert_allclose(shift, [0.0] * (n - 1) + [7.0], atol=2e-3)


def test_tokens_say_which_are_the_users_in_every_script(made, prompts):
    bench = made("llama", 1)
    for text in prompts.drop_duplicates("language")["text"]:
        tokens = next(iter(bench(text))).tokens
        assert "".join(t.text for t in tokens if t.part == "prompt").strip() == text
        around = "".join(t.text for t in tokens if t.part == "template")
        assert around.startswith("<s>") and around.rstrip().endswith("[assistant]")


@pytest.mark.parametrize("text", ["ប្រទេស កម្ពុជា", "မြန်မာ", "😀 a\u0301 ශ්‍රී", "مرحبا", "plain"])
def test_a_token_inside_a_character_adds_nothing_and_the_whole_is_the_text(text):
    from conftest import byte_tokenizer

    tokenizer = byte_tokenizer()
    texts, ids = _Texts(tokenizer), tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [texts.add(i) for i in ids]
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)
    assert len([p for p in pieces if p]) == len(text)


def test_closing_an_unfinished_reply_takes_everything_off(made, prompts):
    bench, text = made(), prompts["text"][0]
    plain = last(bench(text)).completion
    replies = bench(text, "add", 50.0)
    next(replies)
    replies.close()
    assert state(bench.model) == "" and last(bench(text)).completion == plain


def test_a_reply_that_is_growing_in_one_thread_leaves_the_others_alone(made, prompts):
    bench, some = made(), prompts[:2]
    plain = complete(bench.model, some, max_new_tokens=4, progress=False)["completion"]
    replies = bench(prompts["text"][0], "add", 50.0)
    growing, go_on, out = threading.Event(), threading.Event(), []

    def grow():
        next(replies)
        growing.set()
        go_on.wait(60)
        out.append(last(replies))

    thread = threading.Thread(target=grow)
    thread.start()
    assert growing.wait(60)
    assert state(bench.model) == ""
    other = prompts[2:4]
    meanwhile = complete(bench.model, other, max_new_tokens=4, progress=False)["completion"]
    texts = [last(Bench(bench.model, {}, bench.direction, 4)(text)).completion for text in some["text"]]
    go_on.set()
    thread.join(60)
    assert texts == list(plain)
    assert list(meanwhile) == [last(Bench(bench.model, {}, bench.direction, 4)(t)).completion for t in other["text"]]
    assert out[0].completion == last(bench(prompts["text"][0], "add", 50.0)).completion


def test_what_touched_nothing_says_so_unless_the_reply_ended_before_it_could(made, prompts, monkeypatch):
    """As `complete`: one token is chosen and never run."""
    bench, text = made("llama", 1), prompts["text"][0]
    with pytest.raises(InterventionError, match="touched no token"):
        list(bench(text, "later", 3.0))
    first = last(bench(text))
    monkeypatch.setattr(benches, "_end_ids", lambda model: set(range(300)))
    ended = last(bench(text, "later", 3.0))
    assert (first.n_new_tokens, ended.n_new_tokens, ended.finish) == (1, 0, "end")


def test_typical_projections_are_the_quartiles_of_the_direction_harmless_first(made):
    bench = made()
    assert bench.typical == (bench.direction.quantiles[1], bench.direction.quantiles[0])


def test_users_mistakes_are_explained(made, tiny, prompts):
    bench = made()
    with pytest.raises(WorkbenchError, match="Did you mean add"):
        bench("hello", "ad")
    with pytest.raises(PromptError, match="must have text"):
        bench(" ")
    with pytest.raises(WorkbenchError, match="must have a name"):
        Bench(bench.model, {"": lambda s: add(bench.direction, s)}, bench.direction)
    with pytest.raises(WorkbenchError, match="max_new_tokens"):
        Bench(bench.model, {}, bench.direction, 0)
    with pytest.raises(FitError, match="fitted on"):
        Bench(tiny("gpt2"), {}, bench.direction)
    with pytest.raises((InterventionError, FitError)):
        list(Bench(bench.model, {"far": lambda s: add(bench.direction, s, layers=99)}, bench.direction)("hello", "far"))
