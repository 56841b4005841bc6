"""Looking after a store: what is kept, whether it is as it was written, and taking things out."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import StoreError, nearest
from workbench.shards import damaged, file_checksum

if TYPE_CHECKING:
    from workbench.provenance import Provenance


class Upkeep:
    """The part of a store that looks after it; whoever mixes it in gives the folder, the index and the model."""

    path: Path
    provenance: Provenance

    def _database(self, write: bool = False) -> AbstractContextManager:
        raise NotImplementedError

    def add_stamp(self, report: dict) -> None:
        """Keep the report of a check of freshly written vectors against a recomputation."""
        with self._database(write=True) as db:
            db.execute("INSERT INTO stamps (created, report) VALUES (?, ?)", (time.time(), json.dumps(report)))

    def stamps(self) -> list[dict]:
        """The reports of such checks, oldest first."""
        with self._database() as db:
            return [json.loads(text) for (text,) in db.execute("SELECT report FROM stamps ORDER BY id")]

    def summary(self) -> dict:
        """Counts and bytes of what is kept."""
        with self._database() as db:
            count = {
                name: db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]
                for name in ("rows", "shards", "columns", "completions", "verdicts")
            }
        size = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        return {"model": self.provenance.name, **count, "states": self.states(), "bytes": size, "path": str(self.path)}

    def verify(self) -> list[str]:
        """Read every shard and compare it with its recorded checksum; what is wrong, in words, empty if nothing is."""
        with self._database() as db:
            shards = db.execute("SELECT file, checksum FROM shards ORDER BY file").fetchall()
            problems = [f"index: {line}" for (line,) in db.execute("PRAGMA integrity_check") if line != "ok"]
        for file, checksum in shards:
            path = self.path / "shards" / file
            if not path.exists():
                problems.append(damaged(path, "it is not there"))
            elif file_checksum(path) != checksum:
                problems.append(damaged(path, "its checksum is not the recorded one"))
        return problems

    def remove(self, state: str) -> dict[str, int]:
        """Remove what was made under one state, vectors and completions; returns counts of both.

        Raises:
            StoreError: nothing was made under it; the message names the states there are.
        """
        if state not in self.states():
            raise StoreError(
                f"A state must be there to be removed; nothing in {self.path.name} was made under {state!r}. "
                + nearest(state, self.states())
            )
        with self._database(write=True) as db:
            files = {
                file
                for (file,) in db.execute(
                    "SELECT DISTINCT file FROM shards JOIN shard_columns ON shard = shards.id "
                    "JOIN columns ON columns.id = column_id WHERE state = ?",
                    (state,),
                )
            }
            db.executemany("DELETE FROM shards WHERE file = ?", [(file,) for file in files])
            db.execute("DELETE FROM columns WHERE state = ?", (state,))
            n = db.execute("DELETE FROM completions WHERE state = ?", (state,)).rowcount
        # The index first: a file without an entry is a leftover that carries its own rows, an entry without a file damage.
        for file in files:
            (self.path / "shards" / file).unlink(missing_ok=True)
        return {"shards": len(files), "completions": n}

    def states(self) -> list[str]:
        """What was on while vectors or completions were made; empty text for the model itself."""
        with self._database() as db:
            return [
                s for (s,) in db.execute("SELECT state FROM columns UNION SELECT state FROM completions ORDER BY 1")
            ]

    def repair(self) -> list[str]:
        """Take damaged shards out of the index (their rows will be computed again); returns their file names."""
        with self._database() as db:
            files = [file for (file,) in db.execute("SELECT file FROM shards")]
        problems = self.verify()
        broken = [file for file in files if any(file in problem for problem in problems)]
        with self._database(write=True) as db:
            db.executemany("DELETE FROM shards WHERE file = ?", [(file,) for file in broken])
        for file in broken:
            path = self.path / "shards" / file
            if path.exists():
                path.rename(path.with_suffix(".damaged"))
        return broken
