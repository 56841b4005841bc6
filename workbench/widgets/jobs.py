"""Slow work in the background of a widget: it says what it does, can be stopped, and hands its result to the main thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from workbench.widgets.controls import button, row


class Stopped(Exception):  # noqa: N818
    """Raised inside a job that was asked to stop; never shown."""


class Job:
    """What a background function is given.

    Attributes:
        words: what it does, for the reader.
    """

    def __init__(self, words: str, tell: Callable[[float, str], None]):
        self.words, self._tell, self._stop = words, tell, threading.Event()

    def step(self, done: float, of: float = 1.0, words: str = "") -> None:
        """Say how far the work is, and leave it if it was stopped.

        Raises:
            Stopped: somebody pressed Stop; let it pass.
        """
        if self._stop.is_set():
            raise Stopped
        self._tell(done / of if of else 0.0, words or self.words)

    def stop(self) -> None:
        """Ask the work to end at its next step."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether it was asked to end."""
        return self._stop.is_set()


class JobBar(widgets.VBox):
    """A progress bar with words and a stop button, hidden while nothing runs; one job at a time.

    Results and errors are handed over on the event loop of the kernel's main thread, so that widgets are never changed
    from two threads. Without a running loop (scripts, tests) `wait` hands them over.
    """

    def __init__(self) -> None:
        self.bar = widgets.FloatProgress(min=0.0, max=1.0, description="")
        self.label = widgets.Label("")
        self.stop_button = button("Stop", "Stop the work in the background", icon="stop")
        self.stop_button.on_click(lambda _: self.stop())
        super().__init__([row(self.bar, self.label, self.stop_button)])
        self.layout.display = "none"
        self.job: Job | None = None
        self._thread: threading.Thread | None = None
        self._waiting: deque[Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def running(self) -> bool:
        """Whether work is under way or its result not yet handed over."""
        return self.job is not None

    def start(
        self,
        words: str,
        work: Callable[[Job], Any],
        done: Callable[[Any], None],
        failed: Callable[[BaseException], None],
    ) -> Job:
        """Run `work` in a thread; a job under way is stopped first and its result dropped."""
        self.stop()
        self._loop = _running_loop()
        job = Job(words, lambda share, said: self._post(lambda: self._show(job, share, said)))
        self.job = job
        self.bar.value, self.label.value, self.layout.display = 0.0, words, ""
        self.stop_button.disabled = False
        self._thread = threading.Thread(target=self._run, args=(job, work, done, failed), daemon=True)
        self._thread.start()
        return job

    def stop(self) -> None:
        """Stop what runs; it ends at its next step and its result is dropped."""
        if self.job is not None:
            self.job.stop()
            self._end(self.job)

    def wait(self, timeout: float = 60.0) -> None:
        """Wait for the work and hand its result over here; for scripts and tests."""
        if self._thread is not None:
            self._thread.join(timeout)
            assert not self._thread.is_alive(), f"the job still runs after {timeout} s"
        self._drain()

    def _run(self, job: Job, work: Callable, done: Callable, failed: Callable) -> None:
        try:
            result = work(job)
        except Stopped:
            self._post(lambda: self._end(job))
        except BaseException as error:
            caught = error
            self._post(lambda: self._finish(job, failed, caught))
        else:
            self._post(lambda: self._finish(job, done, result))

    def _finish(self, job: Job, call: Callable[[Any], None], value: Any) -> None:
        if job is self.job and not job.stopped:
            self._end(job)
            call(value)

    def _end(self, job: Job) -> None:
        if job is self.job:
            self.job, self.layout.display = None, "none"

    def _show(self, job: Job, share: float, words: str) -> None:
        if job is self.job:
            self.bar.value, self.label.value = min(max(share, 0.0), 1.0), words

    def _post(self, call: Callable[[], None]) -> None:
        self._waiting.append(call)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        while self._waiting:
            self._waiting.popleft()()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
