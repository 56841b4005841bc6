"""What a model said and what was said of it: completions and verdicts as rows of a store's index."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

from workbench.index import row_ids


class Answers:
    """The part of a store that keeps completions and verdicts; whoever mixes it in gives the index."""

    def _database(self, write: bool = False) -> AbstractContextManager:
        raise NotImplementedError

    def add_completions(self, state: str, settings: str, completions: Mapping[str, dict]) -> None:
        """Keep completions: row key -> {completion, n_new_tokens, finish, trace}. A row that is there stays."""
        with self._database(write=True) as db:
            ids = row_ids(db, list(completions))
            db.executemany(
                "INSERT OR IGNORE INTO completions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        ids[key],
                        state,
                        settings,
                        c["completion"],
                        c["n_new_tokens"],
                        c["finish"],
                        json.dumps(c.get("trace") or {}),
                        time.time(),
                    )
                    for key, c in completions.items()
                ],
            )

    def read_completions(self, row_keys: Iterable[str], state: str, settings: str) -> dict[str, dict]:
        """The completions that are kept, row key -> {completion, n_new_tokens, finish, trace}."""
        wanted = set(row_keys)
        with self._database() as db:
            kept = db.execute(
                "SELECT key, completion, n_new_tokens, finish, trace FROM completions JOIN rows ON rows.id = row "
                "WHERE state = ? AND settings = ?",
                (state, settings),
            ).fetchall()
        names = ("completion", "n_new_tokens", "finish")
        return {
            key: dict(zip(names, rest[:3], strict=True)) | {"trace": json.loads(rest[3])}
            for key, *rest in kept
            if key in wanted
        }

    def add_verdicts(self, judge: str, verdicts: Mapping[str, dict]) -> None:
        """Keep verdicts: reply key -> {verdict, raw, reason, reply_language}; a later one replaces an earlier one."""
        names = ("verdict", "raw", "reason", "reply_language")
        with self._database(write=True) as db:
            db.executemany(
                "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(key, judge, *(v.get(name) for name in names), time.time()) for key, v in verdicts.items()],
            )

    def read_verdicts(self, reply_keys: Iterable[str], judge: str) -> dict[str, dict]:
        """The verdicts of a judge that are kept, reply key -> {verdict, raw, reason, reply_language}."""
        wanted = set(reply_keys)
        names = ("verdict", "raw", "reason", "reply_language")
        with self._database() as db:
            kept = db.execute(f"SELECT reply, {', '.join(names)} FROM verdicts WHERE judge = ?", (judge,)).fetchall()
        return {key: dict(zip(names, rest, strict=True)) for key, *rest in kept if key in wanted}
