"""A program for tests/test_activations.py: a capture that is killed again and again, or shared by two processes.

The model is loaded once and the process forked, so that the kill falls into the capture and not into the imports. Threads do
not survive a fork: everything runs on one.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time

import torch

torch.set_num_threads(1)

from workbench import activations  # noqa: E402
from workbench.activations import cache_activations  # noqa: E402
from workbench.model import describe, load_model  # noqa: E402
from workbench.prompts import load_prompts  # noqa: E402
from workbench.store import open_store  # noqa: E402

activations._SHARD_SECONDS = 0.0  # a shard a batch, so that there is much to interrupt


def capture(model, prompts):
    cache_activations(model, prompts, budget=300, progress=False)


def child(model, prompts):
    pid = os.fork()
    if pid == 0:
        try:
            capture(model, prompts)
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def killed(model, prompts, times):
    """How many of the children had finished before they were killed, at moments that suit the machine's speed."""
    rng, finished = random.Random(0), 0
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        cache_activations(model, prompts, budget=300, progress=False, store=open_store(describe(model), folder))
        whole = time.monotonic() - started
    for _ in range(times):
        pid = child(model, prompts)
        time.sleep(rng.uniform(0.02, 0.2) * whole)
        os.kill(pid, signal.SIGKILL)
        finished += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return finished


def together(model, prompts):
    pids = [child(model, prompts) for _ in range(2)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def main():
    way, folder = sys.argv[1:]
    model = load_model(folder, device="cpu", dtype=torch.float32)
    prompts = load_prompts(languages=["en", "zh", "ar", "th"]).head(300)
    done = killed(model, prompts, 20) if way == "killed" else together(model, prompts)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
