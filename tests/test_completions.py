"""Greedy text is the same alone and in a batch, and equals Hugging Face's own generation."""

import contextlib

import pandas as pd
import pytest
import torch
from conftest import ARCHITECTURES

from workbench import completions
from workbench.activations import cache_activations
from workbench.completions import complete, complete_grid
from workbench.directions import fit_direction
from workbench.encoding import encode
from workbench.errors import PromptError
from workbench.interventions import ablate, add
from workbench.model import changed, describe
from workbench.scopes import InterventionError
from workbench.steering import steer
from workbench.store import open_store

NEW = 12


def hugging_face(model, text, ends=()):
    """New token ids by Hugging Face `generate`, one prompt at a time, no padding; without the end of turn."""
    (e,) = encode(model, [text])
    ends = sorted(ends or completions._end_ids(model))
    with torch.inference_mode():
        out = model.original_model.generate(
            input_ids=torch.tensor([e.ids]), attention_mask=torch.ones((1, len(e.ids)), dtype=torch.long),
            max_new_tokens=NEW, do_sample=False, eos_token_id=ends, pad_token_id=258,
        )  # fmt: skip
    return [t for t in out[0, len(e.ids) :].tolist() if t not in ends]


def decoded(model, tokens):
    return [(model.tokenizer.decode(new, skip_special_tokens=True), len(new)) for new in tokens]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_text_in_a_batch_equals_hugging_face_one_by_one(home, tiny, prompts, architecture):
    model = tiny(architecture)
    done = complete(model, prompts, max_new_tokens=NEW, batch_size=5, progress=False)
    want = decoded(model, [hugging_face(model, text) for text in prompts["text"]])
    assert list(zip(done["completion"], done["n_new_tokens"], strict=True)) == want
    assert set(done["finish"]) <= {"end", "length"}


def test_rows_that_end_leave_the_batch_and_change_nothing_for_the_others(home, tiny, prompts, monkeypatch):
    """Make a frequent token an end of turn, so that rows end at different steps."""
    model = tiny("qwen2")
    free = [hugging_face(model, text) for text in prompts["text"]]
    stop = max({t for ids in free for t in ids[3:]}, key=lambda t: sum(t in ids for ids in free))
    monkeypatch.setattr(completions, "_end_ids", lambda m: {stop})
    ended = complete(model, prompts, max_new_tokens=NEW, progress=False)
    assert set(ended["finish"]) == {"end", "length"} and ended["n_new_tokens"].nunique() > 2
    want = decoded(model, [hugging_face(model, text, ends={stop}) for text in prompts["text"]])
    assert list(zip(ended["completion"], ended["n_new_tokens"], strict=True)) == want


def test_a_stopped_run_goes_on_where_it_was_and_a_finished_one_computes_nothing(home, tiny, prompts, monkeypatch):
    model, real, calls = tiny("llama"), completions._greedy, []

    def breaks(model, batch, n, grid):
        calls.append(len(batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(model, batch, n, grid)

    monkeypatch.setattr(completions, "_greedy", breaks)
    with pytest.raises(KeyboardInterrupt):
        complete(model, prompts, max_new_tokens=NEW, batch_size=8, progress=False)
    done = complete(model, prompts, max_new_tokens=NEW, batch_size=8, progress=False)
    assert calls == [8, 8, 8, 8, 8]
    complete(model, prompts, max_new_tokens=NEW, batch_size=8, progress=False)
    assert len(calls) == 5
    monkeypatch.setattr(completions, "_greedy", real)
    fresh = complete(
        model, prompts, max_new_tokens=NEW, store=open_store(describe(model), home / "fresh"), progress=False
    )
    assert list(done["completion"]) == list(fresh["completion"])


def test_a_completion_made_while_something_is_on_never_answers_for_the_model_itself(home, tiny, prompts):
    model = tiny("llama")
    with changed(model, "an edit"):
        steered = complete(model, prompts[:2], max_new_tokens=2, progress=False)
    plain = complete(model, prompts[:2], max_new_tokens=2, progress=False)
    assert set(steered["intervention"]) == {"an edit"} and set(plain["intervention"]) == {""}
    assert open_store(describe(model)).summary()["completions"] == 4


def test_the_table_has_the_keys_and_the_contracts_columns(home, tiny, prompts):
    done = complete(tiny("llama"), prompts[:2], max_new_tokens=2, progress=False)
    for column in (
        "prompt_id",
        "parallel_id",
        "pair_id",
        "tier",
        "split",
        "text",
        "model",
        "intervention",
        "completion",
        "n_new_tokens",
        "finish",
        "logit",
        "threshold",
        "fired",
        "added_norm",
    ):
        assert column in done
    assert list(done["prompt_id"]) == list(prompts["prompt_id"][:2])


def test_no_prompts_is_an_error_in_words(home, tiny, prompts):
    with pytest.raises(PromptError, match="empty"):
        complete(tiny("llama"), prompts[:0])


# --- a grid of interventions as rows of one batch --------------------------------------------------------------------


@pytest.fixture
def direction(tiny, prompts, tmp_path):
    """architecture -> a direction of its tiny model at layer 2."""

    def fit(architecture):
        model = tiny(architecture)
        store = open_store(describe(model), tmp_path / f"fit-{architecture}")
        rows = prompts.assign(split="train")
        acts = cache_activations(model, rows, layers=(2,), positions=("last_prompt",), store=store, progress=False)
        return fit_direction(acts)

    return fit


def grids(d):
    v, early = add(d, 8.0), add(d, 8.0, tokens="all", layers=(1, 3))
    return {
        "strengths": [None, 0 * v, v, 2 * v, -1 * v],
        "scopes": [add(d, 8.0, tokens="generated"), add(d, 8.0, tokens="last_prompt"), v],
        "whole prompts": [None, early, ablate(d), early + ablate(d)],
    }


@pytest.mark.parametrize("grid", ["strengths", "scopes", "whole prompts"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2"])
def test_a_grid_equals_its_interventions_one_by_one(home, tiny, prompts, direction, architecture, grid):
    model, few = tiny(architecture), prompts[::3].reset_index(drop=True)
    interventions = grids(direction(architecture))[grid]
    done = complete_grid(model, few, interventions, max_new_tokens=NEW, batch_size=20, progress=False)
    assert len(done) == len(few) * len(interventions)
    for place, intervention in enumerate(interventions):
        mine = done.iloc[place * len(few) : (place + 1) * len(few)].reset_index(drop=True)
        store = open_store(describe(model), home / f"alone-{place}")
        with contextlib.nullcontext() if intervention is None else steer(model, intervention):
            alone = complete(model, few, max_new_tokens=NEW, batch_size=5, store=store, progress=False)
        numbers = ["logit", "threshold", "added_norm"]
        pd.testing.assert_frame_equal(mine.drop(columns=numbers), alone.drop(columns=numbers))
        pd.testing.assert_frame_equal(mine[numbers], alone[numbers], rtol=1e-4)
    assert done.groupby("intervention")["completion"].agg(tuple).nunique() > 1


def passes(model, work):
    """(rows, columns) of every forward pass of the blocks during `work`."""
    seen = []
    watch = [("blocks.0.hook_out", lambda v, hook: seen.append(tuple(v.shape[:2])))]
    with model.hooks(fwd_hooks=watch):
        work()
    return seen


def test_a_grid_runs_prompts_once_and_only_where_nothing_touches_them(home, tiny, prompts, direction):
    model, few, d = tiny("llama"), prompts[:4], direction("llama")
    width = max(len(e.ids) for e in encode(model, list(few["text"])))

    def shapes(interventions):
        return passes(
            model, lambda: complete_grid(model, few, interventions, max_new_tokens=2, batch_size=32, progress=False)
        )

    v = add(d, 8.0)
    assert shapes([v, 2 * v, 3 * v])[:2] == [(4, width - 1), (12, 1)]
    assert shapes([4 * v, ablate(d)])[0] == (8, width)
    with steer(model, ablate(d, layers=1)):
        assert shapes([v, 2 * v])[:2] == [(4, width - 1), (8, 1)]


def test_a_grid_answers_for_steered_completions_and_they_for_it(home, tiny, prompts, direction):
    model, few, v = tiny("qwen2"), prompts[:6], add(direction("qwen2"), 8.0)
    complete_grid(model, few, [None, v, 2 * v], max_new_tokens=3, progress=False)

    def again():
        complete(model, few, max_new_tokens=3, progress=False)
        with steer(model, 2 * v):
            complete(model, few, max_new_tokens=3, progress=False)

    assert passes(model, again) == []
    ran = passes(model, lambda: complete_grid(model, few, [v, 3 * v], max_new_tokens=3, progress=False))
    assert ran and {rows for rows, _ in ran} <= set(range(1, 7)), "only what was lacking is run"


def test_a_grid_over_what_is_on_keeps_both(home, tiny, prompts, direction):
    model, few, d = tiny("llama"), prompts[::5].reset_index(drop=True), direction("llama")
    under, v = ablate(d, layers=1), add(d, 8.0)
    with steer(model, under):
        grid = complete_grid(model, few, [None, v], max_new_tokens=NEW, progress=False)
    with steer(model, under + v):
        both = complete(
            model, few, max_new_tokens=NEW, store=open_store(describe(model), home / "both"), progress=False
        )
    assert list(grid["intervention"].unique()) == [str(under), str(under + v)]
    assert list(grid["completion"][len(few) :]) == list(both["completion"])
    assert grid["added_norm"][len(few) :].between(0, 8).all()


def test_a_grid_whose_rows_end_at_different_steps_is_right(home, tiny, prompts, direction, monkeypatch):
    model, few, v = tiny("llama"), prompts[::3].reset_index(drop=True), add(direction("llama"), 8.0)
    free = [hugging_face(model, text) for text in few["text"]]
    stop = max({t for ids in free for t in ids[3:]}, key=lambda t: sum(t in ids for ids in free))
    monkeypatch.setattr(completions, "_end_ids", lambda m: {stop})
    grid = complete_grid(model, few, [None, v, 2 * v], max_new_tokens=NEW, progress=False)
    assert grid["n_new_tokens"].nunique() > 2
    want = decoded(model, [hugging_face(model, text, ends={stop}) for text in few["text"]])
    assert list(zip(grid["completion"], grid["n_new_tokens"], strict=True))[: len(few)] == want
    for k, strength in ((1, 1), (2, 2)):
        with steer(model, strength * v):
            store = open_store(describe(model), home / str(k))
            alone = complete(model, few, max_new_tokens=NEW, batch_size=1, store=store, progress=False)
        assert list(grid["completion"][k * len(few) : (k + 1) * len(few)]) == list(alone["completion"])


def test_a_grid_that_says_the_same_twice_or_nothing_is_an_error(home, tiny, prompts, direction):
    v = add(direction("llama"))
    for grid in ([], [v, 1 * v], [None, None]):
        with pytest.raises(InterventionError, match="each once"):
            complete_grid(tiny("llama"), prompts, grid)


def test_a_grid_with_a_member_that_touches_nothing_raises(home, tiny, prompts, direction):
    d = direction("llama")
    with pytest.raises(InterventionError, match="touched no token"):
        complete_grid(tiny("llama"), prompts, [add(d), add(d, tokens="generated")], max_new_tokens=1, progress=False)


def test_the_trace_columns_survive_parquet(home, tiny, prompts, direction, tmp_path):
    done = complete_grid(tiny("llama"), prompts[:3], [None, add(direction("llama"))], max_new_tokens=2, progress=False)
    done.to_parquet(tmp_path / "done.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "done.parquet"), done, check_dtype=False)
    assert done["fired"].isna().all() and done["added_norm"].notna().tolist() == [False] * 3 + [True] * 3


@pytest.mark.real
def test_the_default_model_says_the_same_alone_and_in_a_batch_in_float32(prompts, tmp_path):
    from workbench.model import load_model

    model = load_model("qwen2.5-coder-0.5b", device="cpu", dtype=torch.float32)
    few = prompts[::8].reset_index(drop=True)
    stores = {size: open_store(describe(model), tmp_path / str(size)) for size in (4, 1)}
    together, alone = (
        complete(model, few, max_new_tokens=8, batch_size=size, store=store, progress=False)
        for size, store in stores.items()
    )
    assert list(together["completion"]) == list(alone["completion"])
    assert together["completion"].str.len().gt(0).all()
