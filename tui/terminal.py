"""What reaches the terminal: only cells that changed, no control characters, and in ASCII mode only ASCII.

The terminal's modes are restored even if the event loop does not end.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import sys
import termios
import threading
import time
import unicodedata
from functools import lru_cache
from typing import Any, NamedTuple

from rich.cells import cell_len, get_character_cell_size, set_cell_size
from rich.console import RenderableType
from rich.segment import Segment
from textual import constants
from textual.app import App
from textual.color import Color
from textual.drivers.linux_driver import LinuxDriver
from textual.filter import LineFilter
from textual.notifications import Notify
from textual.screen import ModalScreen, Screen

from engine.config.text import visible
from tui.output.streams import ASCII
from tui.terminal_input import TerminalInput


class ControlCharacterFilter(LineFilter):
    """Line filter that Textual applies to every widget of every screen, borders and titles included.

    Widgets escape their text themselves, so that the layout is right. Text that a widget missed is escaped here and
    cut to the same number of cells, so that the rest of the line does not move.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment
            if segment.control or (shown := visible(segment.text)) == segment.text
            else Segment(set_cell_size(shown, cell_len(segment.text)), segment.style)
            for segment in segments
        ]


@lru_cache(4096)
def plain(text: str) -> str:
    """The text in ASCII with the same width in cells; a character without a replacement becomes `?`."""
    if text.isascii():
        return text
    return "".join(_plain(character) for character in text)


def _plain(character: str) -> str:
    if character.isascii():
        return character
    if similar := ASCII.get(ord(character)):
        return similar
    if 0x2800 < ord(character) <= 0x28FF:
        return ":"
    width = cell_len(character)
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return base if base and len(base) == width else "?" * width


class AsciiFilter(LineFilter):
    """Line filter for ASCII mode; Textual applies it to every widget of every screen.

    Written by hand because Textual has no ASCII mode, and because transliteration libraries (Unidecode, anyascii)
    change the number of cells: here every replacement is as wide as the original, so that the layout does not move.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [segment if segment.control else Segment(plain(segment.text), segment.style) for segment in segments]


FRAME = re.compile(r"\x1b\[([0-9;]*)m|\x1b\[(\d+);(\d+)H|(\n)|([^\x1b\x00-\x1f\x7f-\x9f]+)")
"""Tokens of a frame: style, cursor position, line feed (before the next position), text."""
MODES = re.compile(
    r"(?:\x1b\[\?(?!1049|47|1047)[0-9;]+(?:[hl]|\$p)|\x1b\[[<>=][0-9;]*u|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x07)*"
)
"""Sequences that do not change the screen: modes other than the alternate screen, keyboard, title, clipboard."""


class CellStyle(NamedTuple):
    """A graphic rendition (SGR) as the parameters of its three parts."""

    attributes: str = ""
    foreground: str = ""
    background: str = ""


PLAIN = CellStyle()
Cell = tuple[str, CellStyle]
"""(text, style) of a cell. Cells that cannot be separated have their text in the first one and '' in the others."""


class FrameDiff:
    """A model of the terminal's cells, to send only those that differ; a cell that is missing or None is unknown.

    Textual sends a screen that is opened or closed three times. Measured in a pty of 160x45, with and without this:
    a followed run 0.4 to 1.3 KB/s instead of 3.7 to 4.3, opening and closing help 12 and 20 KB instead of 74 and 115,
    which are 25 and 38 s on a line of 3,000 bytes/s.
    """

    def __init__(self) -> None:
        self._rows: dict[int, list[Cell | None]] = {}
        self._cursor = ""
        """Cursor position after the last frame."""

    def invalidate(self) -> None:
        """Mark all cells as unknown, after a resize or output of another program."""
        self._rows.clear()
        self._cursor = ""

    def reduced(self, data: str) -> str:
        """The same screen content in fewer bytes. Data that is not a frame is returned unchanged."""
        if MODES.fullmatch(data):
            return data
        tokens = list(FRAME.finditer(data))
        if not data or sum(map(len, (token.group() for token in tokens))) != len(data) or "H" not in data:
            self.invalidate()
            return data
        pen, style, x, y, cursor = Pen(), PLAIN, 0, 0, ""
        for token in tokens:
            parameters, row, column, _, text = token.groups()
            if text is not None:
                x += self._write(pen, x, y, text, style)
                cursor = ""
            elif row is not None:
                x, y, cursor = int(column) - 1, int(row) - 1, token.group()
            elif parameters is not None:
                style = (
                    parsed_style(parameters)
                    if style == PLAIN or parameters in ("", "0")
                    else parsed_style(";".join(filter(None, (*style, parameters))))
                )
        sent = pen.done()
        if not sent and cursor == self._cursor:
            return ""
        self._cursor = cursor
        return sent + cursor

    def _write(self, pen: Pen, x: int, y: int, text: str, style: CellStyle) -> int:
        """Send the part of a text that differs from the cells on screen; returns its width in cells."""
        if style.foreground and not style.attributes and text.isspace():
            style = CellStyle("", "", style.background)  # spaces have no foreground
        cells = cells_of(text, style)
        row, end = self._rows.setdefault(y, []), x + len(cells)
        row.extend([None] * (end - len(row)))
        if row[x:end] == cells:
            return len(cells)
        first, last = 0, len(cells)
        if len(cells) == len(text):  # one cell per character
            while row[x + first] == cells[first]:
                first += 1
            while row[x + last - 1] == cells[last - 1]:
                last -= 1
            text = text[first:last]
        self._cut(row, x, end)
        row[x:end] = cells
        pen.write(x + first, y, text, last - first, style)
        return len(cells)

    @staticmethod
    def _cut(row: list[Cell | None], start: int, end: int) -> None:
        """Mark cells as unknown that cannot be separated from cells in [start, end), which are overwritten."""
        left = start
        while left > 0 and (cell := row[left]) is not None and not cell[0]:
            left -= 1
            row[left + 1] = None
            if (before := row[left]) is not None and before[0]:
                row[left] = None
                break
        right = end
        while right < len(row) and (cell := row[right]) is not None and not cell[0]:
            row[right] = None
            right += 1


class Pen:
    """Writes runs of text with position and style only where they change."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._place = (-1, -1)
        self._style = PLAIN

    def write(self, x: int, y: int, text: str, width: int, style: CellStyle) -> None:
        if self._place != (x, y):
            self._parts.append(f"\x1b[{y + 1};{x + 1}H")
        self._parts += [style_change(self._style, style), text]
        self._place, self._style = (x + width, y), style

    def done(self) -> str:
        """Everything written, ending with the plain style."""
        return "".join(self._parts) + style_change(self._style, PLAIN)


@lru_cache(4096)
def cells_of(text: str, style: CellStyle) -> list[Cell]:
    """One cell per character; a text with wide or zero-width characters is one group of inseparable cells."""
    if text.isascii() or all(get_character_cell_size(character) == 1 for character in set(text)):
        return [(character, style) for character in text]
    return [(text if number == 0 else "", style) for number in range(cell_len(text))]


@lru_cache(4096)
def parsed_style(parameters: str) -> CellStyle:
    """Parse SGR parameters: `1;38;5;253;48;5;233` -> attributes 1, foreground 38;5;253, background 48;5;233."""
    parts: dict[str, list[str]] = {"attributes": [], "foreground": [], "background": []}
    given = [number or "0" for number in parameters.split(";")]
    while given:
        if given[0] in ("38", "48"):
            length = 3 if given[1:2] == ["5"] else 5
            parts["foreground" if given[0] == "38" else "background"] = given[:length]
            given = given[length:]
            continue
        number = int(given.pop(0))
        if number == 0:
            parts = {"attributes": [], "foreground": [], "background": []}
        elif number // 10 in (3, 9):
            parts["foreground"] = [] if number == 39 else [str(number)]
        elif number // 10 in (4, 10):
            parts["background"] = [] if number == 49 else [str(number)]
        else:
            parts["attributes"].append(str(number))
    return CellStyle(*(";".join(part) for part in parts.values()))


@lru_cache(4096)
def style_change(old: CellStyle, new: CellStyle) -> str:
    """The SGR sequence that changes one style into another."""
    if old == new:
        return ""
    removed = (old.foreground and not new.foreground) or (old.background and not new.background)
    if old.attributes not in ("", new.attributes) or removed:  # only a reset removes attributes and colors
        return f"\x1b[{';'.join(part for part in ('0', *new) if part)}m"
    pairs = (
        (old.attributes, new.attributes),
        (old.foreground, new.foreground),
        (old.background, new.background),
    )
    return f"\x1b[{';'.join(now for before, now in pairs if now != before)}m"


class DiffApp(App[str]):
    """A Textual app with a FrameDiff for its terminal."""

    def __init__(self) -> None:
        self.frame_diff = FrameDiff()
        self.has_failed = False
        """Whether an error ended it."""
        super().__init__(driver_class=DiffDriver)

    @property
    def _background_screens(self) -> list[Screen[Any]]:
        """The screens that are visible below a dialog.

        Textual counts the screen below an opaque one too, and draws the front one completely again whenever the hidden
        one has changed: five percent of a core while a run is followed (Textual 8.2).
        """
        return super()._background_screens if isinstance(self.screen, ModalScreen) else []

    def panic(self, *renderables: RenderableType) -> None:
        """Show an error after the app has closed; the exit status is 1, which Textual leaves at 0 for its threads."""
        self.has_failed = True
        super().panic(*renderables)

    def _on_notify(self, event: Notify) -> None:
        """Show equal messages once, the latest: Textual, whose handler is called after this one, would stack them."""
        new = event.notification
        for shown in list(self._notifications):
            if (shown.message, shown.title) == (new.message, new.title):
                self._unnotify(shown, refresh=False)

    def action_redraw(self) -> None:
        self.frame_diff.invalidate()
        self.screen.refresh()


def has_job_control() -> bool:
    """Whether a shell of this session started the process as a job: it can continue a stopped one."""
    parent = os.getppid()
    try:
        return os.getsid(parent) == os.getsid(0) and os.getpgid(parent) != os.getpgrp()
    except OSError:  # the parent is in another namespace, or has ended
        return False


POLL_SECONDS = 0.1
"""After which the thread that reads keys looks whether the driver has stopped."""


class DiffDriver(LinuxDriver):
    """Textual's Linux driver, which sends only the difference to the app's `frame_diff`."""

    def __init__(
        self, app: DiffApp, *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._frame_diff = app.frame_diff
        self._size = size or self._get_terminal_size()  # for the first layout, where Rich would ask the environment

    def _get_terminal_size(self) -> tuple[int, int]:
        """Columns and lines of the terminal; where it reports 0, as a new pty does, of the environment.

        Textual asks the environment first. COLUMNS and LINES are often exported into containers, and a resize does not
        change them.
        """
        columns, lines = 0, 0
        with contextlib.suppress(OSError):  # not a terminal
            columns, lines = os.get_terminal_size(self.fileno)
        assumed = shutil.get_terminal_size((80, 25))
        return columns or assumed.columns, lines or assumed.lines

    def run_input_thread(self) -> None:
        """Read keys until the driver stops.

        Textual's looks every POLL_SECONDS whether an escape was a key or begins a sequence, however short ESCDELAY is
        (8.2). A terminal writes a sequence at once, and SSH sends it in one packet: after a moment it was the key.
        """
        terminal = TerminalInput(self._debug)
        while not self.exit_event.is_set():
            wait = constants.ESCAPE_DELAY if terminal.is_waiting else POLL_SECONDS
            readable, _, _ = select.select([self.fileno], [], [], wait)
            for message in terminal.feed(os.read(self.fileno, 4096)) if readable else terminal.idle():
                self.process_message(message)

    def _sigtstp_application(self, *_: object) -> None:
        """Signal handler: suspend in the event loop. It may have interrupted a write, whose queue is locked."""
        self._loop.call_soon_threadsafe(super()._sigtstp_application)

    def _sigcont_application(self, *_: object) -> None:
        """Signal handler: resume in the event loop, for the same reason."""
        self._loop.call_soon_threadsafe(super()._sigcont_application)

    def write(self, data: str) -> None:
        if sent := self._frame_diff.reduced(data):
            super().write(sent)


BLOCKED_SECONDS = 3.0
"""Time for the event loop to end the app. A terminal that is gone or accepts no output would block it forever."""
BUSY_SECONDS = 30.0
"""The same while the terminal accepts output: the loop is only slow, on a busy machine."""
RESET = (
    "\x1b[?2004l\x1b[?2048l"  # bracketed paste, reports of the window's size
    "\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l\x1b[?1004l"  # the mouse, the focus
    "\x1b[?7h\x1b[<u"  # line wrap, the keyboard protocol (before the alternate screen is left)
    "\x1b[?1049l\x1b[?25h\x1b[0m\r\n"  # the alternate screen, the cursor, the style
)
"""Undoes every mode that Textual's driver sets (`LinuxDriver.start_application_mode`)."""


class ForcedExit:
    """Create before the terminal changes its mode: this object keeps the attributes to restore."""

    def __init__(self) -> None:
        self._attributes: list[Any] | None = None
        with contextlib.suppress(termios.error, OSError, ValueError):  # not a terminal: nothing to restore
            self._attributes = termios.tcgetattr(sys.__stdin__.fileno()) if sys.__stdin__ else None

    def schedule(self, status: int) -> None:
        """End the process with `status` unless it ends by itself in time. Can be called in a signal handler."""
        threading.Thread(target=self._wait, args=(status,), daemon=True, name="forced-exit").start()

    def _wait(self, status: int) -> None:
        since = time.monotonic()
        time.sleep(BLOCKED_SECONDS)
        while time.monotonic() < since + BUSY_SECONDS and _accepts_output():
            time.sleep(0.1)
        if _accepts_output():
            with contextlib.suppress(termios.error, OSError, ValueError):  # the terminal is gone
                if self._attributes is not None and sys.__stdin__:
                    termios.tcsetattr(sys.__stdin__.fileno(), termios.TCSANOW, self._attributes)
                if sys.__stderr__:  # noqa: TID251 - where Textual writes
                    os.write(sys.__stderr__.fileno(), RESET.encode("ascii"))  # noqa: TID251 - as above
        os._exit(status)


def hung_up() -> bool:
    """Whether the terminal on stdin has hung up. One that is not the controlling terminal sends no signal then."""
    if sys.__stdin__ is None or sys.__stdin__.closed:
        return True
    poll = select.poll()
    poll.register(sys.__stdin__.fileno(), 0)  # POLLHUP and POLLERR are reported without being requested
    return bool(poll.poll(0))


def _accepts_output() -> bool:
    if hung_up() or sys.__stderr__ is None:  # noqa: TID251 - where Textual writes
        return False
    with contextlib.suppress(OSError, ValueError):
        return bool(select.select([], [sys.__stderr__.fileno()], [], 0.2)[1])  # noqa: TID251 - as above
    return False
