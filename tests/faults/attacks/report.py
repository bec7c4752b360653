"""What attacks have in common: a world to break, a terminal to look at, a report."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from hostile import HIDDEN, OURS, SENT
from screen import Terminal

ATTEMPTS = 64
"""Strings drawn."""
MODES = (1049, 1000, 1002, 1003, 1006, 2004, 1004)
"""Alternate screen, mouse, pasting, focus: off when a command has gone."""
TOO_LONG = 20.0
"""Seconds for a command that has nothing to load."""


@dataclass
class Report:
    """What was tried and what broke a promise."""

    counts: dict[str, int] = field(default_factory=dict)
    broken: list[tuple[str, str]] = field(default_factory=list)

    def tried(self, kind: str, what: str, wrong: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if wrong:
            self.broken.append((f"{kind}: {what}", wrong))
        print(f"{'BROKEN' if wrong else 'ok':<7}{kind}: {what}{f': {wrong}' if wrong else ''}"[:400], flush=True)

    def table(self) -> str:
        lines = ["| attack | tries | broke a promise |", "|---|---:|---:|"]
        for kind, count in self.counts.items():
            lines.append(f"| {kind} | {count} | {sum(what.startswith(f'{kind}: ') for what, _ in self.broken)} |")
        return "\n".join([*lines, "", *(f"- {what}: {wrong}" for what, wrong in self.broken)])


def world(folder: Path) -> dict[str, str]:
    """An environment in which nothing of the user's is read or written."""
    names = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "FTBENCH_RUNS", "FTBENCH_LOCKS", "HF_HOME")
    (folder / "tmp").mkdir(exist_ok=True)
    own = {name: str(folder / name.lower()) for name in names}
    return {**own, "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1", "EDITOR": "true"}


BEGINS, STRINGS = ("\x1b[", "\x9b"), ("\x1b]", "\x9d")
"""Of a control sequence, and of an operating system command."""
ENDS = ("\x07", "\x1b\\", "\x9c", "")
"""Of a control string; the last has none."""


def draw_strings(rng: random.Random, count: int = ATTEMPTS) -> list[str]:
    """Control sequences by their grammar (ECMA-48, xterm, kitty, tmux), hidden characters by Unicode's properties."""
    finals = "@ABCDEFGHIJKLMPSTXZ`abcdefghilmnpqrstuxyz{|}~"
    hidden = [chr(code) for code in range(0x80, 0x110000) if HIDDEN.match(chr(code)) and not 0xD800 <= code < 0xE000]

    def one(number: int) -> str:
        numbers = ";".join(str(rng.randrange(3000)) for _ in range(rng.randrange(5)))
        csi = f"{rng.choice(['', '?', '>', '=', '<'])}{numbers}{rng.choice(['', ' ', '$', '!', chr(34)])}"
        kinds = [
            lambda: f"{rng.choice(BEGINS)}{csi}{rng.choice(finals)}",
            lambda: f"{rng.choice(STRINGS)}{rng.randrange(2000)};x{rng.choice(ENDS)}",
            lambda: f"\x1b{rng.choice('PX^_')}{rng.randrange(99)}q{rng.choice(ENDS)}",
            lambda: f"\x1b{rng.choice('78=>cDEHMNOZlmno|}~')}",
            lambda: f"\x1b{rng.choice('()*+-./#% ')}{rng.choice('0AB@GFK8')}",
            lambda: "".join(chr(rng.randrange(1, 32)) for _ in range(4)) + "\x7f",
            lambda: "".join(rng.choice(hidden) for _ in range(6)),
            lambda: "a" + "".join(rng.choice("\u0301\ufe0f\u200d\U000e0101\u3164\u034f") for _ in range(5)),
        ]
        return f"K{number}k{kinds[number % len(kinds)]()}K{number}k{rng.choice(kinds)()}"

    return [one(number) for number in range(count)]


def harm(terminal: Terminal, given: list[str]) -> str:
    """What reached the terminal that is neither text nor ours."""
    shown = OURS.sub(b"", terminal.bytes).decode("utf-8", "surrogateescape")
    if (left := HIDDEN.search(SENT.sub("", shown))) is not None:
        text = SENT.sub("", shown)
        return f"a raw {left.group()!r} in {text[max(0, left.start() - 30) : left.start() + 30]!r}"
    raw = [one for one in given if HIDDEN.search(one) and one in shown]
    if raw:
        return f"arrived as it was: {raw[0]!r}"
    return "a traceback" if "Traceback (most" in shown else ""


def left_behind(terminal: Terminal) -> str:
    """What the terminal still has switched, by what it shows (pyte) and by its settings."""
    on = [mode for mode in MODES if mode << 5 in terminal.screen.mode]
    if on:
        return f"modes {on} are on"
    if terminal.screen.cursor.hidden:
        return "the cursor is hidden"
    return ""


def over(terminal: Terminal, seconds: float = TOO_LONG) -> str:
    """Wait until it ends; what is wrong with how."""
    try:
        terminal.leave(seconds)
    except AssertionError:
        terminal.process.kill()
        terminal.process.wait()
        return f"still running after {seconds:.0f} s"
    return ""


def walk(terminal: Terminal, keys: list[str], given: list[str]) -> str:
    """Press the keys from an open bench on, then leave; what is wrong."""
    try:
        terminal.wait("detach", 60.0)
        for key in keys:
            if key == "wait":
                terminal.read(2.0)
            else:
                terminal.press(key)
        wrong = leave(terminal)
    except (AssertionError, OSError) as error:
        wrong = str(error).splitlines()[0]
    if terminal.process.poll() is None:
        terminal.process.kill()
        terminal.process.wait()
    return wrong or harm(terminal, given) or left_behind(terminal)


def leave(terminal: Terminal) -> str:
    """Escape until the bench is there, and q; apart, for escape and a letter at once are another key."""
    deadline = time.monotonic() + TOO_LONG
    while terminal.process.poll() is None and time.monotonic() < deadline:
        for key in ("escape", "q"):
            if terminal.process.poll() is None:
                terminal.press(key)
                terminal.read(1.0)
    return over(terminal, 1.0)
