"""Vectors equal those of the prompt alone, whatever the batch, the budget, the prefix, the architecture."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES

from workbench import activations
from workbench.activations import Activations, cache_activations
from workbench.capture import Capture
from workbench.encoding import POSITIONS, encode
from workbench.errors import PromptError, StoreError, WorkbenchError
from workbench.model import changed, describe
from workbench.prompts import load_prompts
from workbench.store import find_stores, open_store


def reference(model, text):
    """Hugging Face's own hidden states of one prompt, batch of one: `[position, layer, d_model]`.

    The last block's output is taken by a plain torch hook: Hugging Face shows it after the final norm only.
    """
    (e,) = encode(model, [text])
    hf, last = model.original_model, {}
    blocks = hf.base_model.h if hasattr(hf.base_model, "h") else hf.base_model.layers
    handle = blocks[-1].register_forward_hook(lambda m, i, o: last.update(h=o[0] if isinstance(o, tuple) else o))
    try:
        with torch.inference_mode():
            states = hf.base_model(
                input_ids=torch.tensor([e.ids]), output_hidden_states=True, use_cache=False
            ).hidden_states
    finally:
        handle.remove()
    layers = torch.stack([*(h[0] for h in states[1:-1]), last["h"].reshape(states[0][0].shape)]).float()
    at = {
        "last_instruction": layers[:, e.last_instruction],
        "last_prompt": layers[:, -1],
        "prompt_mean": layers.mean(1),
    }
    return torch.stack([at[position] for position in POSITIONS]).numpy()


def relative(a, b):
    return np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize("budget", [1, 150, 4000])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_equal_hugging_face_hidden_states_of_the_prompt_alone(home, tiny, prompts, architecture, budget):
    model = tiny(architecture)
    acts = cache_activations(model, prompts, budget=budget, progress=False)
    want = np.stack([reference(model, text) for text in prompts["text"]])
    assert acts.values.shape == want.shape == (len(prompts), 3, 4, 32)
    assert relative(acts.values, want).max() < 1e-4
    (stamp,) = open_store(describe(model)).stamps()
    assert stamp["worst_relative_error"] < 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_in_bfloat16_equal_those_of_the_prompt_alone_within_rounding(home, tiny, prompts, architecture):
    model = tiny(architecture, dtype=torch.bfloat16)
    acts = cache_activations(model, prompts, progress=False)
    want = np.stack([reference(model, text) for text in prompts["text"]])
    assert np.median(relative(acts.values, want)) < 2e-2


def test_one_prompt_alone_has_no_shared_prefix_and_the_same_vectors(home, tiny, prompts):
    model = tiny("qwen2")
    alone = cache_activations(model, prompts[3:4], progress=False).values
    assert relative(alone[0], reference(model, prompts["text"][3])).max() < 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_some_layers_and_positions_are_those_of_all(home, tiny, prompts, architecture):
    model = tiny(architecture)
    few = cache_activations(model, prompts, layers=[1], positions=["last_prompt"], progress=False).values
    want = np.stack([reference(model, text) for text in prompts["text"]])
    assert relative(few[:, 0, 0], want[:, 1, 1]).max() < 1e-4


def test_nothing_after_the_last_wanted_layer_runs(home, tiny, prompts):
    model = tiny("llama")
    ran = []
    handle = model.original_model.base_model.layers[2].register_forward_pre_hook(lambda *a: ran.append(1))
    try:
        cache_activations(model, prompts[:1], layers=[0, 1], progress=False)
    finally:
        handle.remove()
    assert not ran


def test_the_lm_head_is_never_computed(home, tiny, prompts):
    model = tiny("llama")
    ran = []
    handle = model.original_model.get_output_embeddings().register_forward_pre_hook(lambda *a: ran.append(1))
    try:
        cache_activations(model, prompts, progress=False)
    finally:
        handle.remove()
    assert not ran


@pytest.mark.parametrize("site", ["attn", "mlp"])
def test_attention_and_mlp_output_add_up_to_the_step_of_the_residual_stream(home, tiny, prompts, site):
    model = tiny("llama")
    parts = {s: cache_activations(model, prompts[:4], site=s, progress=False).values for s in ("resid", "attn", "mlp")}
    step = parts["resid"][:, :, 1:] - parts["resid"][:, :, :-1]
    assert relative(parts["attn"][:, :, 1:] + parts["mlp"][:, :, 1:], step).max() < 1e-3
    assert parts[site].shape == parts["resid"].shape


def forward_rows(model, run):
    """How many prompts went through the model while `run` ran."""
    rows = []
    handle = model.original_model.base_model.register_forward_pre_hook(
        lambda m, a, k: rows.append(len(k["input_ids"])), with_kwargs=True
    )
    try:
        run()
    finally:
        handle.remove()
    return sum(rows)


def test_a_second_run_computes_nothing_and_an_edited_prompt_one_row(home, tiny, prompts, monkeypatch):
    monkeypatch.setattr(activations, "_STAMP_ROWS", 0)
    model = tiny("llama")
    cache_activations(model, prompts, progress=False)
    assert forward_rows(model, lambda: cache_activations(model, prompts, progress=False)) == 0
    edited = prompts.copy()
    edited.loc[2, "text"] += " now"
    assert forward_rows(model, lambda: cache_activations(model, edited, progress=False)) == 1


def _rows_of_shards(store):
    with store._database() as db:
        return [row for (row,) in db.execute("SELECT row FROM shard_rows")]


@pytest.mark.parametrize("way", ["killed", "together"])
def test_a_capture_killed_twenty_times_or_shared_by_two_processes_equals_the_uninterrupted_one(
    home, tiny, model_folder, tmp_path, way
):
    """Every row is right and kept once, and no row that was committed is computed again."""
    table = load_prompts(languages=["en", "zh", "ar", "th"]).head(300)
    program = Path(__file__).with_name("forked_capture.py")
    done = subprocess.run(
        [sys.executable, str(program), way, str(model_folder("llama"))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (store,) = find_stores()
    before = len(_rows_of_shards(store))
    if way == "killed":
        assert json.loads(done.stdout.splitlines()[-1]) < 20, "no kill fell into the capture"
        assert before == len(set(_rows_of_shards(store)))
    else:
        assert json.loads(done.stdout.splitlines()[-1]) == [0, 0], done.stderr[-2000:]
        assert before == len(set(_rows_of_shards(store))) == len(table)
    acts = cache_activations(tiny(), table, store=store, progress=False)
    rows = _rows_of_shards(store)
    assert len(rows) == len(set(rows)) == len(table) and not store.verify()
    whole = cache_activations(tiny(), table, store=open_store(describe(tiny()), tmp_path), progress=False)
    for position in acts.positions:
        here, there = (a.sel(layer=3, position=position).vectors for a in (acts, whole))
        assert relative(here, there).max() < 1e-4


def test_the_same_text_in_two_data_sets_is_one_row(home, tiny, prompts, monkeypatch):
    monkeypatch.setattr(activations, "_STAMP_ROWS", 0)
    model = tiny("llama")
    cache_activations(model, prompts, progress=False)
    other = prompts.assign(dataset="other", prompt_id=[f"p{i}" for i in range(len(prompts))])
    assert forward_rows(model, lambda: cache_activations(model, other, progress=False)) == 0
    assert open_store(describe(model)).summary()["rows"] == len(prompts)


def test_more_layers_compute_only_what_is_missing(home, tiny, prompts, monkeypatch):
    monkeypatch.setattr(activations, "_STAMP_ROWS", 0)
    model = tiny("llama")
    cache_activations(model, prompts[:5], layers=[0], progress=False)
    more = cache_activations(model, prompts[:8], layers=[0, 3], progress=False)
    want = np.stack([reference(model, text) for text in prompts["text"][:8]])
    assert relative(more.values, want[:, :, [0, 3]]).max() < 1e-4


def test_vectors_made_while_something_is_on_are_kept_apart(home, tiny, prompts):
    model = tiny("llama")
    cache_activations(model, prompts[:2], progress=False)
    with changed(model, "an edit"):
        assert forward_rows(model, lambda: cache_activations(model, prompts[:2], progress=False)) > 0


def test_running_out_of_memory_halves_the_budget_and_goes_on(home, tiny, prompts, monkeypatch):
    model, sizes = tiny("llama"), []
    forward = Capture.forward

    def small(self, batch, prefix):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, batch, prefix)

    monkeypatch.setattr(Capture, "forward", small)
    acts = cache_activations(model, prompts, budget=4000, progress=False)
    want = np.stack([reference(model, text) for text in prompts["text"]])
    assert relative(acts.values, want).max() < 1e-4
    assert max(sizes) > 3 and sizes.count(max(sizes)) == 1


def test_a_disk_without_room_is_noticed_before_the_run(home, tiny, prompts, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(StoreError, match="GiB free"):
        cache_activations(tiny("llama"), prompts, progress=False)


def test_wrong_vectors_are_noticed_by_the_stamp(home, tiny, prompts, monkeypatch):
    forward = Capture.forward

    def wrong(self, batch, prefix):
        out = forward(self, batch, prefix)
        return out if len(batch) == 1 else {key: value + 0.1 for key, value in out.items()}

    monkeypatch.setattr(Capture, "forward", wrong)
    with pytest.raises(StoreError, match="must equal those of the prompt alone"):
        cache_activations(tiny("llama"), prompts, budget=4000, progress=False)


def test_selection_is_lazy_and_reads_only_what_is_selected(home, tiny, prompts, monkeypatch):
    model = tiny("llama")
    acts = cache_activations(model, prompts, progress=False)
    from workbench.store import Store

    read, real = [], Store.read_vectors
    monkeypatch.setattr(
        Store,
        "read_vectors",
        lambda self, keys, column: read.append((len(keys), column.layer)) or real(self, keys, column),
    )
    some = acts.sel(layer=2, position="last_prompt", language="ar", label="harmful")
    assert not read
    assert some.vectors.shape == (4, 32)
    assert read == [(4, 2)]
    np.testing.assert_array_equal(some.values[:, 0, 0], acts.values[some_rows(acts, some), 1, 2])


def some_rows(acts, some):
    return [list(acts.rows["prompt_id"]).index(i) for i in some.rows["prompt_id"]]


def test_selections_that_leave_nothing_say_what_there_is(home, tiny, prompts):
    acts = cache_activations(tiny("llama"), prompts, progress=False)
    with pytest.raises(WorkbenchError, match="There are: en, zh, ar, th"):
        acts.sel(language="sw")
    with pytest.raises(WorkbenchError, match="0 to 3"):
        acts.sel(layer=4)
    with pytest.raises(WorkbenchError, match="language"):
        acts.sel(langauge="en")
    with pytest.raises(WorkbenchError, match=r"acts\.sel\(layer=0"):
        _ = acts.vectors


def test_impossible_requests_are_errors_in_words(home, tiny, prompts):
    model = tiny("llama")
    with pytest.raises(PromptError, match="empty"):
        cache_activations(model, prompts[:0], progress=False)
    with pytest.raises(WorkbenchError, match="0 to 3"):
        cache_activations(model, prompts, layers=[4], progress=False)
    with pytest.raises(WorkbenchError, match="last_prompt"):
        cache_activations(model, prompts, positions=["last"], progress=False)


def test_arrays_in_memory_behave_like_stored_ones(tiny, prompts):
    values = np.random.default_rng(0).standard_normal((len(prompts), 1, 2, 32)).astype(np.float32)
    acts = Activations.from_arrays(values, prompts, ["last_prompt"], [5, 7], describe(tiny("llama")))
    np.testing.assert_array_equal(acts.values, values)
    np.testing.assert_array_equal(acts.sel(layer=7, language="th").vectors, values[prompts.language == "th", 0, 1])
    with pytest.raises(WorkbenchError, match="must be"):
        Activations.from_arrays(values[:, :, :1], prompts, ["last_prompt"], [5, 7], describe(tiny("llama")))


@pytest.mark.real
def test_the_default_models_vectors_equal_hugging_face_hidden_states(home, default_model, prompts, monkeypatch):
    few = prompts[::4].reset_index(drop=True)
    acts = cache_activations(default_model, few, progress=False)
    want = np.stack([reference(default_model, text) for text in few["text"]])
    limit = 1e-4 if describe(default_model).dtype == "float32" else 2e-2
    assert np.median(relative(acts.values, want)) < limit
