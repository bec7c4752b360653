"""stdout and stderr behind a gate: whoever prints to them prints text, never a control sequence."""

from __future__ import annotations

import codecs
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from engine.config.text import visible

LIKE = str.maketrans(
    {"–": "-", "—": "-", "−": "-", "━": "-", "╸": "-", "╺": "-", "─": "-", "·": ".", "…": "...", "→": "->", "×": "x",
     "│": "|", "✓": "+", "✗": "x", "⏎": "$", "’": "'"}
)  # fmt: skip
"""Our own non-ASCII characters, and their substitutes where the output's encoding lacks them."""


def literal(text: str) -> str:
    """The text with every control or invisible character but the line feed written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "\n".join(map(visible, text.split("\n")))


class Gate(io.TextIOBase):
    """A text stream to the terminal for everybody else: `print`, the help pages, tracebacks.

    It has no `buffer`, so nothing gets around it to the bytes.
    """

    def __init__(self, stream: TextIO) -> None:
        self.raw_stream = stream
        """Takes control sequences: for this package's own use."""

    def write(self, text: str) -> int:
        self.raw_stream.write(literal(text))
        return len(text)

    def flush(self) -> None:
        self.raw_stream.flush()

    def isatty(self) -> bool:
        return self.raw_stream.isatty()

    def fileno(self) -> int:
        return self.raw_stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.raw_stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.raw_stream.errors


def install() -> None:
    """Put stdout and stderr behind a gate that takes every text: also where they are closed or lack our characters."""
    codecs.register_error("like", _like)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if isinstance(stream, Gate):
            continue
        if stream is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="like")
        setattr(sys, name, Gate(stream))


def raw(stream: Any) -> Any:
    """The stream behind the gate."""
    return stream.raw_stream if isinstance(stream, Gate) else stream


def write(text: str) -> None:
    """Text to stdout, its line feeds kept."""
    raw(sys.stdout).write(literal(text))


def write_error(text: str) -> None:
    """One line to stderr."""
    raw(sys.stderr).write(f"{visible(text)}\n")
    raw(sys.stderr).flush()


def write_help(text: str) -> None:
    """A help page to stderr: of a command line that lacks something."""
    raw(sys.stderr).write(f"{literal(text)}\n")


def use_ascii() -> None:
    """From here on write nothing but ASCII, whatever the terminal can show."""
    for stream in (raw(sys.stdout), raw(sys.stderr)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="ascii", errors="like")


def flush() -> None:
    if sys.stdout:
        sys.stdout.flush()


def discard() -> None:
    """Drop what is still buffered: the reader has gone, and the interpreter must not write it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_terminal() -> bool:
    """Whether a person reads and types here."""
    return bool(sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty())


def _like(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(LIKE)
    return text.encode("ascii", "backslashreplace").decode(), error.end
