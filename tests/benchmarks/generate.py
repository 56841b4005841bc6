"""Generation under the conditional gate against its peers, in one run. `python -m tests.benchmarks.generate`.

ours: `complete` under `steer(conditional)` into an empty store; the same without steering; TransformerBridge `generate`
under the same `steer`; and the paper's way: a gating pass of its own with LM head, then Hugging Face `generate` with a hook
that adds or ablates, rows of a batch kept until the last has ended. Same prompts, batch size and stopping rule; the last
two get the prompts in the order given, as their users do, and, to be told apart, sorted by length too. Runs alternate;
medians are printed. On a CPU seconds are of the processor, so that other work on the machine does not count.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time

import torch

from workbench.activations import cache_activations
from workbench.completions import _end_ids, complete
from workbench.conditionals import conditional
from workbench.directions import fit_direction
from workbench.encoding import encode
from workbench.gates import fit_gate
from workbench.model import describe, load_model
from workbench.prompts import load_prompts
from workbench.scores import features
from workbench.steering import steer
from workbench.store import open_store
from workbench.subspaces import fit_subspace

from .capture import SHAPES, fixed_prompts, padded, random_shape

BARS = {"paper's way": 1.5, "unsteered": 0.9}
"""Ours must be at least so many times as fast, at 32 new tokens and at every length."""


class Work:
    """The model, prompts and gate that all ways share."""

    def __init__(self, model, prompts, layer, new, batch_size):
        self.model, self.prompts, self.new, self.size = model, prompts, new, batch_size
        self.encoded = encode(model, list(prompts["text"]))
        self.space, self.direction, self.gate = fitted(model, layer)
        self.repair = conditional(self.gate, self.space, self.direction)
        self.ends = sorted(_end_ids(model))

    def text(self, ids):
        kept = next((i for i, token in enumerate(ids) if token in self.ends), len(ids))
        return self.model.tokenizer.decode(ids[:kept], skip_special_tokens=True), kept

    def batches(self, by_length):
        order = sorted(range(len(self.encoded)), key=lambda i: len(self.encoded[i].ids) if by_length else i)
        for start in range(0, len(order), self.size):
            yield order[start : start + self.size]


def fitted(model, layer):
    """A gate of the high tier's English, German and Chinese, from ten prompts of each class and language."""
    rows = load_prompts(languages=["en", "de", "zh"]).query("split == 'train' and scope == 'global'")
    few = rows.groupby(["language", "label"]).head(10).reset_index(drop=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(open(os.devnull, "w")):
        acts = cache_activations(
            model, few, layers=(layer,), positions=("last_prompt",), progress=False,
            store=open_store(describe(model), folder),
        )  # fmt: skip
        space, direction = fit_subspace(acts, rank=3), fit_direction(acts)
        return space, direction, fit_gate(features(acts, space), space=space)


def completed(work):
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(describe(work.model), folder)
        done = complete(
            work.model, work.prompts, max_new_tokens=work.new, batch_size=work.size, store=store, progress=False
        )
    return list(zip(done["completion"], done["n_new_tokens"], strict=True))


def ours(work):
    with steer(work.model, work.repair):
        return completed(work)


def unsteered(work):
    return completed(work)


@torch.inference_mode()
def transformer_lens(work, by_length=False):
    out = [None] * len(work.encoded)
    for rows in work.batches(by_length):
        ids, mask = padded(work.model, [work.encoded[i] for i in rows], "left")
        with steer(work.model, work.repair):
            tokens = work.model.generate(
                ids, attention_mask=mask, max_new_tokens=work.new, do_sample=False, verbose=False,
                eos_token_id=work.model.tokenizer.eos_token_id, return_type="tokens",
            )  # fmt: skip
        for i, row in zip(rows, tokens[:, ids.shape[1] :].tolist(), strict=True):
            out[i] = work.text(row)
    return out


@torch.inference_mode()
def paper(work, by_length=False):
    hf, layer, out = work.model.original_model, work.direction.layer, [None] * len(work.encoded)
    v = torch.tensor(work.direction.vector, device=next(hf.parameters()).device)
    alpha = work.direction.quantiles[0] - work.direction.quantiles[1]
    for rows in work.batches(by_length):
        ids, mask = padded(work.model, [work.encoded[i] for i in rows], "left")
        states = hf(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
        h = states[layer + 1][:, -1].float().cpu().numpy()
        fired = torch.tensor(work.gate.fires(work.space(h)), device=ids.device)[:, None, None]

        def hook(module, inputs, output, fired=fired):
            h = (output[0] if isinstance(output, tuple) else output).float()
            added = torch.zeros_like(h)
            added[:, -1] = alpha * v
            h = (h + torch.where(fired, added, -(h @ v)[..., None] * v)).to(next(hf.parameters()).dtype)
            return (h, *output[1:]) if isinstance(output, tuple) else h

        handle = hf.base_model.layers[layer].register_forward_hook(hook)
        try:
            tokens = hf.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=work.new, do_sample=False,
                eos_token_id=work.ends, pad_token_id=work.model.tokenizer.pad_token_id,
            )  # fmt: skip
        finally:
            handle.remove()
        for i, row in zip(rows, tokens[:, ids.shape[1] :].tolist(), strict=True):
            out[i] = work.text(row)
    return out


WAYS = {
    "ours": ours,
    "unsteered": unsteered,
    "TransformerBridge": transformer_lens,
    "paper's way": paper,
    "bridge, sorted": lambda work: transformer_lens(work, by_length=True),
    "paper's, sorted": lambda work: paper(work, by_length=True),
}


def compare(work, ways, rounds):
    on_cpu = describe(work.model).device == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    seconds, texts = {name: [] for name in ways}, {}
    for round_ in range(rounds):
        order = list(ways.items())
        for name, way in order if round_ % 2 == 0 else order[::-1]:
            start = clock()
            texts[name] = way(work)
            seconds[name].append(clock() - start)
            print(f"  round {round_ + 1}: {name} {seconds[name][-1]:.1f} s", flush=True)
    speed = {name: sum(n for _, n in texts[name]) / statistics.median(times) for name, times in seconds.items()}
    print(f"{work.new} new tokens{'way':>18}{'tokens/s':>10}{'tokens':>8}{'ours / it':>11}{'same text':>11}")
    for name, rate in speed.items():
        same = sum(a[0] == b[0] for a, b in zip(texts[name], texts["ours"], strict=True)) / len(work.encoded)
        tokens = sum(n for _, n in texts[name])
        print(f"{name:>31}{rate:>10.1f}{tokens:>8}{speed['ours'] / rate:>11.2f}{same:>11.0%}")
    return {name: speed["ours"] / rate for name, rate in speed.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--device")
    parser.add_argument("--layer", type=int, help="block that is read and changed; by default two thirds of the depth")
    parser.add_argument("--new", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompts", type=int, help="only so many prompts, spread over the set, for a quick look")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(random_shape(args.shape, folder) if args.shape else args.model, device=args.device)
        about, prompts = describe(model), fixed_prompts()
        if args.prompts:
            prompts = prompts[:: max(1, len(prompts) // args.prompts)][: args.prompts].reset_index(drop=True)
        layer = 2 * about.n_layers // 3 if args.layer is None else args.layer
        print(
            f"{about.name}, {about.dtype} on {about.device}, {torch.get_num_threads()} threads; {len(prompts)} prompts"
        )
        for new in args.new:
            work = Work(model, prompts, layer, new, args.batch)
            ratios = compare(work, {name: WAYS[name] for name in {"ours": 1} | dict.fromkeys(args.ways)}, args.rounds)
            for name, bar in BARS.items():
                if name in ratios and (name == "unsteered" or new == 32):
                    print(f"bar: ours at least {bar} of {name}: {'met' if ratios[name] >= bar else 'MISSED'}")


if __name__ == "__main__":
    main()
