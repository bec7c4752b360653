"""A program in its own pty, with the time of its output and its CPU time."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyte

TICK = 0.05
"""Seconds between two blocks on a slow line."""
GAP = 0.4
"""Seconds without output after which a screen is complete: a busy line has no such gap."""
QUERY, ANSWER = b"\x1b[?2026$p", b"\x1b[?2026;2$y"
"""The query for synchronized output and its answer: terminals support it, and every frame then has its marks."""


class Session:
    """A running program; everything it writes is recorded with its time."""

    def __init__(
        self,
        command: Sequence[str],
        size: tuple[int, int] = (160, 45),
        env: Mapping[str, str] | None = None,
        rate: int | None = None,
    ) -> None:
        self.rate = rate
        """Bytes per second of the line; None: unlimited."""
        self._lock = threading.Lock()
        self.shown = bytearray()
        self.arrived: list[tuple[int, float]] = []
        """(total bytes, time) after each block."""
        self.screen = pyte.Screen(*size)
        self._stream, self._drawn = pyte.ByteStream(self.screen), 0
        self.started = time.perf_counter()
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        own = {"TERM": "xterm-256color", "COLORTERM": "truecolor", **(env or {})}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | own, start_new_session=True
        )
        os.close(theirs)
        self.woken = threading.Condition(self._lock)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                block = os.read(self.ours, int(self.rate * TICK) if self.rate else 1 << 16)
            except OSError:
                return
            if QUERY in block:
                os.write(self.ours, ANSWER)
            with self.woken:
                self.shown += block
                self.arrived.append((len(self.shown), time.perf_counter()))
                self.woken.notify_all()
            if self.rate:
                time.sleep(len(block) / self.rate)

    def written(self) -> int:
        """Bytes written so far."""
        with self._lock:
            return len(self.shown)

    def until(self, mark: bytes, since: int = 0, seconds: float = 60.0) -> float:
        """`perf_counter` when the mark was shown, after the first `since` bytes.

        The mark may arrive as text, or as changed cells: then the screen shows it.
        """
        deadline, looked = time.perf_counter() + seconds, since
        while True:
            with self.woken:
                while len(self.shown) <= looked and self.woken.wait(deadline - time.perf_counter()):
                    pass
                looked, when = self.arrived[-1] if self.arrived else (0, self.started)
                mark_written = self.shown.find(mark, since) >= 0
            if mark_written or mark.decode() in self.text():
                return when
            if time.perf_counter() > deadline:
                raise TimeoutError(f"no {mark!r} in {seconds} s; the screen:\n{self.text()}")

    def settled(self, since: int, seconds: float = 60.0) -> float:
        """`perf_counter` of the last byte before a gap, after the first `since` bytes."""
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            time.sleep(TICK)
            with self._lock:
                count, when = self.arrived[-1] if self.arrived else (0, self.started)
            if count > since and time.perf_counter() - when >= GAP:
                return when
        raise TimeoutError(f"output has not ended in {seconds} s; the screen:\n{self.text()}")

    def text(self) -> str:
        """Text of the screen."""
        with self._lock:
            fresh, self._drawn = bytes(self.shown[self._drawn :]), len(self.shown)
        self._stream.feed(fresh)
        return "\n".join(self.screen.display)

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def cpu_seconds(self) -> float:
        """CPU seconds used, all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak(self) -> int:
        """Peak resident set so far, bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) << 10

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.ours)
