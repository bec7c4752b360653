"""Time limit for chat templates, which are third-party code: an endless loop must not block a run.

On the main thread a kernel timer interrupts rendering, in Python code and in C functions that check for signals
(integer arithmetic, regular expressions). On other threads a watchdog interrupts Python code only. Both measure the CPU
time of the rendering thread, so a busy or suspended machine makes no difference. C functions that do not check for
signals are not interrupted; none in Jinja's sandbox is known to run for long.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from engine.config.errors import UserError

SECONDS = 5.0
"""Maximum CPU time per row; templates take about 0.0001 s."""
MEAN_SECONDS, COUNTED_ROWS = 0.25, 20
"""Maximum mean CPU time per row, once this many rows have been rendered: a day for 350,000 rows."""
POLL_SECONDS = 0.25
"""Interval of the watchdog."""
DO = "set model.chat_template to a template without endless loops and huge values"

T = TypeVar("T")


class Interrupted(BaseException):
    """Raised inside a template that exceeds its time. A BaseException, so that no handler in between catches it."""


class RenderingJob:
    """A template that is rendered on this thread, for at most `seconds` of CPU time."""

    def __init__(self, seconds: float) -> None:
        self.thread, self.seconds = threading.get_ident(), seconds
        self._clock = time.pthread_getcpuclockid(self.thread)
        self._begin = time.clock_gettime(self._clock)
        self.working, self.firing, self.fired = True, False, False

    def left(self) -> float:
        """Remaining seconds; all of them if its thread has ended."""
        try:
            return self.seconds - (time.clock_gettime(self._clock) - self._begin)
        except OSError:
            return self.seconds


_on_main: RenderingJob | None = None
_on_threads: list[RenderingJob] = []
_watching = False
_changing = threading.Lock()
"""Guards `_watching`: there is one watchdog while there are jobs."""


class _Spent:
    """CPU time of the templates of this process."""

    seconds = 0.0
    rows = 0

    def add(self, seconds: float, where: str) -> None:
        """Count a row. Raises UserError if the rows so far took too long on average."""
        self.seconds, self.rows = self.seconds + seconds, self.rows + 1
        if self.rows >= COUNTED_ROWS and self.seconds > MEAN_SECONDS * self.rows:
            what = f"the chat template takes {self.seconds / self.rows:.1f} s of CPU time per row"
            self.seconds, self.rows = 0.0, 0
            raise UserError(what, where, DO, code="template.slow")


_spent = _Spent()


def run_template(work: Callable[[], T], where: str) -> T:
    """Call `work`. Raises UserError if it takes too long, for a row or on average, or exceeds a limit of memory or
    recursion.
    """
    before = time.thread_time()
    rendered = _limited(work, where)
    _spent.add(time.thread_time() - before, where)
    return rendered


def _limited(work: Callable[[], T], where: str) -> T:
    try:
        return _on_main_thread(work) if threading.current_thread() is threading.main_thread() else _on_a_thread(work)
    except Interrupted:
        what = f"the chat template took more than {SECONDS:g} s for one row"
        raise UserError(what, where, DO, code="template.timeout") from None
    except (OverflowError, MemoryError, RecursionError) as error:
        what = f"the chat template exceeds a limit ({' '.join(str(error).split()) or type(error).__name__})"
        raise UserError(what, where, DO, code="template.limit") from error


def _on_main_thread(work: Callable[[], T]) -> T:
    global _on_main
    if signal.getsignal(signal.SIGVTALRM) is not _alarm:
        signal.signal(signal.SIGVTALRM, _alarm)
    _on_main = RenderingJob(SECONDS)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        return work()
    finally:
        _on_main = None
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _alarm(number: int, frame: Any) -> None:
    """The timer measures all threads of the process: check the time of this thread."""
    if _on_main is None:
        return
    if (left := _on_main.left()) > 0:
        signal.setitimer(signal.ITIMER_VIRTUAL, max(left, 0.01))
        return
    raise Interrupted


def _on_a_thread(work: Callable[[], T]) -> T:
    global _watching
    job = RenderingJob(SECONDS)
    with _changing:
        _on_threads.append(job)
        if not _watching:
            _watching = True
            threading.Thread(target=_watch, daemon=True, name="watch templates").start()
    try:
        return work()
    finally:
        job.working = False
        try:
            while job.firing and not job.fired:  # the exception was sent: it must be raised here and not later
                time.sleep(0)
        finally:
            _on_threads.remove(job)


def _watch() -> None:
    global _watching
    while True:
        with _changing:
            if not _on_threads:
                _watching = False
                return
        for job in [job for job in _on_threads if not job.fired and job.left() <= 0]:
            job.firing = True
            if job.working:
                raises = ctypes.pythonapi.PyThreadState_SetAsyncExc
                raises(ctypes.c_ulong(job.thread), ctypes.py_object(Interrupted))
            job.fired = True
        time.sleep(POLL_SECONDS)
