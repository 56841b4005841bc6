"""A large store: 40,000 rows, 28 layers, width 896, two positions (4 GB of random vectors). `python -m tests.benchmarks.store`.

Prints seconds to open, to read one layer and position of one language, to read one layer and position of everything, and
how much resident memory grew beside what was asked for.
"""

import argparse
import gc
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from workbench.provenance import Provenance
from workbench.store import Column, open_store


def fill(store, rows, layers, width, positions, shard):
    torch.manual_seed(0)
    pool = torch.randn(shard, width).to(torch.bfloat16)
    for start in range(0, rows, shard):
        keys = [f"row{i:08d}" for i in range(start, min(start + shard, rows))]
        tensors = {
            ("resid", layer, position): (pool[: len(keys)] + layer + start / rows).to(torch.bfloat16)
            for layer in range(layers)
            for position in positions
        }
        store.add_vectors(keys, "", tensors)


def timed(label, call, asked_bytes=None):
    gc.collect()
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    value = call()
    seconds, grown = time.perf_counter() - start, psutil.Process().memory_info().rss - before
    asked = (
        f", asked for {asked_bytes / 2**20:.0f} MiB, resident memory grew by {grown / 2**20:.0f} MiB"
        if asked_bytes
        else ""
    )
    print(f"{label}: {seconds:.3f} s{asked}")
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--width", type=int, default=896)
    parser.add_argument("--languages", type=int, default=23)
    args = parser.parse_args()
    provenance = Provenance(
        "benchmark", "random", "w", "none", "bfloat16", "t", "s", (), args.layers, args.width, "cpu"
    )
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        store = timed("make", lambda: open_store(provenance, folder))
        timed("fill", lambda: fill(store, args.rows, args.layers, args.width, ("last_instruction", "last_prompt"), 512))
        size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
        print(f"{args.rows} rows, {size / 1e9:.2f} GB on disk")
        store = timed("open", lambda: open_store(provenance, folder))
        everything = [f"row{i:08d}" for i in range(args.rows)]
        # A language's rows lie scattered over all shards, as they do when prompts are sorted by length.
        language = list(np.random.default_rng(0).permutation(everything)[: args.rows // args.languages])
        column = Column("", "resid", args.layers // 2, "last_prompt")
        timed(
            "one layer and position of one language",
            lambda: store.read_vectors(language, column),
            len(language) * args.width * 4,
        )
        timed("again", lambda: store.read_vectors(language, column), len(language) * args.width * 4)
        timed(
            "one layer and position of everything",
            lambda: store.read_vectors(everything, column),
            args.rows * args.width * 4,
        )
        both = [Column("", "resid", 3, p) for p in ("last_instruction", "last_prompt")]
        timed(
            "one layer of everything",
            lambda: [store.read_vectors(everything, c) for c in both],
            2 * args.rows * args.width * 4,
        )
        timed("what is missing", lambda: store.missing(everything, [column]))


if __name__ == "__main__":
    main()
