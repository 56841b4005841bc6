"""What a steering bench generates: a batch of replies in the background, and a row for each that is kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from workbench.errors import WorkbenchError
from workbench.judges import Judge
from workbench.widgets.jobs import Job

if TYPE_CHECKING:
    from workbench.benches import Reply

RUN_COLUMNS = (
    *("prompt_id", "language", "text", "intervention", "strength", "completion", "n_new_tokens", "finish"),
    *("logit", "threshold", "fired", "added_norm", "projection_prompt", "projection_reply", "verdict", "reason"),
)
"""The columns of a table of runs.

projection_prompt: of the last token of the prompt. projection_reply: mean over the tokens of the reply that the model has
read. finish: `end`, `length` or `stopped`. verdict: of the bench's judge; reason: why it is missing.
"""

_EVERY = 0.08  # seconds between two looks at a reply that grows: as often as an eye can follow


class Prompt(NamedTuple):
    """What is asked: a text, and its id and language where they are known."""

    prompt_id: str
    language: str
    text: str


class Run(NamedTuple):
    """What is on while a reply is generated: an intervention and its strength; no name and 0 for the model itself."""

    name: str = ""
    strength: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}, strength {self.strength:g}" if self.name else "Default: nothing on"


@dataclass
class Batch:
    """Replies to one prompt that are generated one after the other.

    Attributes:
        prompt: what is asked.
        todo: what is on for each.
        side_by_side: shown beside one another, not along a curve.
        live: the replies so far; replaced as a whole, so that another thread may read it.
    """

    prompt: Prompt
    todo: Sequence[Run] = ()
    side_by_side: bool = True
    live: Mapping[Run, Reply] = field(default_factory=dict)


class Runs:
    """Everything that was generated; what is known is not generated again.

    Attributes:
        rows: a row of `RUN_COLUMNS` for each prompt and run.
    """

    def __init__(self, bench: Callable[[str, str, float], Iterable[Any]] | None, judge: Judge | None):
        self.bench, self.judge = bench, judge
        self.rows: Mapping[tuple[Prompt, Run], dict[str, Any]] = {}
        self._replies: dict[tuple[str, Run], Reply] = {}

    def table(self, prompt: Prompt) -> pd.DataFrame:
        """The replies to one prompt, by intervention and strength."""
        rows = pd.DataFrame(
            [row for (asked, _), row in self.rows.items() if asked == prompt], columns=list(RUN_COLUMNS)
        )
        return rows.sort_values(["intervention", "strength"], kind="stable").reset_index(drop=True)

    def reply(self, text: str, run: Run) -> Reply | None:
        """The whole reply, where there is one."""
        return self._replies.get((text, run))

    def work(self, job: Job, batch: Batch) -> None:
        """In a thread: every reply of a batch, and what the judge says of it."""
        prompt, of = batch.prompt, len(batch.todo)
        for at, run in enumerate(batch.todo):
            reply = self.reply(prompt.text, run) or self._stream(job, batch, run, at)
            self._replies[prompt.text, run] = reply
            batch.live = {**batch.live, run: reply}
            self.keep(prompt, run, reply, self._read(prompt, reply))
            job.step(at + 1, of, f"{run}: done ({at + 1} of {of})")

    def keep(self, prompt: Prompt, run: Run, reply: Reply, reading: Mapping[str, Any]) -> None:
        """Make a row of a reply."""
        self.rows = {**self.rows, (prompt, run): _row(prompt, run, reply, reading)}

    def keep_stopped(self, batch: Batch) -> None:
        """Make a row of the reply that was stopped in its middle."""
        for run, reply in batch.live.items():
            if not reply.finish:
                self.keep(batch.prompt, run, reply, {"reason": "stopped"})

    def _stream(self, job: Job, batch: Batch, run: Run, at: int) -> Reply:
        replies, looked, reply, of = self.bench(batch.prompt.text, *run), 0.0, None, len(batch.todo)
        with contextlib.closing(replies) if hasattr(replies, "close") else contextlib.nullcontext():
            for reply in replies:
                batch.live = {**batch.live, run: reply}
                if job.stopped or time.monotonic() - looked > _EVERY:
                    looked = time.monotonic()
                    job.step(at, of, f"{run}: {reply.n_new_tokens} tokens ({at + 1} of {of})")
        if reply is None or not reply.finish:
            raise WorkbenchError(
                f"A bench must yield replies, the last with its `finish`; for {str(run)!r} "
                + ("it yielded none." if reply is None else "the last had none.")
            )
        return reply

    def _read(self, prompt: Prompt, reply: Reply) -> Mapping[str, Any]:
        """The judge's reading of a reply; empty without a judge."""
        if self.judge is None:
            return {}
        if prompt.language not in self.judge.languages:
            lacks = f"does not read {prompt.language}" if prompt.language else "must be told the language of the prompt"
            return {"reason": f"{self.judge.name} {lacks}"}
        asked = pd.DataFrame([{"text": prompt.text, "language": prompt.language, "completion": reply.completion}])
        return next((batch[0] for batch in self.judge.read(asked) if 0 in batch), {})


def _row(prompt: Prompt, run: Run, reply: Reply, reading: Mapping[str, Any]) -> dict[str, Any]:
    before = [token.projection for token in reply.tokens if token.part != "reply"]
    after = np.array([token.projection for token in reply.tokens if token.part == "reply"], dtype=float)
    read = after[np.isfinite(after)]
    return {
        **prompt._asdict(),
        "intervention": run.name,
        "strength": run.strength if run.name else np.nan,
        "completion": reply.completion,
        "n_new_tokens": len(after),
        "finish": reply.finish or "stopped",
        **{key: reply.trace.get(key, np.nan) for key in ("logit", "threshold", "fired", "added_norm")},
        "projection_prompt": before[-1] if before else np.nan,
        "projection_reply": float(read.mean()) if len(read) else np.nan,
        "verdict": reading.get("verdict"),
        "reason": reading.get("reason", ""),
    }
