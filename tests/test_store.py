"""The store never gives a wrong number: killed, damaged, full, read-only, shared or foreign."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.errors import StoreError
from workbench.provenance import Provenance
from workbench.store import Column, Store, find_stores, open_store

MODEL = Provenance(
    name="toy", source="test", weights="w", processing="none", dtype="float32", template="t",
    site="blocks.{layer}.hook_out", versions=(("torch", "1"),), n_layers=2, d_model=4, device="cpu",
)  # fmt: skip
COLUMNS = [Column("", "resid", layer, "last_prompt") for layer in (0, 1)]


def vectors(keys, layer):
    """What the vectors of these rows must be: a function of key and layer alone."""
    seeds = [abs(hash_of(key)) + layer for key in keys]
    return torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(seed % 2**31)) for seed in seeds])


def hash_of(key):
    return int.from_bytes(key.encode()[:8].ljust(8, b"_"), "little")


def fill(store, keys):
    store.add_vectors(keys, "", {(c.site, c.layer, c.position): vectors(keys, c.layer) for c in COLUMNS})


def assert_right(store, keys):
    for column in COLUMNS:
        np.testing.assert_array_equal(store.read_vectors(keys, column), vectors(keys, column.layer).numpy())


@pytest.fixture
def store(tmp_path):
    return open_store(MODEL, tmp_path)


def test_what_is_written_is_read_back_in_any_order_and_with_repeats(store):
    fill(store, ["a", "b", "c"])
    fill(store, ["d"])
    assert_right(store, ["d", "a", "c", "a"])
    assert store.missing(["a", "x", "d", "x"], COLUMNS) == ["x"]
    assert store.read_vectors([], COLUMNS[0]).shape == (0, 4)


def test_bfloat16_is_kept_exactly(store):
    value = torch.randn(2, 4).to(torch.bfloat16)
    store.add_vectors(["a", "b"], "", {("resid", 0, "last_prompt"): value})
    np.testing.assert_array_equal(store.read_vectors(["a", "b"], COLUMNS[0]), value.float().numpy())


def test_rows_that_are_not_there_are_an_error_and_never_zeros(store):
    fill(store, ["a"])
    with pytest.raises(StoreError, match=r"1 of 2 rows are not in .* Run cache_activations"):
        store.read_vectors(["a", "b"], COLUMNS[0])
    with pytest.raises(StoreError, match="not in"):
        store.read_vectors(["a"], Column("ablate", "resid", 0, "last_prompt"))


def test_vectors_computed_under_another_state_are_kept_apart(store):
    fill(store, ["a"])
    steered = Column("add(v, 4)", "resid", 0, "last_prompt")
    store.add_vectors(["a"], steered.state, {("resid", 0, "last_prompt"): torch.ones(1, 4)})
    assert_right(store, ["a"])
    assert (store.read_vectors(["a"], steered) == 1).all()


def test_stores_of_models_that_differ_in_anything_are_different_folders(tmp_path):
    import dataclasses

    changed = [
        dataclasses.replace(MODEL, **{f: "other"}) for f in ("weights", "dtype", "template", "site", "processing")
    ]
    paths = {open_store(p, tmp_path).path for p in (MODEL, *changed)}
    assert len(paths) == 6
    assert open_store(dataclasses.replace(MODEL, device="cuda"), tmp_path).path in paths
    assert len(find_stores(tmp_path)) == 6


def test_a_folder_that_holds_another_model_is_refused_with_what_differs(tmp_path):
    import dataclasses

    kept = open_store(MODEL, tmp_path)
    other = dataclasses.replace(MODEL, dtype="bfloat16")
    kept.path.rename(tmp_path / f"toy-{other.fingerprint}")
    with pytest.raises(StoreError, match="dtype: float32 against bfloat16"):
        open_store(other, tmp_path)


def shard_of(store):
    (file,) = (store.path / "shards").glob("*.safetensors")
    return file


@pytest.mark.parametrize("where", [0.02, 0.5, 0.98, "last"])
def test_a_flipped_byte_anywhere_is_an_error_and_repair_keeps_the_rest(store, where):
    fill(store, ["a", "b"])
    file = shard_of(store)
    fill(store, ["c"])
    data = bytearray(file.read_bytes())
    place = len(data) - 1 if where == "last" else int(where * len(data))
    data[place] ^= 0x10
    file.write_bytes(data)
    assert store.verify()
    wrong = 0
    for column in COLUMNS:
        try:
            np.testing.assert_array_equal(
                store.read_vectors(["a", "b"], column), vectors(["a", "b"], column.layer).numpy()
            )
        except StoreError as error:
            assert "workbench store repair" in str(error)
            wrong += 1
    assert store.repair() == [file.name] and wrong >= (1 if where in (0.98, "last") else 0)
    assert store.missing(["a", "b", "c"], COLUMNS) == ["a", "b"]
    fill(store, ["a", "b"])
    assert_right(store, ["a", "b", "c"])
    assert not store.verify()


def test_a_truncated_and_a_lost_shard_are_errors(store):
    fill(store, ["a"])
    file = shard_of(store)
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    with pytest.raises(StoreError, match="damaged"):
        store.read_vectors(["a"], COLUMNS[1])
    file.unlink()
    with pytest.raises(StoreError, match="damaged"):
        store.read_vectors(["a"], COLUMNS[0])


def test_an_index_from_a_newer_version_is_refused_and_left_alone(store, tmp_path):
    with sqlite3.connect(store.path / "index.sqlite") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(StoreError, match="newer workbench"):
        open_store(MODEL, tmp_path)


def test_a_deleted_index_is_built_again_from_the_shards(store, tmp_path):
    fill(store, ["a", "b"])
    fill(store, ["c"])
    (store.path / "index.sqlite").unlink()
    again = open_store(MODEL, tmp_path)
    assert_right(again, ["c", "b", "a"])
    assert not again.verify()


def test_a_damaged_index_says_what_to_do(store, tmp_path):
    fill(store, ["a"])
    (store.path / "index.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StoreError, match="Move it away"):
        open_store(MODEL, tmp_path)


def test_a_damaged_shard_is_not_adopted_when_the_index_is_built_again(store, tmp_path):
    fill(store, ["a"])
    file = shard_of(store)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (store.path / "index.sqlite").unlink()
    again = open_store(MODEL, tmp_path)
    assert again.missing(["a"], COLUMNS) == ["a"]


def test_a_store_that_cannot_be_written_reads_on_and_says_so(store, monkeypatch):
    """Root ignores permissions, so the operating system's answer is played back where the test runs as root."""
    fill(store, ["a"])
    real = open

    def refuse(path, mode="r", *args, **kwargs):
        if "w" in str(mode) and str(path).endswith(".tmp"):
            raise OSError(30, "Read-only file system")
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(StoreError, match="read-only"):
        fill(store, ["b"])
    assert_right(store, ["a"])


FULL = """
import resource, sys, torch
sys.path.insert(0, {tests!r})
from test_store import MODEL, fill, assert_right
from workbench.store import open_store
from workbench.errors import StoreError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = open_store(MODEL, {root!r})
fill(store, ["a"])
resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))
try:
    fill(store, ["b"])
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert_right(store, ["a"])
assert store.missing(["b"], []) == [] and len(list((store.path / "shards").iterdir())) == 1
fill(store, ["b"])
assert_right(store, ["a", "b"])
"""


def test_a_full_disk_is_an_error_that_leaves_what_was_good(tmp_path):
    """A limit on file sizes makes writes fail in the middle, as a quota does."""
    code = FULL.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "full" in done.stdout


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_store import MODEL, COLUMNS, fill
from workbench.store import open_store
store = open_store(MODEL, {root!r})
keys = [f"k{{i}}" for i in range(120)]
print("ready", flush=True)
while missing := store.missing(keys, COLUMNS):
    fill(store, missing[:2])
    print(*missing[:2], flush=True)
"""


def test_killed_twenty_times_and_resumed_equals_the_uninterrupted_run(tmp_path):
    code = WRITER.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    rng, computed = random.Random(0), []
    for _ in range(20):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.06))
        child.send_signal(signal.SIGKILL)
        computed += child.communicate()[0].split()
        store = Store(next(tmp_path.glob("toy-*")))
        committed = [key for key in computed if key not in store.missing(computed, COLUMNS)]
        assert committed == computed, "a row reported as committed is not there"
        if computed:
            assert_right(store, computed)
    last = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    computed += last.stdout.split()[1:]
    assert len(computed) == len(set(computed)), "a committed row was computed twice"
    store = open_store(MODEL, tmp_path)
    assert_right(store, [f"k{i}" for i in range(120)])
    assert not store.verify()
    assert not list((store.path / "shards").glob("*.tmp"))


def test_two_processes_filling_one_store_both_finish(tmp_path):
    code = WRITER.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [child.communicate()[0] != "" and child.returncode for child in children] == [0, 0]
    store = open_store(MODEL, tmp_path)
    keys = [f"k{i}" for i in range(120)]
    assert store.missing(keys, COLUMNS) == []
    assert_right(store, keys)
    assert store.summary()["rows"] == 120


def test_completions_and_verdicts_are_kept_by_state_and_settings(store):
    one = {"completion": "no", "n_new_tokens": 1, "finish": "end", "trace": {"fired": True}}
    store.add_completions("", "greedy", {"a": one})
    store.add_completions("add", "greedy", {"a": one | {"completion": "yes"}})
    assert store.read_completions(["a", "b"], "", "greedy") == {"a": one}
    assert store.read_completions(["a"], "add", "greedy")["a"]["completion"] == "yes"
    assert store.read_completions(["a"], "", "sampled") == {}
    store.add_verdicts("j", {"r": {"verdict": None, "raw": "?", "reason": "cut off", "reply_language": None}})
    assert store.read_verdicts(["r"], "j")["r"]["verdict"] is None
    assert store.read_verdicts(["r"], "other") == {}


def test_nothing_in_a_store_is_a_pickle(store):
    fill(store, ["a"])
    for file in store.path.rglob("*"):
        assert file.is_dir() or not file.read_bytes().startswith(b"\x80"), file


def test_the_stamp_is_kept(store):
    store.add_stamp({"worst_relative_error": 0.0})
    assert store.stamps() == [{"worst_relative_error": 0.0}]
    assert json.dumps(store.summary()) and os.fspath(store.path)


def test_what_was_made_under_a_state_can_be_removed_alone(store):
    fill(store, ["a"])
    store.add_vectors(["a"], "add 3", {("resid", 0, "last_prompt"): torch.ones(1, 8)})
    said = {"completion": "x", "n_new_tokens": 1, "finish": "end"}
    for state in ("", "add 3"):
        store.add_completions(state, "s", {"a": said})
    assert store.states() == ["", "add 3"]
    with pytest.raises(StoreError, match="add 3"):
        store.remove("add 4")
    assert store.remove("add 3") == {"shards": 1, "completions": 1}
    assert store.states() == [""] and not store.read_completions(["a"], "add 3", "s")
    assert store.missing(["a"], [Column("add 3", "resid", 0, "last_prompt")]) == ["a"]
    assert_right(store, ["a"])
    assert store.read_completions(["a"], "", "s") and not store.verify()
