"""A question to the engine: one short-lived process that may import what the screen must not.

The question's arguments go in as JSON on stdin; the answer comes out as JSON lines, progress first.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from engine.contract.errors import RunFailed, UserError

Counted = Callable[[str, int, int | None], None]
"""Takes what is being done, the number of rows done, and of how many: None where that is not known yet."""


class Left(Exception):
    """Whoever asked no longer wants to know."""


class Leaving:
    """Gives a question up from another thread: its process is killed, and `ask` raises Left."""

    def __init__(self) -> None:
        self.left = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def leave(self) -> None:
        with self._lock:
            self.left = True
            if self._process is not None:
                self._process.kill()

    def hold(self, process: subprocess.Popen[bytes]) -> None:
        """The process that answers; killed at once where the question has been left before it began."""
        with self._lock:
            self._process = process
            if self.left:
                process.kill()


def ask(
    question: str,
    arguments: dict[str, Any],
    progress: Callable[[str], None] | None = None,
    leaving: Leaving | None = None,
    counted: Counted | None = None,
) -> Any:
    """Run `python -m engine.answer QUESTION` and return its answer.

    `progress` is told what is being done, `counted` also how many rows of how many; without `counted` the numbers are
    part of the text.
    Raises UserError for what the answerer refuses, RunFailed where it breaks and Left where `leaving` gave it up.
    """
    content = msgspec.json.encode(arguments)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.answer", question],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"},
        )
        if leaving:
            leaving.hold(process)
        assert process.stdin and process.stdout
        try:
            with contextlib.suppress(BrokenPipeError):  # it has gone: what it said last is looked at below
                process.stdin.write(content)
                process.stdin.close()
            answer = None
            for line in process.stdout:
                message = msgspec.json.decode(line)
                if "progress" in message:
                    _tell(message, progress, counted)
                answer = message if "progress" not in message else answer
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if leaving and leaving.left:
            raise Left
        if answer is None:
            errors.seek(0)
            tail = errors.read().decode("utf-8", "replace").strip().splitlines()[-1:] or [
                f"exit status {process.returncode}"
            ]
            raise RunFailed(f"{question} broke: {tail[0]}")
    if "error" in answer:
        error = answer["error"]
        raise UserError(error["what"], error["where"], error["do"], error.get("code", ""))
    return answer["answer"]


def _tell(message: dict[str, Any], progress: Callable[[str], None] | None, counted: Counted | None) -> None:
    text, done, total = message["progress"], message.get("done"), message.get("total")
    if done is not None and counted:
        counted(text, done, total)
    elif progress:
        progress(text if done is None else f"{text}: {rows_done(done, total)}")


def rows_done(done: int, total: int | None) -> str:
    """`12,000 of 100,000 rows`."""
    return f"{done:,}{f' of {total:,}' if total is not None else ''} rows"
