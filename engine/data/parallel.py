"""Process the batches of a dataset in child processes, with results in the order of the batches.

Every process reads the complete source and processes every n-th batch: reading is cheap compared to tokenizing, and no
rows are sent between processes. Processes are forked, ignore Ctrl-C (the parent ends them) and exit with the parent.

A single batch is processed in a child as well, because chat templates are third-party code, and Python cannot interrupt
a C function or bound the memory that it takes. In a child the kernel does both: a timer of CPU time whose signal ends
the process, and a limit on its address space, which Python reports as MemoryError. Templates are rendered nowhere else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from engine.config.errors import ErrorParts, RunFailed, UserError

Item = TypeVar("Item")
Done = TypeVar("Done")

BATCH = 1024
"""Rows per batch."""
WORTH_SEVERAL = 20_000
"""Rows from which several processes are faster than one."""
MAX_PROCESSES = 8
"""With more processes, reading in each of them takes longer than they save."""

TEMPLATE_SECONDS = 5.0
"""Maximum CPU time of a chat template for one row; templates take about 0.0001 s."""
MEAN_SECONDS, COUNTED_ROWS = 0.25, 20
"""Maximum mean CPU time per row, once this many rows have been rendered: a day for 350,000 rows."""
TEMPLATE_BYTES = 2 << 30
"""Memory that rendering a batch may add. The longest row has 16 MiB, and Python takes up to 4 bytes per character."""
TIMED_OUT = "template.timeout"
"""Code of the error where SIGPROF, the timer of CPU time, has ended a child process."""
_HINT = "`--set model.chat_template=FILE` with a template without endless loops and huge values"


def processes_for(rows: int) -> int:
    """The number of processes for tokenizing this many rows."""
    return min(MAX_PROCESSES, len(os.sched_getaffinity(0))) if rows >= WORTH_SEVERAL else 1


def batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Lists of BATCH items; the last one may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch


def in_child(work: Callable[[], Done]) -> Done:
    """The result of `work` in a child process. Raises as `in_order`."""
    return next(in_order(lambda: iter([None]), lambda _: work(), 1))


def in_order(batches: Callable[[], Iterator[Item]], work: Callable[[Item], Done], processes: int) -> Iterator[Done]:
    """Apply `work` to each batch, with results in order. `batches` runs in every process and must be deterministic.

    Raises UserError as `work` and `batches` do and for a chat template that exceeds a limit, RuntimeError for their
    other exceptions, and RunFailed if a process is killed.
    """
    if _child is not None:
        yield from map(work, batches())
        return
    context, parent = multiprocessing.get_context("fork"), os.getpid()
    children: list[_Child] = []

    def run(number: int, end: Connection, others: list[Connection]) -> None:
        global _child
        # A process with an open read end of a pipe would block its writer after the parent has exited.
        for other in others:
            other.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        _child = _TemplateLimits(lambda name: end.send(("template", name)))
        with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
            try:
                for batch in islice(batches(), number, None, processes):
                    end.send(("done", work(batch)))
                    if os.getppid() != parent:
                        return
                end.send(("end",))
            except UserError as error:
                end.send(("user error", ErrorParts.of(error)))
            except Exception:  # noqa: BLE001 - reported in the parent process
                end.send(("error", traceback.format_exc()))

    try:
        for number in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            ends = [*(child.end for child in children), ours]
            process = context.Process(target=run, args=(number, theirs, ends), daemon=True, name=f"prepare-{number}")
            process.start()
            theirs.close()
            children.append(_Child(process, ours))
        turn = 0
        while (message := children[turn % processes].receive())[0] != "end":
            kind, content = message
            if kind == "user error":
                raise content.error()
            if kind == "error":
                raise RuntimeError(content)
            yield content
            turn += 1
    finally:
        for child in children:
            child.end.close()
            child.process.kill()
            child.process.join()


@dataclass
class _Child:
    """A child process, as its parent knows it."""

    process: BaseProcess
    end: Connection
    template: str = ""
    """The chat template that it renders."""

    def receive(self) -> tuple[Any, ...]:
        """The next message about a batch."""
        try:
            while (message := self.end.recv())[0] == "template":
                self.template = message[1]
        except EOFError as error:
            self.process.join()
            status = self.process.exitcode or 0
            if status == -signal.SIGPROF:
                problem = f"the chat template took more than {TEMPLATE_SECONDS:g} s for one row"
                raise UserError(problem, self.template, _HINT, code=TIMED_OUT) from None
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise RunFailed(f"a data preparation process exited unexpectedly ({how})", "data.process_died") from error
        return message


class _TemplateLimits:
    """The limits of chat templates in this child process, and the CPU time that they took."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.announce, self.template = announce, ""
        self.seconds, self.rows = 0.0, 0

    def run(self, work: Callable[[], Done], where: str) -> Done:
        if where != self.template:
            self.announce(where)
            self.template = where
        signal.setitimer(signal.ITIMER_PROF, TEMPLATE_SECONDS)
        try:
            return work()
        except (OverflowError, MemoryError, RecursionError) as error:
            raise _over_limit(error, where) from error
        finally:
            self.seconds += TEMPLATE_SECONDS - signal.setitimer(signal.ITIMER_PROF, 0)[0]
            self.rows += 1
            if self.rows >= COUNTED_ROWS and self.seconds > MEAN_SECONDS * self.rows:
                problem = f"the chat template takes {self.seconds / self.rows:.1f} s of CPU time per row"
                raise UserError(problem, where, _HINT, code="template.slow")


_child: _TemplateLimits | None = None
"""None in a process that is no child of `in_order`."""


def run_template(work: Callable[[], Done], where: str) -> Done:
    """Call `work`, which compiles or renders the chat template `where`, inside `template_memory` in a child process.

    Raises UserError if it takes too long on average or exceeds a limit of memory or recursion. The process ends if it
    takes too long for one row; its parent raises the error.
    """
    assert _child is not None, "chat templates are rendered only in child processes"
    return _child.run(work, where)


@contextlib.contextmanager
def template_memory(where: str) -> Iterator[None]:
    """Context in which this child process may take TEMPLATE_BYTES more memory. Raises UserError if it needs more.

    The limit is not on while rows are read and tokenized: other libraries abort the process if they get no memory.
    """
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = size + TEMPLATE_BYTES
    allowed = most if before[0] == resource.RLIM_INFINITY else min(most, before[0])
    resource.setrlimit(resource.RLIMIT_AS, (allowed, before[1]))
    try:
        yield
    except MemoryError as error:
        raise _over_limit(error, where) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _over_limit(error: BaseException, where: str) -> UserError:
    problem = f"the chat template exceeds a limit ({' '.join(str(error).split()) or type(error).__name__})"
    return UserError(problem, where, _HINT, code="template.limit")
