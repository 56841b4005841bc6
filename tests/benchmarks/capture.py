"""Capture against its peers, in one run on the same prompts. `python -m tests.benchmarks.capture`.

ours: `cache_activations` into an empty store, three positions of every layer; TransformerLens `run_with_cache` with
residual names only, batch 16; Hugging Face `output_hidden_states`, batch 4 in given order with LM head (the paper's way);
and a bare length-sorted Hugging Face forward without LM head that keeps nothing. Runs alternate; medians are printed.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time

import psutil
import torch

from workbench.activations import cache_activations
from workbench.encoding import encode
from workbench.model import describe, load_model, plain
from workbench.prompts import load_prompts
from workbench.store import open_store

SHAPES = {"qwen2.5-7b": (3584, 18944, 28, 28, 4, 152064)}


def fixed_prompts():
    """The first test pair of each harm type in every language: 368 prompts of the embedded set."""
    prompts = load_prompts()
    test = prompts[(prompts["split"] == "test") & (prompts["scope"] == "global")]
    first = test.groupby("harm_type")["pair_id"].min()
    return test[test["pair_id"].isin(first)].reset_index(drop=True)


def ours(model, prompts, encoded):
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(describe(model), folder)
        with contextlib.redirect_stdout(open(os.devnull, "w")):
            cache_activations(model, prompts, store=store, progress=False)


def padded(model, batch, side):
    width = max(len(e.ids) for e in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, e in enumerate(batch):
        where = slice(width - len(e.ids), width) if side == "left" else slice(0, len(e.ids))
        ids[row, where], mask[row, where] = torch.tensor(e.ids), 1
    device = next(model.original_model.parameters()).device
    return ids.to(device), mask.to(device)


def last(value, mask):
    return value[torch.arange(len(value)), mask.sum(1) - 1].float().cpu()


@torch.inference_mode()
def transformer_lens(model, prompts, encoded):
    names = {f"blocks.{layer}.hook_out" for layer in range(model.cfg.n_layers)}
    for start in range(0, len(encoded), 16):
        ids, mask = padded(model, encoded[start : start + 16], "right")
        _, cache = model.run_with_cache(ids, attention_mask=mask, names_filter=lambda name: name in names)
        [last(cache[name], mask) for name in names]


@torch.inference_mode()
def paper(model, prompts, encoded):
    for start in range(0, len(encoded), 4):
        ids, mask = padded(model, encoded[start : start + 4], "left")
        with plain(model):
            out = model.original_model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        [state[:, -1].float().cpu() for state in out.hidden_states[1:]]


@torch.inference_mode()
def bare(model, prompts, encoded, budget=512):
    waiting = sorted(encoded, key=lambda e: len(e.ids))
    while waiting:
        size = 1
        while size < len(waiting) and (size + 1) * len(waiting[size].ids) <= budget:
            size += 1
        batch, waiting = waiting[:size], waiting[size:]
        ids, mask = padded(model, batch, "right")
        with plain(model):
            model.original_model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)


WAYS = {"ours": ours, "TransformerLens": transformer_lens, "paper's way": paper, "bare forward": bare}


def random_shape(name, folder):
    """A random-weight model of a 7B shape in a folder, with the default model's tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

    from workbench.model import prepare

    width, inner, layers, heads, kv, vocabulary = SHAPES[name]
    config = Qwen2Config(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, vocab_size=vocabulary, eos_token_id=151645, pad_token_id=151643,
    )  # fmt: skip
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    hf.save_pretrained(folder)
    AutoTokenizer.from_pretrained(prepare("qwen2.5-coder-0.5b")).save_pretrained(folder)
    return folder


def matmul_rate(model):
    """The machine's own rate for the model's largest weight, multiply-adds per second times two."""
    weight = max((p for p in model.original_model.base_model.layers.parameters()), key=lambda p: p.numel())
    x = torch.randn(512, weight.shape[1], dtype=weight.dtype, device=weight.device)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        (x @ weight.T).sum().item()
        times.append(time.perf_counter() - start)
    return 2 * x.numel() * weight.shape[0] / statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--device")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="only every so-manyth prompt, for a quick look")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(random_shape(args.shape, folder) if args.shape else args.model, device=args.device)
        prompts = fixed_prompts()[:: args.every]
        compare(model, prompts, args.rounds, args.ways)


def compare(model, prompts, rounds, names):
    encoded = encode(model, list(prompts["text"]))
    tokens = sum(len(e.ids) for e in encoded)
    about = describe(model)
    weights = sum(p.numel() for p in model.original_model.base_model.layers.parameters())
    rate = matmul_rate(model)
    print(
        f"{about.name}, {about.dtype} on {about.device}, {torch.get_num_threads()} threads; {len(prompts)} prompts, {tokens} tokens"
    )
    ways = {name: WAYS[name] for name in names}
    seconds, peak = {name: [] for name in ways}, dict.fromkeys(ways, 0)
    for round_ in range(rounds):
        order = list(ways.items())
        for name, way in order if round_ % 2 == 0 else order[::-1]:
            start = time.perf_counter()
            way(model, prompts, encoded)
            seconds[name].append(time.perf_counter() - start)
            peak[name] = max(peak[name], psutil.Process().memory_info().rss)
            print(f"  round {round_ + 1}: {name} {seconds[name][-1]:.1f} s", flush=True)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{'way':<18}{'prompts/s':>10}{'tokens/s':>10}{'RSS, GiB':>10}{'ours / it':>10}{'of matmul rate':>16}")
    for name, time_ in median.items():
        share = 2 * weights * tokens / time_ / rate
        print(
            f"{name:<18}{len(prompts) / time_:>10.1f}{tokens / time_:>10.0f}{peak[name] / 2**30:>10.1f}"
            f"{time_ / median.get('ours', float('nan')):>10.2f}{share:>15.0%}"
        )


if __name__ == "__main__":
    main()
