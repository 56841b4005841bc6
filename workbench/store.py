"""One store per model: an SQLite index beside immutable safetensors shards.

A store is a folder named after the model and its fingerprint, under `$WORKBENCH_HOME` (default `~/.cache/workbench`). A
row is a prompt as the model sees it, keyed by its token ids. A column of vectors is a (state, site, layer, position);
`state` names what was changing the model's computation (interventions, adapters, edits), empty for the model itself. A
shard is entered in the index after it is safely on disk, in one transaction with all its rows.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.answers import Answers
from workbench.errors import StoreError
from workbench.index import SCHEMA_VERSION, create, explain, row_ids, transaction
from workbench.provenance import Provenance
from workbench.shards import file_checksum, read_about, read_rows, write_shard
from workbench.upkeep import Upkeep

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, order=True)
class Column:
    """One column of vectors: what was on (`state`), which site, layer and position."""

    state: str
    site: str
    layer: int
    position: str

    @property
    def tensor(self) -> str:
        """Name of its tensor inside a shard."""
        return f"{self.site}.{self.layer}.{self.position}"

    @classmethod
    def of(cls, state: str, tensor: str) -> Column:
        """Inverse of `tensor`."""
        site, layer, position = tensor.rsplit(".", 2)
        return cls(state, site, int(layer), position)


@dataclass(frozen=True)
class _Map:
    """The index in memory: where everything lies, as of `version`."""

    version: tuple[int, int]
    ids: dict[str, int]
    files: dict[int, str]
    rows: dict[int, np.ndarray]  # shard -> row ids, and the place of each in it, [2, row]
    checksums: dict[Column, dict[int, str]]  # column -> shard -> checksum of its tensor


def home() -> Path:
    """The folder under which everything is kept: `$WORKBENCH_HOME`, else `~/.cache/workbench`."""
    return Path(os.environ.get("WORKBENCH_HOME") or Path.home() / ".cache" / "workbench").expanduser()


def open_store(provenance: Provenance, root: Path | str | None = None) -> Store:
    """The store of a model, made if it is not there yet, mended where an interrupted run left something behind.

    Args:
        provenance: the model's, from `describe(model)`.
        root: folder that holds stores; by default `home() / "stores"`.

    Raises:
        StoreError: the store is of a newer version, is damaged beyond its own repair, or cannot be made there.
    """
    short = "".join(c if c.isalnum() or c in "-._" else "-" for c in Path(provenance.name).name)[:60]
    path = Path(root or home() / "stores") / f"{short}-{provenance.fingerprint}"
    store = Store(path)
    try:
        (path / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"A store must be a folder that can be made; {path}: {error.strerror}.") from error
    store._prepare(provenance)
    store._map()
    return store


def find_stores(root: Path | str | None = None) -> list[Store]:
    """Every store under `root`, by default `home() / "stores"`."""
    folder = Path(root or home() / "stores")
    return [Store(path.parent) for path in sorted(folder.glob("*/index.sqlite"))]


class Store(Answers, Upkeep):
    """What is kept of one model. Open it with `open_store`; safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._known: _Map | None = None

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    @property
    def provenance(self) -> Provenance:
        """The model whose vectors and completions these are."""
        with self._database() as db:
            ((text,),) = db.execute("SELECT value FROM meta WHERE key = 'provenance'").fetchall()
        return Provenance.from_json(text)

    def _database(self, write: bool = False) -> contextlib.AbstractContextManager:
        return transaction(self.path / "index.sqlite", write)

    # --- opening -----------------------------------------------------------------------------------------------------

    def _prepare(self, provenance: Provenance) -> None:
        if not (self.path / "index.sqlite").exists():
            meta = {"schema_version": str(SCHEMA_VERSION), "provenance": provenance.to_json()}
            # Under the lock: another process that opens the store now would sweep the half-made index away.
            with self._lock(exclusive=False):
                create(self.path / "index.sqlite", meta)
        with self._database() as db:
            meta = dict(db.execute("SELECT key, value FROM meta"))
        version = int(meta["schema_version"])
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"A store must be of version {SCHEMA_VERSION} or older; {self.path} is of version {version}. "
                "It was written by a newer workbench: update this one, or set WORKBENCH_HOME to another folder."
            )
        kept = Provenance.from_json(meta["provenance"])
        if kept.fingerprint != provenance.fingerprint:
            raise StoreError(
                f"A store holds one model; {self.path} and the model differ in {kept.differences(provenance)}. "
                "Rename the folder as it was, or remove it."
            )
        self._sweep()

    def _sweep(self) -> None:
        """Remove half-written files and enter whole shards that the index lacks (a run killed between the two)."""
        if not os.access(self.path, os.W_OK):
            return
        with self._lock(exclusive=True) as alone:
            if not alone:
                return
            for partial in (*self.path.glob(".index-*.tmp"), *(self.path / "shards").glob("*.tmp")):
                partial.unlink(missing_ok=True)
            with self._database() as db:
                entered = {file for (file,) in db.execute("SELECT file FROM shards")}
            for file in sorted((self.path / "shards").glob("*.safetensors")):
                if file.name not in entered and not self._adopt(file):
                    file.rename(file.with_suffix(".damaged"))

    def _adopt(self, file: Path) -> bool:
        """Enter a shard by what it says of itself; False where it is not whole or not of this model."""
        about = read_about(file)
        if about is None or about.get("fingerprint") != self.provenance.fingerprint:
            return False
        self._enter(file, about["state"], about["checksums"], about["rows"])
        return True

    @contextlib.contextmanager
    def _lock(self, exclusive: bool, name: str = "lock") -> Iterator[bool]:
        """Writers of shards share the lock; the sweep takes it alone, and goes without where somebody writes."""
        try:
            import fcntl
        except ImportError:  # Windows: no sweep there, temporary files stay until removed by hand
            yield not exclusive
            return
        try:
            file = open(self.path / name, "a")
        except OSError as error:
            raise StoreError(explain(error, self.path)) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
            except BlockingIOError:
                yield False
                return
            yield True

    def first_to(self, task: str) -> contextlib.AbstractContextManager[bool]:
        """Whether nobody else does `task` on this store, for as long as it is on: the operating system lets go of it
        when the process ends, however it ends.
        """
        return self._lock(exclusive=True, name=f"{task}.lock")

    # --- vectors -----------------------------------------------------------------------------------------------------

    def add_vectors(
        self, row_keys: Sequence[str], state: str, tensors: Mapping[tuple[str, int, str], torch.Tensor]
    ) -> None:
        """Write one shard and enter it, all or nothing.

        Args:
            row_keys: key of each row, `[row]`, without repeats.
            state: what was on while the vectors were computed.
            tensors: (site, layer, position) -> `[row, d_model]`.

        Raises:
            StoreError: the disk is full or the store is read-only; nothing is entered and nothing is left behind.
        """
        named = {Column(state, *key).tensor: t.detach().cpu().contiguous() for key, t in tensors.items()}
        for name, tensor in named.items():
            assert len(tensor) == len(row_keys) == len(set(row_keys)), (name, tensor.shape, len(row_keys))
        about = {"fingerprint": self.provenance.fingerprint, "state": state, "rows": list(row_keys)}
        file = self.path / "shards" / f"{uuid.uuid4().hex}.safetensors"
        try:
            with self._lock(exclusive=False):
                sums = write_shard(file, named, about)
                self._enter(file, state, sums, row_keys)
        except OSError as error:
            raise StoreError(explain(error, self.path)) from error
        except BaseException:
            file.unlink(missing_ok=True)
            raise

    def _enter(self, file: Path, state: str, sums: Mapping[str, str], row_keys: Sequence[str]) -> None:
        whole = file_checksum(file)
        with self._database(write=True) as db:
            shard = db.execute(
                "INSERT INTO shards (file, bytes, checksum, created) VALUES (?, ?, ?, ?)",
                (file.name, file.stat().st_size, whole, time.time()),
            ).lastrowid
            for tensor, checksum in sums.items():
                column = Column.of(state, tensor)
                key = (column.state, column.site, column.layer, column.position)
                db.execute("INSERT OR IGNORE INTO columns (state, site, layer, position) VALUES (?, ?, ?, ?)", key)
                db.execute(
                    "INSERT INTO shard_columns SELECT ?, id, ? FROM columns "
                    "WHERE state = ? AND site = ? AND layer = ? AND position = ?",
                    (shard, checksum, *key),
                )
            ids = row_ids(db, row_keys)
            there = self._rows_with(db, state, sums, shard)
            places = [(shard, place, ids[key]) for place, key in enumerate(row_keys) if ids[key] not in there]
            db.executemany("INSERT INTO shard_rows VALUES (?, ?, ?)", places)
            if not places:
                db.execute("DELETE FROM shards WHERE id = ?", (shard,))
        if not places:
            file.unlink()

    @staticmethod
    def _rows_with(db: sqlite3.Connection, state: str, tensors: Iterable[str], but: int) -> set[int]:
        """Rows that another shard holds with all these columns: another process came first with them."""
        wanted = {Column.of(state, tensor) for tensor in tensors}
        held: dict[int, int] = {}
        query = "SELECT shard, state, site, layer, position FROM shard_columns JOIN columns ON columns.id = column_id"
        for shard, *column in db.execute(query + " WHERE shard != ?", (but,)):
            held[shard] = held.get(shard, 0) + (Column(*column) in wanted)
        whole = [shard for shard, n in held.items() if n == len(wanted)]
        marks = ", ".join("?" * len(whole))
        return {row for (row,) in db.execute(f"SELECT row FROM shard_rows WHERE shard IN ({marks})", whole)}

    def _map(self) -> _Map:
        """Where everything lies; read again only when shards were added or taken out, by whichever process."""
        with self._database() as db:
            version = db.execute("SELECT COUNT(*), COALESCE(MAX(id), 0) FROM shards").fetchone()
            if self._known and self._known.version == version:
                return self._known
            files = dict(db.execute("SELECT id, file FROM shards"))
            checksums: dict[Column, dict[int, str]] = {}
            query = (
                "SELECT shard, checksum, state, site, layer, position FROM shard_columns "
                "JOIN columns ON columns.id = column_id"
            )
            for shard, checksum, *column in db.execute(query):
                checksums.setdefault(Column(*column), {})[shard] = checksum
            query = "SELECT row, place FROM shard_rows WHERE shard = ? ORDER BY place"
            rows = {
                shard: np.array(db.execute(query, (shard,)).fetchall(), dtype=np.int64).reshape(-1, 2).T
                for shard in files
            }
            ids = dict(db.execute("SELECT key, id FROM rows"))
        self._known = _Map(version, ids, files, rows, checksums)
        return self._known

    def missing(self, row_keys: Iterable[str], columns: Iterable[Column]) -> list[str]:
        """The row keys, in order and without repeats, that lack at least one of the columns."""
        keys, index = list(dict.fromkeys(row_keys)), self._map()
        wanted = np.array([index.ids.get(key, 0) for key in keys], dtype=np.int64)
        whole = np.ones(len(keys), dtype=bool)
        # Columns that lie in the same shards are present for the same rows: look once for all of them.
        for shards in {frozenset(index.checksums.get(column, {})) for column in columns}:
            present = [index.rows[shard][0] for shard in shards]
            whole &= np.isin(wanted, np.concatenate(present) if present else [])
        return [key for key, there in zip(keys, whole, strict=True) if not there]

    def read_vectors(self, row_keys: Sequence[str], column: Column) -> np.ndarray:
        """Vectors of one column, float32 `[row, d_model]`, in the order of `row_keys` (repeats allowed).

        Only the one tensor of each shard concerned is mapped, one shard at a time; its checksum is compared.

        Raises:
            StoreError: a row is not there, or a shard is missing, cut off or changed on disk.
        """
        index = self._map()
        shard_of, place_of = self._places(index, row_keys, column)
        values: np.ndarray | None = None
        for shard in np.unique(shard_of):
            targets = np.flatnonzero(shard_of == shard)
            file = self.path / "shards" / index.files[shard]
            rows = read_rows(file, column.tensor, index.checksums[column][shard], place_of[targets])
            if values is None:
                values = np.empty((len(row_keys), rows.shape[1]), dtype=np.float32)
            values[targets] = rows
        return np.empty((0, self.provenance.d_model), dtype=np.float32) if values is None else values

    def _places(self, index: _Map, row_keys: Sequence[str], column: Column) -> tuple[np.ndarray, np.ndarray]:
        """Shard and place in it of each row, `[row]` both."""
        wanted = np.array([index.ids.get(key, 0) for key in row_keys], dtype=np.int64)
        shard_of, place_of = np.zeros((2, max(index.ids.values(), default=0) + 1), dtype=np.int64)
        for shard in index.checksums.get(column, {}):
            rows, places = index.rows[shard]
            shard_of[rows], place_of[rows] = shard, places
        lacking = int((shard_of[wanted] == 0).sum())
        if lacking:
            raise StoreError(
                f"Vectors of {lacking} of {len(row_keys)} rows are not in {self.path.name} for site {column.site!r}, "
                f"layer {column.layer}, position {column.position!r}"
                + (f", state {column.state!r}" if column.state else "")
                + ". Run cache_activations for these prompts, layers and positions first."
            )
        return shard_of[wanted], place_of[wanted]
