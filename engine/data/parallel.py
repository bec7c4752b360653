"""Process the batches of a dataset in several processes, with results in the order of the batches.

Every process reads the complete source and processes every n-th batch: reading is cheap compared to tokenizing, and no
rows are sent between processes. Processes are forked, ignore Ctrl-C (the parent ends them) and exit with the parent.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from engine.config.errors import RunFailed, UserError

Item = TypeVar("Item")
Done = TypeVar("Done")

BATCH = 1024
"""Rows per batch."""
WORTH_FORKING = 20_000
"""Rows from which several processes are faster than one."""
MAX_PROCESSES = 8
"""With more processes, reading in each of them takes longer than they save."""


def processes_for(rows: int) -> int:
    """The number of processes for tokenizing this many rows."""
    if rows < WORTH_FORKING or not sys.platform.startswith("linux"):
        return 1
    return min(MAX_PROCESSES, len(os.sched_getaffinity(0)))


def batched(items: Iterable[Item], size: int = BATCH) -> Iterator[list[Item]]:
    """Lists of `size` items; the last one may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def in_order(batches: Callable[[], Iterator[Item]], work: Callable[[Item], Done], processes: int) -> Iterator[Done]:
    """Apply `work` to each batch, with results in order. `batches` runs in every process and must be deterministic.

    Raises what `work` or `batches` raise, and RunFailed if a process is killed.
    """
    if processes == 1:
        yield from map(work, batches())
        return
    workers: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
    try:
        for number in range(processes):
            workers.append(_start(batches, work, number, processes, [end for _, end in workers]))
        turn = 0
        while (message := _receive(*workers[turn % processes]))[0] != "end":
            yield _result(message)
            turn += 1
    finally:
        for process, end in workers:
            end.close()
            process.kill()
            process.join()


def _start(
    batches: Callable[[], Iterator[Item]],
    work: Callable[[Item], Done],
    number: int,
    processes: int,
    others: list[Connection],
) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    parent = os.getpid()

    def run() -> None:
        # A process with an open read end of a pipe would block its writer after the parent has exited.
        for end in (*others, ours):
            end.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
            for message in _messages(batches, work, number, processes):
                theirs.send(message)
                if os.getppid() != parent:
                    return

    process = context.Process(target=run, daemon=True, name=f"prepare-{number}")
    process.start()
    theirs.close()
    return process, ours


def _messages(
    batches: Callable[[], Iterator[Item]], work: Callable[[Item], Done], number: int, processes: int
) -> Iterator[tuple[Any, ...]]:
    """("done", result) for each batch of this process, then ("end",); a UserError as its parts, else a traceback."""
    try:
        for batch in islice(batches(), number, None, processes):
            yield "done", work(batch)
        yield ("end",)
    except UserError as error:
        yield "user error", error.what, error.where, error.do, error.code
    except Exception:  # noqa: BLE001 - reported in the parent process
        yield "error", traceback.format_exc()


def _receive(process: multiprocessing.process.BaseProcess, end: Connection) -> tuple[Any, ...]:
    try:
        return end.recv()
    except EOFError as error:
        process.join()
        status = process.exitcode or 0
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise RunFailed(f"a data preparation process exited unexpectedly ({how})", "data.process_died") from error


def _result(message: tuple[Any, ...]) -> Any:
    kind, *content = message
    if kind == "user error":
        what, where, do, code = content
        raise UserError(what, where, do, code=code)
    if kind == "error":
        raise RuntimeError(content[0])
    return content[0]
