"""After every way of leaving the bench, the terminal is restored and runs continue."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from screen import Terminal

from engine.config import preset_library
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from tui.app import EXIT_SIGNALS

MODES = {
    b"\x1b[?1049h": b"\x1b[?1049l",  # the alternate screen
    b"\x1b[?1000h": b"\x1b[?1000l",  # the mouse
    b"\x1b[?1003h": b"\x1b[?1003l",
    b"\x1b[?1006h": b"\x1b[?1006l",
    b"\x1b[?2004h": b"\x1b[?2004l",  # bracketed paste
    b"\x1b[?1004h": b"\x1b[?1004l",  # focus
    b"\x1b[?25l": b"\x1b[?25h",  # the cursor
    b"\x1b[?7l": b"\x1b[?7h",  # line wrap
}
"""Terminal modes that the bench sets, and the sequences that reset them."""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    """A run that looks active: this process holds its lock."""
    run = run_dir.create(tmp_path / "runs", "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    held = locks.acquire(run.lock_file, str(os.getpid()))
    assert held is not None
    run.events_file.write_text('{"type":"phase","name":"training","v":1,"seq":1,"t":1.0}\n')
    yield run
    os.close(held)


def open_bench(run: RunDir, tmp_path: Path, *arguments: str, **env: str) -> Terminal:
    terminal = Terminal("--runs", str(run.path.parent), *arguments, cwd=tmp_path, env=env)
    terminal.wait("training")
    return terminal


def read_to_end(terminal: Terminal) -> None:
    """Read the output until the process has ended."""
    deadline = time.monotonic() + 120
    while terminal.process.poll() is None:
        assert time.monotonic() < deadline, terminal.text
        terminal.read(0.05)
    terminal.read(0.1)


def modes_left_on(shown: bytes) -> list[bytes]:
    """Modes that were set and not reset."""
    return [on for on, off in MODES.items() if shown.rfind(on) > shown.rfind(off)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_restores_the_terminal(number: signal.Signals, run: RunDir, tmp_path: Path) -> None:
    """Four of `EXIT_SIGNALS` are sent; /proc shows that the bench has a handler for each of them."""
    terminal = Terminal("--runs", str(run.path.parent), cwd=tmp_path)
    before = termios.tcgetattr(terminal.theirs)
    terminal.wait("training")
    assert modes_left_on(terminal.bytes)
    (caught,) = re.findall(r"SigCgt:\s(\w+)", Path(f"/proc/{terminal.process.pid}/status").read_text())
    assert [other for other in EXIT_SIGNALS if not int(caught, 16) >> other - 1 & 1] == []
    os.kill(terminal.process.pid, number)
    read_to_end(terminal)
    assert termios.tcgetattr(terminal.theirs) == before
    assert terminal.leave() == 128 + number
    assert modes_left_on(terminal.bytes) == []
    assert f"{run.name} continues".encode() in terminal.bytes
    assert run.is_active()


def test_ctrl_c_says_how_to_leave(run: RunDir, tmp_path: Path) -> None:
    bench = open_bench(run, tmp_path)
    bench.press("\x03")
    bench.wait("Press q to detach")
    bench.press("P")
    bench.wait("presets; yours")
    bench.press("\x03")
    bench.wait("Press escape, then q to detach")
    assert bench.process.poll() is None
    bench.press("escape", "q")
    assert bench.leave() == 0


def test_a_suspended_bench_restores_the_terminal_and_redraws_when_continued(run: RunDir, tmp_path: Path) -> None:
    bench = open_bench(run, tmp_path)
    state = Path(f"/proc/{bench.process.pid}/stat")
    for _ in range(3):
        os.write(bench.ours, b"m")  # the bench draws: the signal may interrupt a write
        os.kill(bench.process.pid, signal.SIGTSTP)
        bench.wait(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")  # stopped
        bench.read(0.2)
        assert modes_left_on(bench.bytes) == []
        os.kill(bench.process.pid, signal.SIGCONT)
        bench.wait(lambda: modes_left_on(bench.bytes) != [])
    bench.press("q")
    assert bench.leave() == 0
    assert modes_left_on(bench.bytes) == []


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.2])
def test_a_signal_while_opening_leaves_no_mode_set(moment: float, run: RunDir, tmp_path: Path) -> None:
    """From the first mode that is set: before, the signal's default action ends a process that has changed nothing."""
    terminal = Terminal("--runs", str(run.path.parent), cwd=tmp_path)
    terminal.wait(lambda: b"\x1b[?1049h" in terminal.bytes)
    terminal.read(moment)
    os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.leave() == 128 + signal.SIGTERM
    assert modes_left_on(terminal.bytes) == []
    assert f"{run.name} continues".encode() in terminal.bytes


FAILING = """
import sys
from tui.start import main

def fail(*given, **options):
    raise RuntimeError("an error of the test")

%s = fail
sys.argv = ["ftbench", "--runs", sys.argv[1]]
sys.exit(main())
"""
FAILURES = {
    "reading input": "import tui.terminal_input as module; module.TerminalInput.feed",
    "handling a key": "import tui.screens.bench_actions as module; module.BenchScreen.action_runs",
}
"""Where an error ends the bench -> what fails at the next key."""


@pytest.mark.parametrize("where", FAILURES)
def test_an_error_restores_the_terminal_and_is_the_exit_status(where: str, run: RunDir, tmp_path: Path) -> None:
    terminal = Terminal("-c", FAILING % FAILURES[where], str(run.path.parent), cwd=tmp_path, program=sys.executable)
    before = termios.tcgetattr(terminal.theirs)
    terminal.wait("training")
    os.write(terminal.ours, b"r")
    read_to_end(terminal)
    assert termios.tcgetattr(terminal.theirs) == before
    assert terminal.leave() == 1 and modes_left_on(terminal.bytes) == []
    assert "an error of the test" in terminal.text


STUCK = """
import sys, termios, time, tty
from tui import terminal
terminal.BLOCKED_SECONDS, terminal.BUSY_SECONDS = 0.2, 0.6
forced = terminal.ForcedExit()
sys.stdin.readline()  # the test has read the terminal's attributes
tty.setraw(0)
sys.stderr.write("%s")
sys.stderr.flush()
forced.schedule(143)
time.sleep(600)
"""


def test_an_app_that_does_not_end_is_ended_with_the_terminal_restored(tmp_path: Path) -> None:
    program = STUCK % b"".join(MODES).decode().replace("\x1b", "\\x1b")
    terminal = Terminal("-c", program, cwd=tmp_path, program=sys.executable)
    before = termios.tcgetattr(terminal.theirs)
    terminal.press("enter")
    terminal.wait(lambda: modes_left_on(terminal.bytes))
    read_to_end(terminal)
    assert termios.tcgetattr(terminal.theirs) == before
    assert terminal.leave() == 143 and modes_left_on(terminal.bytes) == []


@pytest.mark.parametrize("controlling", [True, False])
def test_a_closed_terminal_ends_only_the_bench(controlling: bool, run: RunDir, tmp_path: Path) -> None:
    """With SIGHUP from the kernel, and without: as under a program that does not make it the controlling terminal."""
    terminal = Terminal("--runs", str(run.path.parent), cwd=tmp_path, controlling=controlling)
    terminal.wait("training")
    terminal.read(0.5)
    terminal.hang_up()  # waits until the process has ended
    assert run.is_active()


def test_a_terminal_that_is_not_read_does_not_prevent_the_end(run: RunDir, tmp_path: Path) -> None:
    """A frozen connection: output blocks, and SIGTERM must still end the bench."""
    terminal = open_bench(run, tmp_path)
    for width in (100, 120, 90, 110) * 12:  # each redraw is about 10 KB, which nobody reads
        terminal.resize(width, 36)
        time.sleep(0.05)
    os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.process.wait(120) == 128 + signal.SIGTERM
    os.close(terminal.ours)
    os.close(terminal.theirs)
    assert run.is_active()


def test_a_terminal_that_closes_while_output_is_blocked_ends_the_bench(run: RunDir, tmp_path: Path) -> None:
    terminal = Terminal("--runs", str(run.path.parent), cwd=tmp_path, controlling=False)
    terminal.wait("training")
    for width in (100, 120, 90, 110) * 15:  # fills the pty, then the 30 frames of Textual's queue: the event loop waits
        terminal.resize(width, 36)
        time.sleep(0.15)
    os.close(terminal.theirs)
    os.close(terminal.ours)
    assert terminal.process.wait(120) == 128 + signal.SIGHUP
    assert run.is_active()


def shown_in(run: RunDir, tmp_path: Path, *arguments: str, **env: str) -> bytes:
    """All output of a bench that is opened and left."""
    terminal = open_bench(run, tmp_path, *arguments, **env)
    terminal.press("q")
    assert terminal.leave() == 0
    return terminal.bytes


def test_no_color_sends_no_color_and_no_mouse_option_never_enables_the_mouse(run: RunDir, tmp_path: Path) -> None:
    shown = shown_in(run, tmp_path, "--no-mouse", NO_COLOR="1")
    assert b"\x1b[?1000h" not in shown and b"\x1b[?1003h" not in shown
    attributes = re.findall(rb"\x1b\[([0-9;]*)m", shown)
    assert attributes
    for numbers in attributes:
        assert not [n for n in numbers.split(b";") if n and (30 <= int(n) <= 38 or 40 <= int(n) <= 48 or int(n) >= 90)]


def test_an_encoding_without_unicode_gets_ascii(run: RunDir, tmp_path: Path) -> None:
    assert max(shown_in(run, tmp_path, LC_ALL="en_US.ISO-8859-1", PYTHONIOENCODING="latin-1")) <= 0x7E


@pytest.mark.parametrize("term", ["xterm", "linux"])
def test_terminals_with_sixteen_colors_get_no_others(term: str, run: RunDir, tmp_path: Path) -> None:
    """And the Linux console, whose fonts have few symbols, ASCII."""
    shown = shown_in(run, tmp_path, TERM=term, COLORTERM="")
    assert b"38;2;" not in shown and b"38;5;" not in shown
    assert term != "linux" or max(shown) <= 0x7E
