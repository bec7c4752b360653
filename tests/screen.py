"""A real terminal for tests: a pty with its recorded output, and the resulting screen (pyte)."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyte
from command import FTBENCH
from forked import ForkedProcess

KEYS = {"enter": "\r", "escape": "\x1b", "tab": "\t", "up": "\x1b[A", "down": "\x1b[B", "space": " "}
KEYS |= {f"ctrl+{letter}": chr(ord(letter) & 31) for letter in "abcdefghijklmnopqrstuvwxyz"}


class Terminal:
    """`ftbench ARGUMENTS` as session leader on a new pty."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: dict[str, str] | None = None,
        size: tuple[int, int] = (120, 36),
        reported: tuple[int, int] | None = None,
        controlling: bool = True,
        program: str = FTBENCH,
        forked: bool = False,
    ) -> None:
        """`reported`: another size than that of the screen. `controlling`: the kernel sends SIGHUP when the terminal
        closes. `program`: another command, such as bash. `forked`: of a process that has imported the libraries, for
        tests of what the command shows; the terminal does not control it then.
        """
        columns, lines = size
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._drawn = 0
        """How many of `bytes` the screen shows: drawing takes longer than reading, and some tests look at no screen."""
        self._text: str | None = None
        self.bytes = b""
        """All output so far."""
        self.ours, theirs = pty.openpty()
        self._set_size(*(reported or size))
        os.set_blocking(self.ours, False)
        environment = {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | (env or {})
        how: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        how |= {"cwd": cwd, "env": os.environ | environment, "start_new_session": True}
        self.process: subprocess.Popen[bytes] | ForkedProcess
        if forked:
            self.process = ForkedProcess([program, *arguments], **how)
        else:
            take_terminal = _take_terminal if controlling else None
            self.process = subprocess.Popen([program, *arguments], preexec_fn=take_terminal, **how)
        self.theirs = theirs

    @property
    def screen(self) -> pyte.Screen:
        """The screen after all output so far."""
        if self._drawn < len(self.bytes):
            self._stream.feed(self.bytes[self._drawn :])
            self._drawn = len(self.bytes)
        self._text = None  # whoever asks for the screen may change it
        return self._screen

    @property
    def text(self) -> str:
        """The characters of the screen, its lines joined by newlines."""
        if self._text is None or self._drawn < len(self.bytes):
            lines, columns = self.screen.buffer, range(self._screen.columns)  # pyte's `display` measures each character
            rows = (lines[number] for number in range(self._screen.lines))
            self._text = "\n".join("".join(row[column].data for column in columns) for row in rows)
        return self._text

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self._set_size(columns, lines)
        os.kill(self.process.pid, signal.SIGWINCH)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, *keys: str) -> None:
        """Press keys: names in KEYS, or text. Each is read by the program before the next one is pressed, and an escape
        well before, because escape and a letter at once are another key.
        """
        for key in keys:
            os.write(self.ours, KEYS.get(key, key).encode())
            deadline = time.monotonic() + 60
            while self._unread() and self.process.poll() is None and time.monotonic() < deadline:
                self.read(0.02)
            self.read(0.5 if key == "escape" else 0.15)

    def _unread(self) -> int:
        """Bytes of input that the program has not read."""
        return int(struct.unpack("i", fcntl.ioctl(self.theirs, termios.FIONREAD, bytes(4)))[0])

    def press_one_by_one(self, *keys: str) -> None:
        """Press each key when the screen shows what the one before did: a key can change what the next one means."""
        for key in keys:
            self.press(key)
            self.settle()

    def press_until(self, key: str, shows: str) -> None:
        """Press a key until the screen shows a text: a busy program may still be opening or closing another screen."""
        for _ in range(4):
            self.press(key)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                if shows in self.text:
                    return
                self.read(0.05)
        self.wait(shows)

    def read(self, seconds: float) -> None:
        """Read output for `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self._take():
                time.sleep(0.01)

    def settle(self, quiet: float = 0.4, seconds: float = 8.0) -> None:
        """Read output until the screen is the same for `quiet` seconds, at most for `seconds` (it may show a clock)."""
        deadline = time.monotonic() + seconds
        before, since = self.text, time.monotonic()
        while time.monotonic() < min(deadline, since + quiet):
            self.read(0.05)
            if self.text != before:
                before, since = self.text, time.monotonic()

    def _take(self) -> bool:
        try:
            block = os.read(self.ours, 65536)
        except (BlockingIOError, OSError):
            return False
        self.bytes += block
        return bool(block)

    def wait(self, expected: str | Callable[[], object], seconds: float = 300.0) -> None:
        """Wait until the screen shows a text, or a condition is true."""
        deadline = time.monotonic() + seconds
        while not (expected in self.text if isinstance(expected, str) else expected()):
            assert time.monotonic() < deadline, f"{expected} was not shown:\n{self.text}"
            self.read(0.05)
            assert self.process.poll() is None, f"the process ended:\n{self.text}"

    def hang_up(self) -> None:
        """Close the connection: the kernel sends SIGHUP."""
        os.close(self.ours)
        os.close(self.theirs)
        self.process.wait(120)

    def leave(self, seconds: float = 120.0) -> int:
        """Wait until the process ends, read its last output, and return its exit status."""
        deadline = time.monotonic() + seconds
        while (status := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"still running:\n{self.text}"
            self.read(0.05)
        self.read(0.1)
        os.close(self.theirs)
        os.close(self.ours)
        return status


def _take_terminal() -> None:
    """Make stdin the session's controlling terminal, so that hanging up reaches the process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
