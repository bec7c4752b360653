"""Shared by attacks in a terminal: an isolated environment, checks of the terminal, a report."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from hostile import HIDDEN, OURS, SENT
from screen import Terminal

STRING_COUNT = 64
"""Number of strings drawn."""
MODES = (1049, 1000, 1002, 1003, 1006, 2004, 1004)
"""Alternate screen, mouse, bracketed paste, focus: must be off after a command has ended."""
MAX_SECONDS = 20.0
"""For a command that loads no model."""


@dataclass
class Report:
    """Number of attempts, and the failures."""

    counts: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, kind: str, case: str, wrong: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if wrong:
            self.failures.append((f"{kind}: {case}", wrong))
        print(f"{'FAILED' if wrong else 'ok':<7}{kind}: {case}{f': {wrong}' if wrong else ''}"[:400], flush=True)

    def table(self) -> str:
        lines = ["| attack | attempts | failures |", "|---|---:|---:|"]
        for kind, count in self.counts.items():
            lines.append(f"| {kind} | {count} | {sum(label.startswith(f'{kind}: ') for label, _ in self.failures)} |")
        return "\n".join([*lines, "", *(f"- {label}: {wrong}" for label, wrong in self.failures)])


def isolated_environment(folder: Path) -> dict[str, str]:
    """Environment variables with which nothing of the user is read or written."""
    names = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "FTBENCH_RUNS", "FTBENCH_LOCKS", "HF_HOME")
    (folder / "tmp").mkdir(exist_ok=True)
    folders = {name: str(folder / name.lower()) for name in names}
    return {**folders, "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1", "EDITOR": "true"}


CSI, OSC = ("\x1b[", "\x9b"), ("\x1b]", "\x9d")
"""Introducers of a control sequence and of an operating system command."""
TERMINATORS = ("\x07", "\x1b\\", "\x9c", "")
"""Ends of a control string; the last one is unterminated."""


def draw_strings(rng: random.Random, count: int = STRING_COUNT) -> list[str]:
    """Control sequences by their grammar (ECMA-48, xterm, kitty, tmux) and hidden characters by Unicode properties."""
    finals = "@ABCDEFGHIJKLMPSTXZ`abcdefghilmnpqrstuxyz{|}~"
    hidden = [chr(code) for code in range(0x80, 0x110000) if HIDDEN.match(chr(code)) and not 0xD800 <= code < 0xE000]

    def draw_string(number: int) -> str:
        numbers = ";".join(str(rng.randrange(3000)) for _ in range(rng.randrange(5)))
        csi = f"{rng.choice(['', '?', '>', '=', '<'])}{numbers}{rng.choice(['', ' ', '$', '!', chr(34)])}"
        kinds = [
            lambda: f"{rng.choice(CSI)}{csi}{rng.choice(finals)}",
            lambda: f"{rng.choice(OSC)}{rng.randrange(2000)};x{rng.choice(TERMINATORS)}",
            lambda: f"\x1b{rng.choice('PX^_')}{rng.randrange(99)}q{rng.choice(TERMINATORS)}",
            lambda: f"\x1b{rng.choice('78=>cDEHMNOZlmno|}~')}",
            lambda: f"\x1b{rng.choice('()*+-./#% ')}{rng.choice('0AB@GFK8')}",
            lambda: "".join(chr(rng.randrange(1, 32)) for _ in range(4)) + "\x7f",
            lambda: "".join(rng.choice(hidden) for _ in range(6)),
            lambda: "a" + "".join(rng.choice("\u0301\ufe0f\u200d\U000e0101\u3164\u034f") for _ in range(5)),
        ]
        return f"K{number}k{kinds[number % len(kinds)]()}K{number}k{rng.choice(kinds)()}"

    return [draw_string(number) for number in range(count)]


def raw_output(terminal: Terminal, given: list[str]) -> str:
    """A description of output that is neither visible text nor a sequence of ftbench; '' without one."""
    shown = OURS.sub(b"", terminal.bytes).decode("utf-8", "surrogateescape")
    if (left := HIDDEN.search(SENT.sub("", shown))) is not None:
        text = SENT.sub("", shown)
        return f"raw {left.group()!r} in {text[max(0, left.start() - 30) : left.start() + 30]!r}"
    raw = [sequence for sequence in given if HIDDEN.search(sequence) and sequence in shown]
    if raw:
        return f"written unescaped: {raw[0]!r}"
    return "a traceback" if "Traceback (most" in shown else ""


def modes_left_on(terminal: Terminal) -> str:
    """A description of terminal modes that are still set; '' without one."""
    on = [mode for mode in MODES if mode << 5 in terminal.screen.mode]
    if on:
        return f"modes {on} are on"
    if terminal.screen.cursor.hidden:
        return "the cursor is hidden"
    return ""


def wait_for_end(terminal: Terminal, seconds: float = MAX_SECONDS) -> str:
    """Wait until the process ends; '' or an error if it does not."""
    try:
        terminal.leave(seconds)
    except AssertionError:
        terminal.process.kill()
        terminal.process.wait()
        return f"still running after {seconds:.0f} s"
    return ""


def walk(terminal: Terminal, keys: list[str], given: list[str]) -> str:
    """Open the bench, press the keys, leave; returns what is wrong, '' for nothing."""
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
    return wrong or raw_output(terminal, given) or modes_left_on(terminal)


def leave(terminal: Terminal) -> str:
    """Press escape and q until the bench ends; with a pause, because escape followed by a letter is another key."""
    deadline = time.monotonic() + MAX_SECONDS
    while terminal.process.poll() is None and time.monotonic() < deadline:
        for key in ("escape", "q"):
            if terminal.process.poll() is None:
                terminal.press(key)
                terminal.read(1.0)
    return wait_for_end(terminal, 1.0)
