"""What reviewers say of translations: a file of lines beside a study, and the `review` column it gives a prompt table.

A line is one review of one prompt by one reviewer, as JSON. Lines are only ever added, each is on the disk before the
next begins, and the last of a reviewer counts. A prompt's id hashes its text, so a review never outlives an edit of it.
"""

from __future__ import annotations

import errno
import json
import os
from itertools import combinations
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from workbench.errors import PromptError
from workbench.rows import REVIEWS

REVIEW_COLUMNS = ("prompt_id", "dataset", "language", "review", "reviewer", "reason", "time")
"""The columns of a table of reviews.

review: one of `rows.REVIEWS`, or missing where the reviewer could not say. reason: why missing, or what is wrong. time:
when, UTC.
"""

_WITHDRAWN = "withdrawn"


def add_review(file: Path | str, prompts: pd.DataFrame, review: str | None, reviewer: str, reason: str = "") -> None:
    """Add one reviewer's word on each of these prompts; on return it is on the disk.

    Args:
        file: a file of reviews, made if it is not there yet.
        prompts: rows with `prompt_id`, `dataset` and `language`; the two sides of a pair may be reviewed together.
        review: one of `REVIEWS`, or None where the reviewer cannot say.
        reviewer: name or initials.
        reason: why None, or what is wrong with the translation.

    Raises:
        PromptError: an unknown review, no name, no reason where one is needed, or a file that cannot be written.
    """
    if review is not None and review not in REVIEWS:
        raise PromptError(f"A review must be one of {', '.join(REVIEWS)}, or None; got {review!r}.")
    if review is None and not reason.strip():
        raise PromptError("A review that says nothing must have a reason; got an empty one. Say why you cannot tell.")
    _append(file, prompts, review, reviewer, reason)


def withdraw_review(file: Path | str, prompts: pd.DataFrame, reviewer: str) -> None:
    """Take back what a reviewer said of these prompts, as if it had never been said.

    Raises:
        PromptError: no name, or a file that cannot be written.
    """
    _append(file, prompts, _WITHDRAWN, reviewer, "")


def read_reviews(file: Path | str) -> pd.DataFrame:
    """The last word of each reviewer on each prompt; no rows where there is no such file yet.

    Returns:
        DataFrame with `REVIEW_COLUMNS`, in the order of the last words.

    Raises:
        PromptError: a line is not a review.
    """
    path = Path(file)
    text = path.read_bytes() if path.exists() else b""
    # What follows the last line's end is a review that never finished being written, and was never said to be kept.
    whole = text[: text.rfind(b"\n") + 1].decode("utf-8")
    lines = [_parsed(path, number, line) for number, line in enumerate(whole.split("\n"), 1) if line.strip()]
    table = pd.DataFrame(lines, columns=list(REVIEW_COLUMNS)).astype(object)
    last = table.drop_duplicates(["prompt_id", "reviewer"], keep="last")
    kept = last[last["review"] != _WITHDRAWN].reset_index(drop=True)
    return kept.assign(review=kept["review"].where(kept["review"].notna(), None))


def reviewed(prompts: pd.DataFrame, file: Path | str) -> pd.DataFrame:
    """The prompts with `review` as the file says: of several reviewers, the most severe; elsewhere as it was.

    Args:
        prompts: prompt table.
        file: a file of reviews, of this set and perhaps of others.

    Raises:
        PromptError: the file is not there, or is damaged.
    """
    if not Path(file).exists():
        raise PromptError(f"There must be a file of reviews to read; {file} is not there. Review some first.")
    said = read_reviews(file).dropna(subset="review")
    severity = said["review"].map({name: place for place, name in enumerate(REVIEWS)}).astype(int)
    worst = severity.groupby(said["prompt_id"]).max().map(dict(enumerate(REVIEWS)))
    column = prompts["prompt_id"].map(worst)
    return prompts.assign(review=column.where(column.notna(), prompts["review"]))


def review_agreement(reviews: pd.DataFrame) -> pd.DataFrame:
    """How far each pair of reviewers agrees on the prompts that both reviewed, by language and over all.

    Args:
        reviews: from `read_reviews`.

    Returns:
        `language` (`all` for all together), `a`, `b`, `n`, `n_missing` (prompts that not both gave a review), `same` (share
        of equal reviews), Cohen's `kappa` (Cohen 1960), and `reason` where it is missing.
    """
    wide = reviews.pivot(index=["language", "prompt_id"], columns="reviewer", values="review")
    rows = []
    for language in ("all", *wide.index.unique("language")):
        part = wide if language == "all" else wide.xs(language, level="language")
        rows += [
            {"language": language, "a": a, "b": b} | _agreed(part[[a, b]]) for a, b in combinations(wide.columns, 2)
        ]
    return pd.DataFrame(rows, columns=["language", "a", "b", "n", "n_missing", "same", "kappa", "reason"])


def _agreed(pair: pd.DataFrame) -> dict:
    from sklearn.metrics import cohen_kappa_score

    both = pair.dropna()
    row = {"n": len(both), "n_missing": len(pair) - len(both), "same": np.nan, "kappa": np.nan, "reason": ""}
    if both.empty:
        return row | {"reason": "no prompt was reviewed by both"}
    a, b = both.to_numpy(dtype=str).T
    row["same"] = float((a == b).mean())
    if len({*a, *b}) == 1:
        return row | {"reason": "both always say the same one thing; chance cannot be told"}
    return row | {"kappa": float(cohen_kappa_score(a, b))}


def _append(file: Path | str, prompts: pd.DataFrame, review: str | None, reviewer: str, reason: str) -> None:
    """Add a line for each prompt: all of them, and whole, or none."""
    if not reviewer.strip():
        raise PromptError("A review must have a reviewer; got an empty name. Give a name or initials.")
    said = {"review": review, "reviewer": reviewer.strip(), "reason": reason.strip()}
    now = {"time": pd.Timestamp.now("UTC").isoformat(timespec="seconds")}
    rows = prompts[["prompt_id", "dataset", "language"]].to_dict("records")
    lines = "".join(json.dumps(row | said | now, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        with open(file, "ab+", buffering=0) as out:
            _exclusively(out)
            end = _whole_end(out)
            out.truncate(end)
            try:
                if out.write(lines) < len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(out.fileno())
            except OSError:
                out.truncate(end)
                raise
    except OSError as error:
        raise PromptError(f"Reviews must be kept in a file that can be written; {file}: {error.strerror}.") from error


def _exclusively(out: BinaryIO) -> None:
    """Wait until nobody else is adding lines; the lock goes when the file is closed."""
    try:
        import fcntl
    except ImportError:  # Windows: one reviewer a file there
        return
    fcntl.flock(out, fcntl.LOCK_EX)


def _whole_end(out: BinaryIO) -> int:
    """Where the last whole line ends: what a crash left after it is half a review."""
    out.seek(0)
    return out.read().rfind(b"\n") + 1


def _parsed(path: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
        if {"prompt_id", "review", "reviewer"} - set(row):
            raise ValueError("a review must have prompt_id, review and reviewer")
    except (ValueError, TypeError) as error:
        raise PromptError(
            f"Every line of a file of reviews must be one review; line {number} of {path}: {error}. Mend or remove it."
        ) from error
    if row["review"] not in (None, _WITHDRAWN, *REVIEWS):
        raise PromptError(
            f"A review must be one of {', '.join(REVIEWS)}; line {number} of {path} says {row['review']!r}. Mend it."
        )
    return row
