"""Whose turn it is: one run holds a card, the others wait in the order in which they came.

A waiting run holds a ticket: a locked file beside the card's lock, whose name sorts by the time it came. The kernel
drops the lock of a process that died, and a ticket that nobody holds counts for nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from engine.runs import locks

STALE_SECONDS = 60.0
"""A ticket that nobody holds is cleared away at this age: a younger one may be in the making."""


class Turn(NamedTuple):
    """One run's place at one card."""

    card: str
    place: int
    """0 has the card, 1 is next."""
    pid: int
    run: Path


def wait_turn(
    card: str, came: float, run: Path, tell: Callable[[str], None], asked: Callable[[], bool], seconds: float = 0.5
) -> bool:
    """Hold the card for the life of this process; False where a stop was `asked` for first.

    `came` (Unix seconds) decides the order; equal times are ordered by process. `tell` hears every change of place.
    """
    lock, words, told = locks.card_lock(card), f"{os.getpid()} {run}", ""
    with _ticket(lock, came, words) as own:
        while True:
            before = [turn for ticket, turn in _waiting(lock) if ticket.name < own.name]
            if not before and locks.hold(lock, words) is not None:
                return True
            holder = _read(locks.holder(lock))
            note = _note(card, before, holder)
            if note != told:
                tell(note)
                told = note
            if asked():
                return False
            time.sleep(seconds)


def turns() -> list[Turn]:
    """Everybody's place at every card of this machine: card by card, its holder first."""
    found = []
    for lock, card in locks.card_locks():
        if (held := locks.holder(lock)) is not None:
            pid, run = _read(held)
            found.append(Turn(card, 0, pid, run))
        found += [Turn(card, place, pid, run) for place, (_, (pid, run)) in enumerate(_waiting(lock), 1)]
    return found


@contextlib.contextmanager
def _ticket(lock: Path, came: float, words: str) -> Iterator[Path]:
    folder = _folder(lock)
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{round(came * 1e6):020}-{os.getpid()}"
    held = locks.hold(path, words)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


def _waiting(lock: Path) -> list[tuple[Path, tuple[int, Path]]]:
    """Tickets that somebody holds, first come first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(_folder(lock).iterdir()):
            held = locks.holder(path)
            if held is not None:
                found.append((path, _read(held)))
            else:
                _clear(path)
    return found


def _clear(path: Path) -> None:
    """A dead process's ticket."""
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            path.unlink()


def _folder(lock: Path) -> Path:
    return lock.with_suffix(".queue")


def _read(words: str | None) -> tuple[int, Path]:
    pid, _, run = (words or "").partition(" ")
    return locks.pid_of(pid) or 0, Path(run)


def _note(card: str, before: list[tuple[int, Path]], holder: tuple[int, Path]) -> str:
    """`next at card 0; 2026…-3f2a has it (process 17)`."""
    where = "the CPU" if card == "cpu" else f"card {card}"
    pid, run = holder
    name = run.name or "another run"
    has = f"{name} has it (process {pid})" if pid else "it is being freed"
    if not before:
        return f"next at {where}; {has}"
    return f"place {len(before) + 1} at {where}, behind {before[-1][1].name}; {has}"
