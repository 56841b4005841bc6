"""Labels by people: verdicts like any other judge's, kept at once in the store, with who gave them and when.

The judge of a label is `human:<annotator>`. A label belongs to a prompt and its reply, not to the model or the
intervention that gave it, so that who labels need not know them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import pandas as pd

from workbench.errors import JudgeError, nearest
from workbench.index import transaction
from workbench.judges import FIELDS, check_columns, reading, reply_keys, stores_of, verdict_table
from workbench.store import Store
from workbench.verdicts import VERDICTS

HUMAN = "human:"
"""What the name of a judge begins with that is a person."""

UNSURE = "unsure"
"""What a person says who cannot tell; kept as a missing verdict with this reason."""

CHOICES = (*VERDICTS, UNSURE)
"""What a person may say of a reply."""


def add_label(
    completion: Mapping | pd.Series, verdict: str, annotator: str, *, note: str = "", store: Store | None = None
) -> dict:
    """Keep a person's verdict on one reply, safely on disk when this returns.

    A second label by the same person takes the place of the first, which stays in the history of the row.

    Args:
        completion: one row of a table from `complete` or `read_completions`.
        verdict: one of `CHOICES`.
        annotator: the person's name or initials, without colon.
        note: what the person wants to say.
        store: by default the store of the model that made the reply, or one made for models that are not here.

    Returns:
        What is kept: `verdict`, `raw` (JSON with `annotator`, `time` in UTC, `note` and `earlier` labels), `reason`,
        `reply_language`.

    Raises:
        JudgeError: the verdict or the name cannot be, or the row is not one of completions.
        StoreError: it could not be written.
    """
    if verdict not in CHOICES:
        raise JudgeError(f"A label must be one of {', '.join(CHOICES)}; got {verdict!r}. {nearest(verdict, CHOICES)}")
    judge = _judge(annotator)
    row = pd.DataFrame([dict(completion)])
    check_columns(row, "text")
    store = store or stores_of(row["model"][0], make=True)[0]
    (key,) = reply_keys(row, with_prompt=True)
    said = {"annotator": annotator, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "note": note}
    last = store.read_verdicts([key], judge).get(key)
    said["earlier"] = _earlier(last) if last else []
    kept = reading(None if verdict == UNSURE else verdict, json.dumps(said, ensure_ascii=False))
    kept["reason"] = UNSURE if verdict == UNSURE else ""
    store.add_verdicts(judge, {key: kept})
    return {field: kept[field] for field in FIELDS}


def read_labels(
    completions: pd.DataFrame, annotators: list[str] | None = None, *, store: Store | None = None
) -> pd.DataFrame:
    """The labels that people gave to these replies.

    Args:
        completions: a table from `complete` or `read_completions`.
        annotators: whose; by default everybody's.
        store: by default the stores of the models that made the replies.

    Returns:
        A table of verdicts as `judge` gives it, one row per label and none for replies without one, with `annotator` and
        `time` (UTC) beside.

    Raises:
        JudgeError: columns are missing, or a name cannot be.
    """
    check_columns(completions, "text")
    wanted = None if annotators is None else [_judge(name) for name in annotators]
    parts = []
    for model, rows in completions.groupby("model", sort=False):
        keys = reply_keys(rows, with_prompt=True)
        stores = [store] if store else stores_of(model)
        for judge in wanted if wanted is not None else sorted({name for kept in stores for name in _people(kept)}):
            found: dict[str, dict] = {}
            for kept in reversed(stores):  # the model's own has the last word
                found |= kept.read_verdicts(keys, judge)
            labelled = [key in found for key in keys]
            parts.append(verdict_table(rows[labelled], judge, [found[key] for key in keys if key in found]))
    empty = verdict_table(completions.iloc[:0], "", [])
    table = pd.concat(parts, ignore_index=True) if parts else empty
    said = [json.loads(raw) for raw in table["raw"]]
    return table.assign(
        annotator=pd.Series([s["annotator"] for s in said], dtype=object),
        time=pd.to_datetime(pd.Series([s["time"] for s in said], dtype=object), utc=True, format="ISO8601"),
    )


def history(label: Mapping | pd.Series) -> list[dict]:
    """The earlier labels of a row of `read_labels`, oldest first, each with `verdict`, `time` and `note`."""
    return json.loads(label["raw"])["earlier"]


def _judge(annotator: str) -> str:
    if not annotator.strip() or annotator != annotator.strip() or ":" in annotator or not annotator.isprintable():
        raise JudgeError(f"An annotator must have a name on one line without colon; got {annotator!r}.")
    return HUMAN + annotator


def _earlier(last: Mapping) -> list[dict]:
    said = json.loads(last["raw"])
    given = {"verdict": last["verdict"] or last["reason"], "time": said["time"], "note": said["note"]}
    return [*said["earlier"], given]


def _people(store: Store) -> list[str]:
    """The judges of a store that are people."""
    with transaction(store.path / "index.sqlite") as db:
        names = [name for (name,) in db.execute("SELECT DISTINCT judge FROM verdicts")]
    return [name for name in names if name.startswith(HUMAN)]
