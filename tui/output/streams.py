"""stdout and stderr with control characters escaped, for everything that prints to them."""

from __future__ import annotations

import codecs
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from engine.config.text import visible

REPLACEMENTS = {
    "-": "⋅─╌╍┄┅┈┉╴╶╸╺╼╾–—‐‑−▔▃🭶🭻",
    "|": "│┃║╎╏┆┇┊┋╵╷╹╻╽╿▏▎▍▕▐▌▋▊▉┤",
    "+": "┌┍┎┏┐┑┒┓└┕┖┗┘┙┚┛├┝┞┟┠┡┢┣┥┦┧┨┩┪┫┬┭┮┯┰┱┲┳┴┵┶┷┸┹┺┻┼╀╂╋╭╮╯╰╔╗╚╝╠╣╦╩╬✓✔▅",
    "#": "█▇▙▟▛▜■▮",
    "=": "━═▄▀▬≡▓",
    ":": "▒▖▗▘▝▚▞",
    ".": "·░▂",
    "*": "•●◆★∙▆",
    "o": "○◯◦°",
    "u": "µμ",
    ">": "≥▸▶►→❯›»⏵",
    "<": "≤◂◀◄←❮‹«⏴",
    "^": "▲△↑⌃⏶▴",
    "v": "▼▽↓⌄⏷▾",
    "x": "✗✘×✕✖",
    "~": "…±≈",
    "'": "‘’‛′`",
    '"': "“”„″",
    "$": "⏎↵⌫",
    "_": "␣▁",
}
"""ASCII character -> similar characters that ftbench and Textual draw.

Marks that stand for different things in one bar, list or chart differ in ASCII too.
"""
ASCII = {ord(shape): plain for plain, shapes in REPLACEMENTS.items() for shape in shapes}


def literal(text: str) -> str:
    """The text with every control or invisible character except line feeds escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "\n".join(map(visible, text.split("\n")))


class EscapingStream(io.TextIOBase):
    """A text stream that escapes control characters, for `print`, help pages and tracebacks.

    It has no `buffer`, so that nothing can bypass it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.raw_stream = stream
        """The stream that accepts control sequences, for this package only."""

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
    """Replace stdout and stderr by streams that accept any text, also if they are closed or limited in encoding."""
    codecs.register_error("substitute", _substitute)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if isinstance(stream, EscapingStream):
            continue
        if stream is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="substitute")
        setattr(sys, name, EscapingStream(stream))


def raw(stream: Any) -> Any:
    """The stream behind an EscapingStream."""
    return stream.raw_stream if isinstance(stream, EscapingStream) else stream


def write(text: str) -> None:
    """Write text to stdout, line feeds preserved."""
    raw(sys.stdout).write(literal(text))


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON as printable ASCII."""
    import json  # not needed for the first paint

    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def write_error(text: str) -> None:
    """Write one line to stderr."""
    raw(sys.stderr).write(f"{visible(text)}\n")
    raw(sys.stderr).flush()


def write_help(text: str) -> None:
    """Write a help page to stderr, for an incomplete command line."""
    raw(sys.stderr).write(f"{literal(text)}\n")


def use_ascii() -> None:
    codecs.register_error("substitute", _substitute)
    for stream in (raw(sys.stdout), raw(sys.stderr)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="ascii", errors="substitute")


def flush() -> None:
    if sys.stdout:
        sys.stdout.flush()


def discard() -> None:
    """Discard buffered output after the reader has closed the pipe, so that it is not written at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_terminal() -> bool:
    """Whether both stdin and stdout are terminals."""
    return bool(sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty())


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].replace("→", "->").translate(ASCII)
    return text.encode("ascii", "backslashreplace").decode(), error.end
