"""Which token of a running batch is what: prompt, last of the prompt, generated, or padding.

Whoever runs a batch says how it is laid out (`run_batch`); what steers the model follows along. Columns are counted from
the start of the sequence, keys and values of earlier passes included, so that the same layout holds with a cache and
without, padded on either side.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from workbench.errors import WorkbenchError, nearest

if TYPE_CHECKING:
    from jaxtyping import Bool
    from transformer_lens.model_bridge import TransformerBridge

SCOPES = ("all", "last_prompt", "last_prompt_then_generated", "generated")
"""Tokens an intervention acts on. In the prefill: all tokens of the prompt; its last one; its last one; none. In every
later step: the generated token; none; the generated token; the generated token. Padding is in no scope."""


class InterventionError(WorkbenchError):
    """An intervention does not belong here, or touched nothing."""


def check_scope(scope: str) -> str:
    """The scope, if it is one.

    Raises:
        InterventionError: it is none of `SCOPES`.
    """
    if scope not in SCOPES:
        raise InterventionError(f"tokens must be one of {', '.join(SCOPES)}; got {scope!r}. {nearest(scope, SCOPES)}")
    return scope


@dataclass(frozen=True)
class Layout:
    """Where the rows of a batch have their prompts.

    Attributes:
        first: column of each row's first token, `[row]`.
        last: column of its last prompt token, `[row]`.
        width: columns from here on are generated; what lies between `last` and here is padding.
        whole: False where the last prompt tokens are run in another batch, as when a prefix is run once for all.
        keys: names of the rows; empty where nobody said.
    """

    first: torch.Tensor
    last: torch.Tensor
    width: int
    whole: bool = True
    keys: tuple[str, ...] = ()

    @classmethod
    def padded_left(cls, lengths: Sequence[int], device: torch.device, keys: Sequence[str] = ()) -> Layout:
        """Prompts that end in the same column and are generated from."""
        width = max(lengths)
        first = torch.tensor([width - n for n in lengths], device=device)
        return cls(first, torch.full_like(first, width - 1), width, keys=tuple(keys))

    @classmethod
    def padded_right(cls, last: torch.Tensor, keys: Sequence[str] = ()) -> Layout:
        """Prompts that begin in column 0 and end in column `last`, `[row]`; nothing is generated."""
        return cls(torch.zeros_like(last), last, sys.maxsize, keys=tuple(keys))

    @classmethod
    def prefix(cls, device: torch.device) -> Layout:
        """One row of tokens that many prompts begin with."""
        return cls(torch.zeros(1, dtype=torch.long, device=device), _far(1, device), sys.maxsize, whole=False)

    def before_last(self) -> Layout:
        """The same rows, run up to the token before the last one."""
        return replace(self, whole=False)

    def repeat(self, copies: int) -> Layout:
        """Every row so many times, copies together."""
        keys = tuple(key for key in self.keys for _ in range(copies))
        first, last = (t.repeat_interleave(copies) for t in (self.first, self.last))
        return replace(self, first=first, last=last, keys=keys)

    def keep(self, rows: torch.Tensor) -> Layout:
        """Only these rows, `[kept]`."""
        keys = tuple(self.keys[i] for i in rows.tolist()) if self.keys else ()
        return replace(self, first=self.first[rows], last=self.last[rows], keys=keys)


def _far(rows: int, device: torch.device) -> torch.Tensor:
    return torch.full((rows,), 2**31 - 1, dtype=torch.long, device=device)


@dataclass(frozen=True)
class Tokens:
    """What the tokens of one forward pass are: columns `start` to `start + n` of a layout."""

    layout: Layout
    start: int
    n: int

    @cached_property
    def prompt(self) -> Bool[torch.Tensor, "row token"]:
        """Tokens of the prompt, `[row, token]`."""
        return (self._columns >= self.layout.first[:, None]) & (self._columns <= self.layout.last[:, None])

    @cached_property
    def last(self) -> Bool[torch.Tensor, "row token"]:
        """The last token of the prompt, `[row, token]`; nothing where another pass has it."""
        return self._columns == self.layout.last[:, None]

    @property
    def has_prompt(self) -> bool:
        """Whether the pass holds tokens of the prompt."""
        return self.start < self.layout.width

    @property
    def has_last(self) -> bool:
        """Whether the pass holds the last token of every prompt."""
        return self.has_prompt and self.layout.whole

    def within(self, scope: str) -> Bool[torch.Tensor, "row token"] | None:
        """Tokens in a scope, `[row, token]`; None where the pass can hold none."""
        inside = self._before(scope)
        if scope != "last_prompt" and self.start + self.n > self.layout.width:
            inside = self._generated if inside is None else inside | self._generated
        return inside

    def _before(self, scope: str) -> torch.Tensor | None:
        if not self.has_prompt or scope == "generated":
            return None
        if scope == "all":
            return self.prompt
        return self.last if self.layout.whole else None

    @cached_property
    def _generated(self) -> torch.Tensor:
        return (self._columns >= self.layout.width).expand(len(self.layout.first), -1)

    @cached_property
    def _columns(self) -> torch.Tensor:
        return torch.arange(self.start, self.start + self.n, device=self.layout.first.device)[None]


# --- the batch that is running ---------------------------------------------------------------------------------------


@runtime_checkable
class Follower(Protocol):
    """What wants to know of every batch: a running `steer`."""

    reads_ahead: bool

    def begin(self, layout: Layout) -> None:
        """A batch begins."""

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""

    def end(self, excused: bool) -> list[dict[str, Any]]:
        """The batch has ended: what was done to each of its rows."""

    def abort(self) -> None:
        """The batch was broken off."""


_followers: weakref.WeakKeyDictionary[Any, dict[int, list[Follower]]] = weakref.WeakKeyDictionary()


def followers(model: TransformerBridge) -> list[Follower]:
    """What is steering the model in this thread, outermost first."""
    return _followers.setdefault(model, {}).setdefault(threading.get_ident(), [])


def reads_ahead(model: TransformerBridge) -> bool:
    """Whether something on acts on tokens before one that it reads: then prompts must be run whole, not in parts."""
    return any(f.reads_ahead for f in followers(model))


@dataclass
class Batch:
    """A batch that is running.

    Attributes:
        excused: set where every row ended before a generated token was run: steering of generated tokens then rightly
            touched nothing.
        trace: after the end, what was done to each row; an empty dictionary where nothing was on.
    """

    following: list[Follower]
    n: int
    excused: bool = False
    trace: list[dict[str, Any]] = field(default_factory=list)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows of the batch go on, in this order."""
        for follower in self.following:
            follower.keep(rows)


@contextlib.contextmanager
def run_batch(model: TransformerBridge, layout: Layout) -> Iterator[Batch]:
    """Say how the passes made inside are laid out, to everything that steers the model in this thread.

    Raises:
        InterventionError: at the end, if something that is on touched nothing.
    """
    batch = Batch(list(followers(model)), len(layout.first))
    try:
        for follower in batch.following:
            follower.begin(layout)
        yield batch
    except BaseException:
        for follower in batch.following:
            follower.abort()
        raise
    done = [follower.end(batch.excused) for follower in batch.following]
    batch.trace = [_joined([rows[i] for rows in done]) for i in range(batch.n)]


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trace of a row under several things at once: the first decision, and the mean size over all that was touched."""
    told = [part for part in parts if part]
    if not told:
        return {}
    decided = next((part for part in told if "fired" in part), {})
    touched = sum(part["touched"] for part in told)
    size = sum(part["added_norm"] * part["touched"] for part in told)
    about = {name: decided[name] for name in ("logit", "threshold", "fired") if name in decided}
    return about | {"added_norm": size / touched if touched else 0.0}
