"""A slow function in a process of its own, so that stopping it stops it at once, whatever library it is in."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from workbench.errors import WorkbenchError
from workbench.widgets.jobs import Job

_POLL = 0.2
"""Seconds between two looks at whether it was stopped."""


def in_process(job: Job, words: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """`call(*arguments)` in a fresh process, from the thread of a job; what it raises is raised here.

    Args:
        job: says how long it has run, and ends the process where it was stopped.
        words: what is being done.
        call: a function of a module, with arguments that can be pickled to another process.
        arguments: of the function.

    Raises:
        WorkbenchError: the process ended without a result, as where memory runs out.
    """
    # A fresh interpreter, not a fork: forking a kernel with running threads may lock for ever.
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, call, arguments), daemon=True)
    began = time.monotonic()
    process.start()
    theirs.close()
    try:
        while not ours.poll(_POLL):
            job.step(0.0, words=f"{words}: {time.monotonic() - began:.0f} s so far")
        found, error = ours.recv()
    except EOFError:
        raise WorkbenchError(
            f"{words}: the process must hand back a result; it ended without one, most likely for lack of memory. "
            "Use fewer prompts."
        ) from None
    finally:
        process.terminate()
        process.join()
        ours.close()
    if error is not None:
        raise error
    return found


def _answer(pipe: Connection, call: Callable[..., Any], arguments: tuple) -> None:
    try:
        answer = call(*arguments), None
    except Exception as error:
        answer = None, error
    pipe.send(answer)
