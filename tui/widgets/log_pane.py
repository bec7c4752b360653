"""What happened, or what the worker printed, as lines: follow, scroll, filter, find, copy."""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import MouseScrollDown, MouseScrollUp
from textual.message import Message

from engine.config.errors import UserError
from engine.config.files import working_folder, write_atomically
from engine.config.text import visible
from tui.live.log_lines import Lines, Piece
from tui.widgets.rows import Rows

TITLES = {"events": "log", "output": "log · what the worker printed"}
COPIED = 64 << 10
"""Characters copied at most: terminals refuse longer clipboard sequences, each at a length of its own."""
TIME = len("12:00:00 ")
WHEEL = 3
"""Lines a turn of the mouse wheel."""


@dataclass
class Word(Message):
    """A word to filter by or to find, as it is typed; `done` with enter, and with escape, which gives it up."""

    what: str
    word: str
    done: bool


class LogPane(Rows, can_focus=True):
    """Shows the newest lines until one scrolls up; `end` follows again."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "up", show=False),
        Binding("down", "move(1)", "down", show=False),
        Binding("pageup", "move(-10)", "page up", show=False),
        Binding("pagedown", "move(10)", "page down", show=False),
        Binding("home", "move(-1000000)", "first", show=False),
        Binding("end", "follow", "follow", show=False),
    ]

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.about = ""
        """The run whose log this is."""
        self.views = {"events": Lines(), "output": Lines()}
        self.view = "events"
        self.unfinished = ""
        """The last line of the output as far as it has come."""
        self.word, self.sought = "", ""
        """What every shown line holds, and what is being looked for."""
        self.top: int | None = None
        """Number of the first line shown while one reads back; None follows."""
        self.found: int | None = None
        """Number of the line found last."""
        self._drawn: object = None

    @property
    def source(self) -> Lines:
        """The log of events."""
        return self.views["events"]

    def begin(self, about: str) -> None:
        """Another run's log, from its beginning."""
        self.about, self.views, self.unfinished = about, {"events": Lines(), "output": Lines()}, ""
        self.view, self.top, self.found = "events", None, None

    def printed(self, piece: Piece) -> None:
        """The worker has printed more."""
        if piece.skipped:
            self.views["output"].skip(piece.skipped)
        for text in piece.lines:
            self.views["output"].add(text)
        self.unfinished = piece.unfinished

    def last_words(self) -> str:
        """How the output ends, '' where it says nothing."""
        from engine.runs.follow import said

        lines = [*self.views["output"], self.unfinished]
        return next((visible(said(text.strip()), 300) for text in reversed(lines) if text.strip()), "")

    def redraw(self) -> None:
        lines, height = self.views[self.view], self.content_size.height
        mark = (id(lines), lines.gone, len(lines), self.unfinished, self.word, self.sought, self.top, self.found)
        if self._drawn == (*mark, self.content_size):
            return
        kept = self._kept()
        last = self._first_of(kept, len(kept), height)
        if self.top is None:  # the end of the line before fills what room is left
            first, shown = max(0, last - 1), slice(-height, None)
        else:
            first, shown = min(last, bisect.bisect_left(kept, (self.top, ""))), slice(height)
        rows = [row for number, text in kept[first : first + height + 1] for row in self._rows(number, text)]
        self.show(rows[shown] if height else [])
        self.border_title = TITLES[self.view]
        self.border_subtitle = Content(self._subtitle(len(kept)))
        self._drawn = (*mark, self.content_size)

    def on_resize(self) -> None:
        self.redraw()

    def filter(self, word: str) -> None:
        """Only lines that hold the word; all for none."""
        self.word, self.top, self.found = word, None, None
        self.redraw()

    def find(self, word: str) -> None:
        """The newest line that holds the word."""
        self.sought, self.found = word, None
        if word:
            self._seek(older=True)
        self.redraw()

    def action_next(self) -> None:
        self._seek(older=True)

    def action_previous(self) -> None:
        self._seek(older=False)

    def action_output(self) -> None:
        """The other of the two views."""
        self.see("events" if self.view == "output" else "output")

    def see(self, view: str) -> None:
        self.view, self.top, self.found = view, None, None
        self.redraw()

    def action_move(self, lines: int) -> None:
        kept = self._kept()
        last = self._first_of(kept, len(kept), self.content_size.height)
        here = last if self.top is None else bisect.bisect_left(kept, (self.top, ""))
        there = max(0, here + lines)
        self.top = None if there >= last else kept[there][0]
        self.redraw()

    def action_follow(self) -> None:
        self.top, self.found = None, None
        self.redraw()

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        event.stop()
        self.action_move(-WHEEL)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        event.stop()
        self.action_move(WHEEL)

    def action_copy(self) -> None:
        """Into the clipboard of the terminal that shows us, over SSH as well (OSC 52)."""
        kept = [visible(text) for _, text in self._kept()]
        while kept and sum(map(len, kept)) + len(kept) > COPIED:
            kept = kept[len(kept) // 8 + 1 :]
        self.app.copy_to_clipboard("\n".join(kept))
        tmux = "; tmux passes it on with `set -g set-clipboard on`" if "TMUX" in os.environ else ""
        self.app.notify(f"{len(kept)} lines sent to the terminal's clipboard{tmux}", markup=False)

    def action_save(self) -> None:
        """Into a file in the working directory."""
        kept = self._kept()
        path = Path(f"{self.about or 'ftbench'}-{self.view}.txt")
        try:
            path = working_folder() / path
            write_atomically(path, "".join(f"{visible(text)}\n" for _, text in kept).encode())
        except UserError as error:
            self.app.notify(error.line, severity="error", markup=False)
            return
        except OSError as error:
            text = f"{path} cannot be written: {error.strerror}; start ftbench where you may write"
            self.app.notify(visible(text), severity="error", markup=False)
            return
        self.app.notify(visible(f"{len(kept)} lines in {path}"), markup=False)

    def _kept(self) -> list[tuple[int, str]]:
        lines = self.views[self.view]
        kept = lines.holding(self.word)
        if self.view == "output" and self.unfinished and self.word.lower() in self.unfinished.lower():
            kept.append((lines.gone + len(lines), self.unfinished))
        return kept

    def _seek(self, older: bool) -> None:
        """The nearest line that holds what is sought, above or below the one found last."""
        if not self.sought:
            self.app.notify("nothing is sought: f finds a word")
            return
        kept, wanted = self._kept(), self.sought.lower()
        hits = [number for number, text in kept if wanted in text.lower()]
        if self.found is None:
            there = hits[-1:]
        elif older:
            there = [number for number in hits if number < self.found][-1:]
        else:
            there = [number for number in hits if number > self.found][:1]
        if not there:
            where = "" if self.found is None else " older" if older else " newer"
            self.app.notify(visible(f"no{where} line holds {self.sought!r}"), markup=False)
            return
        self.found = there[0]
        here = bisect.bisect_left(kept, (self.found, ""))
        self.top = kept[self._first_of(kept, here + 1, max(1, self.content_size.height // 2))][0]
        self.redraw()

    def _first_of(self, kept: Sequence[tuple[int, str]], end: int, rows: int) -> int:
        """The place of the first of those lines before `end` that have room together; one line has room in any case."""
        first = end
        while first > 0 and (rows := rows - len(self._rows(*kept[first - 1]))) >= 0:
            first -= 1
        return max(0, min(first, end - 1))

    def _rows(self, number: int, text: str) -> list[Content]:
        """A line as wide as the pane: what is longer goes on below, behind the time of an event."""
        content, width = self._content(number, text), max(1, self.content_size.width)
        if content.cell_length <= width:
            return [content]
        indent = TIME if self.view == "events" and width > 2 * TIME else 0
        first, *rest = content[indent:].wrap(width - indent)
        return [content[:indent] + first, *(Content(" " * indent) + row for row in rest)]

    def _content(self, number: int, text: str) -> Content:
        shown = visible(text)
        content = Content.styled(shown, colour(text)) if self.view == "events" else Content(shown)
        wanted, at = self.sought.lower(), -1
        style = "bold reverse" if number == self.found else "underline"
        while wanted and (at := shown.lower().find(wanted, at + 1)) >= 0:
            content = content.stylize(style, at, at + len(wanted))
        return content

    def _subtitle(self, kept: int) -> str:
        """What keeps lines from being seen."""
        lines = self.views[self.view]
        parts = []
        if self.word:
            parts.append(f"{kept} of {len(lines)} hold {visible(self.word, 20)}")
        if lines.gone:
            parts.append(f"{lines.gone:,} older lines let go")
        if self.top is not None:
            parts.append("reading back: end follows")
        return " · ".join(parts)


def colour(text: str) -> str:
    """By what a line says after its time."""
    said = text.split(" ", 1)[-1]
    if said.startswith("warning:"):
        return "$text-warning"
    if said.startswith(("failed:", "out of memory:", "diverged:")):
        return "$text-error"
    return "$text-success" if said.startswith("finished") else ""
