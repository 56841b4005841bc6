"""Every intervention against a literal one: one prompt, no padding, no cache, decisions from a pass of their own."""

import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench import laws
from workbench.activations import cache_activations
from workbench.completions import _greedy, complete
from workbench.conditionals import conditional
from workbench.conditions import cast, condition_surface, fit_cast, similarity
from workbench.directions import fit_direction
from workbench.encoding import encode
from workbench.errors import FitError
from workbench.gates import fit_gate
from workbench.interventions import ablate, add, patch
from workbench.laws import AdaSteerVectors, Law, adasteer, adasteer_vectors, fit_laws
from workbench.model import describe, state
from workbench.parts import Intervention
from workbench.scopes import SCOPES, InterventionError
from workbench.scores import features
from workbench.steering import steer
from workbench.store import open_store
from workbench.subspaces import fit_subspace

ARCHITECTURES = ("llama", "qwen2", "gemma2")
LAYER, NEW = 2, 6
NAMES = ("add", "ablate", "patch", "conditional", "cast", "adasteer", "add then ablate", "everywhere")


class Fitted:
    """Directions, gates and vectors of a tiny model, fitted on a few prompts."""

    def __init__(self, model, prompts, store):
        self.model = model
        rows = prompts.assign(split="train")
        self.acts = cache_activations(model, rows, store=store, progress=False)
        here = self.acts.sel(layer=LAYER, position="last_prompt")
        self.direction, self.space = fit_direction(here), fit_subspace(here, rank=3)
        self.table = features(here, self.space)
        self.gate = fit_gate(self.table, space=self.space)
        # Half of the prompts on either side, whatever the random model sees in them.
        logits = np.sort(self.gate(self.table))
        middle = float(logits[len(logits) // 2 - 1 : len(logits) // 2 + 1].mean())
        self.gate = replace(self.gate, threshold=middle)
        self.strength = 4 * abs(self.direction.quantiles[0] - self.direction.quantiles[1]) + 4
        self.vectors = adasteer_vectors(self.acts)
        self.laws = (Law(1, 0.02, -40, low=-1.0, high=2.0), Law(2, -0.03, -50, 0.5, -2.0, 1.5))
        condition = fit_direction(self.acts.sel(layer=1, position="prompt_mean"))
        means = self.acts.sel(layer=1, position="prompt_mean").vectors
        cosines = np.sort(similarity(means, condition.vector))
        self.condition, self.cosine = condition, float(cosines[len(cosines) // 2 - 1 : len(cosines) // 2 + 1].mean())
        self.behaviours = [fit_direction(self.acts.sel(layer=n, position="last_prompt")) for n in (2, 3)]

    def intervention(self, name):
        d, strength = self.direction, self.strength
        return {
            "add": lambda: add(d, strength),
            "ablate": lambda: ablate(d),
            "patch": lambda: patch(self.source),
            "conditional": lambda: conditional(self.gate, self.space, d, 3.0),
            "cast": lambda: cast(self.condition, self.behaviours, self.cosine, strength=strength),
            "adasteer": lambda: adasteer(self.vectors, self.laws),
            "add then ablate": lambda: add(d, strength, tokens="all", layers=1) + ablate(self.space, layers=(1, 3)),
            "everywhere": lambda: add(d, strength, tokens="all", layers=range(4)),
        }[name]()

    @property
    def source(self):
        return self.acts.sel(prompt_id=self.acts.rows["prompt_id"][0], layer=(1, 2), position="last_prompt")

    def literal(self, name, e):
        """(layer, h [token, d_model], prompt length) -> h, decided by a plain pass of the prompt alone."""
        plain = hidden_states(self.model, e.ids)
        return {
            "add": self.adding,
            "ablate": self.ablating,
            "patch": self.patching,
            "conditional": self.gated,
            "cast": self.casting,
            "adasteer": self.adapting,
            "add then ablate": self.both,
            "everywhere": lambda plain: lambda layer, h, n: h + self.strength * self.v,
        }[name](plain)

    @property
    def v(self):
        return torch.tensor(self.direction.vector)

    def adding(self, plain, strength=None):
        def act(layer, h, n):
            if layer == LAYER:
                h[n - 1 :] += (strength or self.strength) * self.v
            return h

        return act

    def ablating(self, plain):
        return lambda layer, h, n: h - (h @ self.v)[:, None] * self.v if layer == LAYER else h

    def patching(self, plain):
        def act(layer, h, n):
            if layer in (1, 2):
                h[n - 1] = torch.tensor(self.source.sel(layer=layer).vectors[0])
            return h

        return act

    def gated(self, plain):
        harmful, harmless = self.direction.quantiles
        if self.gate.fires(self.space(plain[LAYER][-1].numpy())):
            return self.adding(plain, 3.0 * (harmful - harmless))
        return self.ablating(plain)

    def casting(self, plain):
        if not similarity(plain[1].mean(0).numpy()[None], self.condition.vector)[0] > self.cosine:
            return lambda layer, h, n: h
        at = {b.layer: torch.tensor(b.vector) for b in self.behaviours}
        return lambda layer, h, n: h + self.strength * at[layer] if layer in at else h

    def adapting(self, plain):
        amounts = []
        for law, means in zip(self.laws, (self.vectors.rejection_means, self.vectors.harmfulness_means), strict=True):
            harmful, harmless = means[0, law.layer], means[1, law.layer]
            apart = np.linalg.norm(harmless - harmful)
            d = (plain[law.layer][-1].numpy() - harmful) @ ((harmless - harmful) / apart) / apart * 100
            amounts.append(min(max(law.slope * (d + law.offset) + law.intercept, law.low), law.high))

        def act(layer, h, n):
            push = amounts[0] * self.vectors.rejection[layer] + amounts[1] * self.vectors.harmfulness[layer]
            h[n:] += torch.tensor(push)
            return h

        return act

    def both(self, plain):
        basis = torch.tensor(self.space.basis)

        def act(layer, h, n):
            h = h + self.strength * self.v if layer == 1 else h
            return h - h @ basis @ basis.T if layer in (1, 3) else h

        return act


def hooked(model, act):
    """Plain torch hooks on the blocks; `act` is given `[token, d_model]` of the only row."""

    def hook(layer):
        def change(module, inputs, output):
            h = output[0] if isinstance(output, tuple) else output
            h[0] = act(layer, h[0].clone())

        return change

    return [
        block.register_forward_hook(hook(layer)) for layer, block in enumerate(model.original_model.base_model.layers)
    ]


@torch.inference_mode()
def hidden_states(model, ids):
    seen = {}
    handles = hooked(model, lambda layer, h: seen.setdefault(layer, h))
    model.original_model.base_model(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


@torch.inference_mode()
def literal_text(model, e, act, ends, new=NEW):
    """Greedy text of one prompt, the whole sequence run again for every token."""
    ids = list(e.ids)
    handles = hooked(model, lambda layer, h: act(layer, h, len(e.ids)))
    try:
        for _ in range(new):
            token = int(model.original_model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in ends:
                break
            ids.append(token)
    finally:
        for handle in handles:
            handle.remove()
    return model.tokenizer.decode(ids[len(e.ids) :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def fitted(tiny, prompts, tmp_path_factory):
    made = {}

    def fit(architecture="llama"):
        if architecture not in made:
            model = tiny(architecture)
            store = open_store(describe(model), tmp_path_factory.mktemp(architecture))
            made[architecture] = Fitted(model, prompts, store)
        return made[architecture]

    return fit


@pytest.fixture
def few(prompts):
    return prompts[::3].reset_index(drop=True)


def logits(model, text="a b c"):
    (e,) = encode(model, [text])
    with torch.inference_mode():
        return model.original_model(input_ids=torch.tensor([e.ids])).logits


# --- each intervention against the literal one -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_text_of_a_batch_with_cache_equals_the_literal_intervention(home, fitted, few, architecture, name):
    """Padding, the cache, leaving rows and one-pass decisions against one prompt, no cache, two passes."""
    fit = fitted(architecture)
    model = fit.model
    with steer(model, fit.intervention(name)):
        done = complete(model, few, max_new_tokens=NEW, batch_size=8, progress=False)
    ends = {257}
    want = [literal_text(model, e, fit.literal(name, e), ends) for e in encode(model, list(few["text"]))]
    assert list(done["completion"]) == want
    plain = complete(model, few, max_new_tokens=NEW, progress=False)
    assert list(plain["completion"]) != want, "an intervention without effect proves nothing"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_text_without_cache_is_the_same(fitted, few, architecture, name):
    fit = fitted(architecture)
    batch = encode(fit.model, list(few["text"]))
    with steer(fit.model, fit.intervention(name)):
        cached, whole = (_greedy(fit.model, batch, NEW, cached=cached)[0] for cached in (True, False))
    assert {k: row["completion"] for k, row in cached.items()} == {k: row["completion"] for k, row in whole.items()}
    for key, row in cached.items():
        assert row["trace"].keys() == whole[key]["trace"].keys()
        assert row["trace"].get("fired") == whole[key]["trace"].get("fired")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cached_activations_equal_those_of_the_literal_intervention(home, fitted, few, architecture, name):
    """The shared prefix, right padding, and decisions that reach back to earlier tokens."""
    fit = fitted(architecture)
    if name == "adasteer":
        with pytest.raises(InterventionError, match="touched no token"), steer(fit.model, fit.intervention(name)):
            cache_activations(fit.model, few, progress=False)
        return
    with steer(fit.model, fit.intervention(name)):
        acts = cache_activations(fit.model, few, progress=False)
    assert acts.state == str(fit.intervention(name)) and state(fit.model) == ""
    for i, e in enumerate(encode(fit.model, list(few["text"]))):
        act, seen = fit.literal(name, e), {}

        def watch(layer, h, act=act, seen=seen, e=e):
            return seen.setdefault(layer, act(layer, h, len(e.ids)))

        handles = hooked(fit.model, watch)
        with torch.inference_mode():
            fit.model.original_model.base_model(input_ids=torch.tensor([e.ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        for layer, h in seen.items():
            h = h.numpy()
            want = np.stack([h[e.last_instruction], h[-1], h.mean(0)])
            np.testing.assert_allclose(acts.values[i, :, layer], want, rtol=2e-4, atol=2e-4)


# --- the one thing that changes activations --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_bit_identical_afterwards(home, fitted, few, name):
    fit = fitted("qwen2")
    before = logits(fit.model)
    with steer(fit.model, fit.intervention(name)):
        complete(fit.model, few[:3], max_new_tokens=3, progress=False)
    assert torch.equal(logits(fit.model), before)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_bit_identical_after_an_exception(fitted, name):
    fit = fitted("llama")
    before = logits(fit.model)
    with pytest.raises(KeyboardInterrupt), steer(fit.model, fit.intervention(name)):
        logits(fit.model)
        raise KeyboardInterrupt
    assert torch.equal(logits(fit.model), before) and state(fit.model) == ""


def test_a_batch_that_breaks_leaves_the_next_one_right(home, fitted, few, monkeypatch):
    from workbench import completions

    fit, real = fitted("llama"), completions._logits

    def broken(hf, hidden):
        raise MemoryError

    with steer(fit.model, fit.intervention("conditional")):
        monkeypatch.setattr(completions, "_logits", broken)
        with pytest.raises(MemoryError):
            complete(fit.model, few, max_new_tokens=NEW, progress=False)
        monkeypatch.setattr(completions, "_logits", real)
        done = complete(fit.model, few, max_new_tokens=NEW, progress=False)
    e = encode(fit.model, [few["text"][0]])[0]
    assert done["completion"][0] == literal_text(fit.model, e, fit.literal("conditional", e), {257})


def test_another_thread_is_not_steered(fitted):
    fit, seen = fitted("llama"), []
    before = logits(fit.model)
    with steer(fit.model, fit.intervention("everywhere")):
        assert not torch.equal(logits(fit.model), before)
        other = threading.Thread(target=lambda: seen.append(logits(fit.model)))
        other.start()
        other.join()
    assert torch.equal(seen[0], before)


def test_steers_nest_and_equal_the_sum(home, fitted, few):
    fit = fitted("llama")
    a, b = add(fit.direction, fit.strength, tokens="all", layers=1), ablate(fit.space, layers=(1, 3))
    with steer(fit.model, a), steer(fit.model, b):
        assert state(fit.model) == str(a + b)
        nested = _greedy(fit.model, encode(fit.model, list(few["text"])), NEW)[0]
    with steer(fit.model, a + b):
        summed = _greedy(fit.model, encode(fit.model, list(few["text"])), NEW)[0]
    assert {k: r["completion"] for k, r in nested.items()} == {k: r["completion"] for k, r in summed.items()}
    assert all(nested[k]["trace"]["added_norm"] == pytest.approx(summed[k]["trace"]["added_norm"]) for k in nested)


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_v_minus_v_does_nothing_to_the_last_bit(fitted):
    fit = fitted("gemma2")
    v = add(fit.direction, 3.0, tokens="all", layers=range(4))
    before = logits(fit.model)
    with steer(fit.model, v - v) as trace:
        assert torch.equal(logits(fit.model), before)
    assert trace.table["added_norm"].eq(0).all() and trace.table["positions"].map(len).gt(0).all()


def test_multiples_and_sums_are_strengths(fitted):
    d = fitted().direction
    v = add(d)
    assert 20 * v == v * 20 == add(d, 20.0) == -(v * -20) == np.float64(20) * v
    assert v + v == 2 * v and hash(v + v) == hash(2 * v)
    assert v != 2 * v and v != add(d, tokens="all") and v != add(d, layers=1) and v != ablate(d)


def test_a_sum_of_two_directions_adds_both(fitted):
    fit = fitted()
    other = fit.behaviours[1]
    both = 2 * add(fit.direction, tokens="all") - 3 * add(other, layers=LAYER, tokens="all")
    assert len(both.parts) == 1
    np.testing.assert_allclose(both.parts[0].vector, 2 * fit.direction.vector - 3 * other.vector, rtol=1e-6)


def test_addition_after_ablation_is_not_merged_across_it(fitted):
    fit = fitted()
    v = add(fit.direction)
    assert len((v + ablate(fit.direction) + v).parts) == 3


@pytest.mark.parametrize("name", ["conditional", "cast", "adasteer"])
def test_what_has_a_strength_can_be_multiplied(fitted, name):
    (part,) = fitted().intervention(name).parts
    (doubled,) = (2 * Intervention((part,))).parts
    assert doubled.strength == 2 * part.strength and type(doubled) is type(part)


@pytest.mark.parametrize("name", ["ablate", "patch"])
def test_what_has_no_strength_cannot(fitted, name):
    with pytest.raises(InterventionError, match="has none"):
        2 * fitted().intervention(name)


def test_ablation_leaves_no_projection_and_twice_is_once(fitted):
    fit = fitted()
    for what in (fit.direction, fit.space):
        basis = what.vector[:, None] if what is fit.direction else what.basis
        seen = []
        for times in (1, 2):
            watch = [("blocks.2.hook_out", lambda v, hook, seen=seen: seen.append(v))]
            with steer(fit.model, Intervention(ablate(what).parts * times)), fit.model.hooks(fwd_hooks=watch):
                logits(fit.model)
        assert np.abs(seen[0][0].numpy() @ basis).max() < 1e-5
        torch.testing.assert_close(seen[0], seen[1])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_read_back_and_is_the_same_value(fitted, tmp_path, name):
    value = fitted("llama").intervention(name)
    value.save(tmp_path / "it.safetensors")
    again = Intervention.load(tmp_path / "it.safetensors")
    assert again == value and str(again) == str(value)


def test_the_text_of_a_value_changes_with_every_number_it_is_made_of(fitted):
    """Else a store would answer one intervention with another."""
    fit = fitted()
    turned = replace(fit.direction, vector=np.roll(fit.direction.vector, 1))
    raised = replace(fit.gate, threshold=fit.gate.threshold + 1e-9)
    texts = [
        str(fit.intervention("conditional")),
        str(conditional(fit.gate, fit.space, turned, 3.0)),
        str(conditional(raised, fit.space, fit.direction, 3.0)),
        str(conditional(replace(fit.gate, comparator=">="), fit.space, fit.direction, 3.0)),
        str(conditional(fit.gate, fit.space, fit.direction, 3.0 + 1e-9)),
    ]
    assert len(set(texts)) == len(texts)
    assert all(len(text) < 200 and text.isprintable() for text in texts)


# --- scopes: every position touched, in the prefill and in cached steps ----------------------------------------------


def expected(scope, length, steps):
    """Positions of a row, prompt first, that a scope touches in the prefill and in each cached step."""
    prefill = {"all": set(range(length)), "generated": set()}.get(scope, {length - 1})
    later = set() if scope == "last_prompt" else {length + step for step in range(steps)}
    return prefill, later


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_scope_touches_its_positions_and_no_other(fitted, few, architecture, scope, monkeypatch):
    """What a plain hook sees before and after: padding and other layers stay as they are."""
    from workbench import completions

    fit = fitted(architecture)
    monkeypatch.setattr(completions, "_end_ids", lambda model: set())
    batch = encode(fit.model, list(few["text"]))
    before, after, wanted = [], [], add(fit.direction, fit.strength, tokens=scope)
    watch = "blocks.2.hook_out"
    with (
        fit.model.hooks(fwd_hooks=[(watch, lambda v, hook: before.append(v.clone()))]),
        steer(fit.model, wanted) as trace,
        fit.model.hooks(fwd_hooks=[(watch, lambda v, hook: after.append(v.clone()))]),
    ):
        done = _greedy(fit.model, batch, NEW)[0]
    assert len(before) == len(after) == NEW
    width = max(len(e.ids) for e in batch)
    moved = torch.cat([(a != b).any(-1) for a, b in zip(after, before, strict=True)], 1)
    table = trace.table.set_index("key")
    for row, e in enumerate(batch):
        pad = width - len(e.ids)
        prefill, later = expected(scope, len(e.ids), NEW - 1)
        assert {int(c) - pad for c in moved[row, :width].nonzero()} == prefill
        assert {int(c) - pad for c in moved[row, width:].nonzero() + width} == later
        assert set(table.loc[e.key, "positions"]) == prefill | later
        assert table.loc[e.key, "layers"] == (LAYER,)
        assert table.loc[e.key, "added_norm"] == pytest.approx(fit.strength, rel=1e-5)
        assert done[e.key]["trace"]["added_norm"] == pytest.approx(fit.strength, rel=1e-5)


def test_rows_that_have_left_are_not_touched_any_more(fitted, few, monkeypatch):
    from workbench import completions

    fit = fitted("qwen2")
    batch = encode(fit.model, list(few["text"]))
    value = add(fit.direction, fit.strength)
    monkeypatch.setattr(completions, "_end_ids", lambda model: set())
    with steer(fit.model, value):
        free = _greedy(fit.model, batch, NEW)[0]
    first = {token for row in free.values() for token in fit.model.tokenizer(row["completion"])["input_ids"][1:3]}
    monkeypatch.setattr(completions, "_end_ids", lambda model: first)
    with steer(fit.model, value) as trace:
        done = _greedy(fit.model, batch, NEW)[0]
    assert len({row["n_new_tokens"] for row in done.values()}) > 1
    for e in batch:
        (positions,) = trace.table.set_index("key").loc[[e.key], "positions"]
        # The token that ended the row was never run; nor was the last one of a row that reached the length.
        run = done[e.key]["n_new_tokens"] - (done[e.key]["finish"] == "length")
        assert positions == tuple(range(len(e.ids) - 1, len(e.ids) + run))


def test_a_plain_call_is_a_prompt_and_its_padding_is_left_alone(fitted):
    fit = fitted("llama")
    ids, seen = torch.randint(0, 200, (2, 9)), []
    mask = torch.ones_like(ids)
    mask[0, :4], mask[1, 7:] = 0, 0
    for tokens, want in (("all", [{4, 5, 6, 7, 8}, set(range(7))]), ("last_prompt", [{8}, {6}])):
        plain, seen = [], []
        with fit.model.hooks(fwd_hooks=[("blocks.2.hook_out", lambda v, hook, plain=plain: plain.append(v.clone()))]):
            with steer(fit.model, add(fit.direction, 9.0, tokens=tokens)) as trace:
                watch = [("blocks.2.hook_out", lambda v, hook, seen=seen: seen.append(v.clone()))]
                with torch.inference_mode(), fit.model.hooks(fwd_hooks=watch):
                    fit.model(ids, attention_mask=mask)
        moved = (seen[0] != plain[0]).any(-1)
        assert [set(row.nonzero().flatten().tolist()) for row in moved] == want
        assert [set(p) for p in trace.table["positions"]] == [{0, 1, 2, 3, 4}, set(range(7))] or tokens != "all"


@pytest.mark.parametrize("name", ["add", "conditional", "cast", "adasteer", "ablate"])
def test_hugging_face_generate_is_steered_the_same_way(fitted, few, name):
    fit = fitted("llama")
    (e,) = encode(fit.model, [few["text"][1]])
    with steer(fit.model, fit.intervention(name)), torch.inference_mode():
        out = fit.model.original_model.generate(
            input_ids=torch.tensor([e.ids]), attention_mask=torch.ones((1, len(e.ids)), dtype=torch.long),
            max_new_tokens=NEW, do_sample=False, eos_token_id=[257], pad_token_id=258,
        )  # fmt: skip
    text = fit.model.tokenizer.decode(out[0, len(e.ids) :], skip_special_tokens=True)
    assert text == literal_text(fit.model, e, fit.literal(name, e), {257})


def test_gradients_flow_through_steering(fitted):
    fit = fitted("llama")
    ids = torch.randint(0, 200, (2, 5))
    with steer(fit.model, fit.intervention("add") + fit.intervention("ablate")):
        with torch.inference_mode():
            fit.model.original_model(input_ids=ids)
        fit.model.original_model(input_ids=ids).logits.sum().backward()
    assert fit.model.original_model.get_input_embeddings().weight.grad.abs().sum() > 0
    fit.model.original_model.zero_grad(set_to_none=True)


# --- traces, and steering that does nothing --------------------------------------------------------------------------


@pytest.mark.parametrize("comparator", [">", ">="])
def test_the_gate_in_one_pass_says_what_it_says_of_cached_features(home, fitted, prompts, comparator):
    fit = fitted("llama")
    gate = replace(fit.gate, comparator=comparator)
    with steer(fit.model, conditional(gate, fit.space, fit.direction)) as trace:
        done = complete(fit.model, prompts, max_new_tokens=2, progress=False)
    np.testing.assert_allclose(done["logit"], gate(fit.table), atol=1e-3)
    assert list(done["fired"]) == list(gate.fires(fit.table)) and done["fired"].nunique() == 2
    assert done["threshold"].eq(gate.threshold).all()
    harmful, harmless = fit.direction.quantiles
    assert np.allclose(done.loc[done["fired"], "added_norm"], harmful - harmless, rtol=1e-5)
    touched = trace.table.set_index("key")["positions"].map(len)
    n = {e.key: len(e.ids) for e in encode(fit.model, list(prompts["text"]))}
    fired = trace.table.set_index("key")["fired"]
    ran = touched - fired.index.map(n)
    assert set(ran[~fired]) <= {0, 1} and set(touched[fired]) <= {1, 2}


@pytest.mark.parametrize(
    ("tokens", "new"), [("generated", 1), ("generated", 0)], ids=["one new token", "capture of prompts"]
)
def test_steering_that_touched_nothing_raises_and_leaves_nothing_in_the_store(home, fitted, few, tokens, new):
    fit = fitted("llama")
    with (
        pytest.raises(InterventionError, match="touched no token"),
        steer(fit.model, add(fit.direction, tokens=tokens)),
    ):
        if new:
            complete(fit.model, few, max_new_tokens=new, progress=False)
        else:
            cache_activations(fit.model, few, progress=False)
    summary = open_store(describe(fit.model)).summary()
    assert summary["completions"] == 0 and not summary["states"]


def test_a_capture_that_stops_before_the_steered_layer_raises(home, fitted, few):
    fit = fitted("llama")
    with pytest.raises(InterventionError, match="layer 2"), steer(fit.model, add(fit.direction)):
        cache_activations(fit.model, few, layers=(0, 1), progress=False)


def test_a_plain_call_that_is_not_touched_raises_at_the_end(fitted):
    fit = fitted("llama")
    with pytest.raises(InterventionError, match="generated"), steer(fit.model, add(fit.direction, tokens="generated")):
        logits(fit.model)


def test_nothing_run_is_no_error_and_neither_are_rows_that_end_at_once(home, fitted, few, monkeypatch):
    from workbench import completions

    fit = fitted("llama")
    value = add(fit.direction, tokens="generated")
    with steer(fit.model, value):
        pass
    monkeypatch.setattr(completions, "_end_ids", lambda model: set(range(272)))
    with steer(fit.model, value):
        done = complete(fit.model, few, max_new_tokens=3, progress=False)
    assert set(done["finish"]) == {"end"} and done["added_norm"].eq(0).all()


def test_vectors_made_under_steering_are_kept_apart(home, fitted, few):
    fit = fitted("llama")
    plain = cache_activations(fit.model, few, progress=False)
    with steer(fit.model, add(fit.direction, 5.0)):
        steered = cache_activations(fit.model, few, progress=False)
    with steer(fit.model, add(fit.direction, 6.0)):
        more = cache_activations(fit.model, few, progress=False)
    at = {"layer": LAYER, "position": "last_prompt"}
    moved = [(a.sel(**at).vectors - plain.sel(**at).vectors) @ fit.direction.vector for a in (steered, more)]
    np.testing.assert_allclose(moved[0], 5.0, rtol=1e-4)
    np.testing.assert_allclose(moved[1], 6.0, rtol=1e-4)


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_an_intervention_of_another_model_is_refused(fitted):
    with (
        pytest.raises(InterventionError, match="made for"),
        steer(fitted("qwen2").model, add(fitted("llama").direction)),
    ):
        pass


@pytest.mark.parametrize(
    "make",
    [
        lambda f: add(f.direction, float("nan")),
        lambda f: add(f.direction, layers=4),
        lambda f: add(f.direction, layers=()),
        lambda f: add(f.direction, tokens="last"),
        lambda f: float("inf") * add(f.direction),
        lambda f: conditional(f.gate, f.space, f.behaviours[1]),
        lambda f: cast(f.condition, [], 0.1),
        lambda f: cast(f.condition, [f.direction, f.direction], 0.1),
        lambda f: cast(f.behaviours[1], [f.direction], 0.1),
        lambda f: cast(f.condition, f.behaviours, 0.1, "=="),
        lambda f: adasteer(f.vectors),
        lambda f: adasteer(f.vectors, (Law(9, 1, 0), Law(1, 1, 0))),
        lambda f: patch(f.acts.sel(position="last_prompt")),
        lambda f: patch(f.source, f.acts.rows[:2]),
    ],
)
def test_mistakes_raise_in_words(fitted, make):
    with pytest.raises(InterventionError, match=r"[;.] .*"):
        make(fitted())


def test_a_gate_of_another_subspace_is_refused(fitted):
    fit = fitted()
    with pytest.raises(FitError, match="own subspace"):
        conditional(fit.gate, replace(fit.space, layer=1), fit.direction)


def test_a_patch_with_targets_gives_each_row_its_own_vector_and_refuses_others(home, fitted, prompts, few):
    """The vector of each English prompt in the place of its translation's."""
    fit = fitted("llama")
    english = fit.acts.sel(language="en", position="last_prompt", layer=1)
    order = english.rows["parallel_id"]
    targets = prompts[prompts["language"] == "th"].set_index("parallel_id").loc[order].reset_index()
    value = patch(english, targets)
    shuffled = targets.sample(frac=1, random_state=0).reset_index(drop=True)
    with steer(fit.model, value):
        acts = cache_activations(fit.model, shuffled, progress=False)
    want = english.values[:, 0, 0][[list(order).index(p) for p in shuffled["parallel_id"]]]
    np.testing.assert_allclose(acts.sel(layer=1, position="last_prompt").vectors, want, rtol=1e-5, atol=1e-5)
    with pytest.raises(InterventionError, match="none of its"), steer(fit.model, value):
        complete(fit.model, prompts[prompts["language"] == "zh"], max_new_tokens=2, progress=False)
    with pytest.raises(InterventionError, match="none of its"), steer(fit.model, value):
        logits(fit.model)


# --- the baselines' fits ---------------------------------------------------------------------------------------------


def test_the_condition_search_finds_the_planted_layer_and_agrees_with_scikit_learn():
    from planted import planted
    from sklearn.metrics import f1_score

    acts, _ = planted(positions=("prompt_mean", "last_prompt"), strength={0: 0.1, 1: 0.1, 2: 30.0, 3: 0.1})
    train, held = acts.sel(split="train"), acts.sel(split="val")
    surface = condition_surface(train, held, layers=range(4), thresholds=np.arange(0, 1, 0.01))
    assert len(surface) == 4 * 2 * 100
    harmful = (held.rows["label"] == "harmful").to_numpy()
    for row in surface.sample(20, random_state=0).itertuples():
        condition = fit_direction(train.sel(layer=row.layer, position="prompt_mean"), method_of(row))
        cosines = similarity(held.sel(layer=row.layer, position="prompt_mean").vectors, condition.vector)
        met = cosines > row.threshold if row.comparator == ">" else cosines < row.threshold
        assert row.f1 == pytest.approx(f1_score(harmful, met, zero_division=0.0))
    value = fit_cast(train, held, behaviour_layers=(2, 3), condition_layers=(1, 2))
    (part,) = value.parts
    best = surface.query("layer == 1 or layer == 2").query("threshold <= 0.06")["f1"].max()
    chosen = surface.query(f"layer == {part.condition_layer} and comparator == '{part.comparator}'")
    assert part.layers == (2, 3) and chosen["f1"].max() >= best


def method_of(row):
    from workbench.contrasts import pairwise_component

    return pairwise_component


def test_similarity_is_the_formula_and_zero_where_the_projection_is():
    rng = np.random.default_rng(0)
    c = rng.standard_normal(8)
    c /= np.linalg.norm(c)
    h = rng.standard_normal((5, 8))
    h[4] -= (h[4] @ c) * c
    h[4] = 0
    projection = np.outer(c, c) / (c @ c)
    for i in range(4):
        q = np.tanh(projection @ h[i])
        assert similarity(h, c)[i] == pytest.approx(h[i] @ q / np.linalg.norm(h[i]) / np.linalg.norm(q))
    assert similarity(h, c)[4] == 0


def test_the_fits_refuse_test_prompts(fitted, prompts):
    from planted import planted

    acts, _ = planted(positions=("prompt_mean", "last_prompt"))
    with pytest.raises(FitError, match="Test prompts"):
        fit_cast(acts.sel(split="train"), acts.sel(split="test"), behaviour_layers=(2,))
    with pytest.raises(FitError, match="Test prompts"):
        adasteer_vectors(acts.sel(split="test"))
    fit = fitted()
    with pytest.raises(FitError, match="Test prompts"):
        fit_laws(fit.model, fit.vectors, prompts.assign(split="test"), lambda done: [True] * len(done))


def test_adasteer_vectors_are_mean_differences_and_come_back_from_safetensors(fitted, tmp_path):
    fit = fitted()
    values = fit.acts.sel(position="last_prompt").values[:, 0]
    harmful = (fit.acts.rows["label"] == "harmful").to_numpy()
    want = values[harmful].mean(0) - values[~harmful].mean(0)
    np.testing.assert_allclose(fit.vectors.rejection, want, atol=1e-5)
    fit.vectors.save(tmp_path / "v.safetensors")
    assert adasteer(tmp_path / "v.safetensors", fit.laws) == adasteer(fit.vectors, fit.laws)


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_adasteer_vectors_are_read_from_safetensors_only(tmp_path):
    (tmp_path / "v.pt").write_bytes(pickle.dumps(Explosive()))
    with pytest.raises(FitError, match="could not be read"):
        AdaSteerVectors.load(tmp_path / "v.pt")
    with pytest.raises(FitError, match="could not be read"):
        Intervention.load(tmp_path / "v.pt")


def test_a_file_of_the_wrong_shape_or_of_other_code_is_refused(fitted, tmp_path):
    from safetensors.numpy import save_file

    fit = fitted()
    replace(fit.vectors, rejection=fit.vectors.rejection[:2]).save(tmp_path / "v.safetensors")
    with pytest.raises(FitError, match="rejection"):
        AdaSteerVectors.load(tmp_path / "v.safetensors")
    about = '[["subprocess", "Popen", {"args": ["true"]}]]'
    save_file({"intervention": np.zeros(1)}, str(tmp_path / "i.safetensors"), metadata={"intervention": about})
    with pytest.raises(FitError, match="subprocess"):
        Intervention.load(tmp_path / "i.safetensors")


def test_published_laws_are_the_papers_and_given_by_the_models_name(fitted):
    d = np.array([-70.0, 0.0, 100.0, 140.0, 200.0])
    llama, qwen, gemma = (laws.PUBLISHED[name] for name in ("llama-3.1-8b", "qwen2.5-7b", "gemma-2-9b"))
    np.testing.assert_allclose(llama[0](d), [-0.2, -0.08, -0.08, -0.08, -0.08])
    np.testing.assert_allclose(llama[1](d)[:2], [2.75, -0.75])
    np.testing.assert_allclose(qwen[0](d), [-0.2, -0.2, -0.2, 0.0, 0.0])
    np.testing.assert_allclose(qwen[1](d), [0.4, 0.4, -0.6, -0.6, -0.6])
    np.testing.assert_allclose(gemma[0](d), [-0.02, -0.02, 0.06, 0.06, 0.06])
    np.testing.assert_allclose(gemma[1](d), [-0.06, -0.06, 0.02, 0.02, 0.02])
    rng = np.random.default_rng(0)
    shape = (32, 8)
    for name in ("llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"):
        about = replace(fitted().vectors.provenance, name=name, n_layers=32, d_model=8)
        vectors = AdaSteerVectors(*rng.standard_normal((2, *shape)), *rng.standard_normal((2, 2, *shape)), about)
        (part,) = adasteer(vectors).parts
        assert part.laws == llama


def test_a_law_is_recovered_from_what_prompts_need(fitted):
    """Needs planted on a line of d at layer 1 come back, clamped to where they were seen."""
    fit = fitted()
    acts = fit.acts.sel(position="last_prompt")
    means = fit.vectors.rejection_means
    way = means[1, 1] - means[0, 1]
    d = (acts.sel(layer=1).vectors - means[0, 1]) @ way / (way @ way) * 100
    need = 0.003 * d - 0.2
    need[3] = np.nan
    law = laws._law(acts, means, need)
    assert law.layer == 1
    np.testing.assert_allclose(law(d), np.clip(0.003 * d - 0.2, np.nanmin(need), np.nanmax(need)), atol=1e-5)


def test_fitted_laws_answer_to_the_judge(home, fitted, prompts):
    """A judge that reads refusal off the trace's size: harmful prompts need a push, harmless ones none."""
    fit, val = fitted(), prompts.assign(split="val").groupby("label").head(4).reset_index(drop=True)

    def refuses(done):
        return list(done["added_norm"] > 1e-6)

    fitted_laws = fit_laws(
        fit.model, fit.vectors, val, refuses, coefficients=(-0.2, 0.0, 0.2), max_new_tokens=3, progress=False
    )
    rejection, _ = fitted_laws
    assert (rejection.low, rejection.high) == (-0.2, 0.0)
    with steer(fit.model, adasteer(fit.vectors, fitted_laws)):
        complete(fit.model, val, max_new_tokens=3, progress=False)
