"""The log of a run, or the raw output of its worker: follow, scroll, filter, find, copy, save."""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual.content import Content

from engine.config.errors import UserError
from engine.config.files import working_directory, write_atomically
from engine.config.text import amount, visible
from tui.live.log_lines import LogLines, OutputChunk
from tui.settings import app_keys, tell
from tui.widgets.pane import BenchState
from tui.widgets.text_rows import ScrolledRows

TITLES = {"events": "log", "output": "log · worker output"}
MAX_COPIED = 64 << 10
"""Characters copied at most: terminals reject longer clipboard sequences, each at a different length."""
TIME_WIDTH = len("12:00:00 ")
COLORS = {
    "warning:": "$text-warning",
    "failed:": "$text-error",
    "out of memory:": "$text-error",
    "diverged:": "$text-error",
    "finished": "$text-success",
}
"""First words of an event after its time -> its color."""


class LogPane(ScrolledRows):
    """Shows the latest lines until the user scrolls up; `end` follows again."""

    pane_name: ClassVar[str] = "log"
    letter: ClassVar[str] = "o"

    def __init__(self, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.run_name = ""
        """The run that the lines belong to."""
        self.views = {"events": LogLines(), "output": LogLines()}
        self.view = "events"
        self.unfinished = ""
        """The last line of the output, up to where it has been written."""
        self.filter_word, self.find_word = "", ""
        self.top: int | None = None
        """Number of the first visible line while the user reads earlier lines; None follows the latest."""
        self.match: int | None = None
        """Number of the line that was found last."""
        self._drawn: object = None

    def begin(self, run_name: str) -> None:
        self.run_name, self.views, self.unfinished = run_name, {"events": LogLines(), "output": LogLines()}, ""
        self.view, self.top, self.match = "events", None, None

    def show_state(self, state: BenchState) -> None:
        if state.run is not None:
            self.views["events"] = state.run.log
        self.redraw()

    def add_output(self, piece: OutputChunk) -> None:
        for text in piece.lines:
            self.views["output"].add(text)
        self.unfinished = piece.unfinished
        self.redraw()

    def last_output_line(self) -> str:
        """The last line of the output that says something, '' if there is none."""
        from engine.runs.run.event_log import without_phase_mark  # the first frame shows no output

        lines = [*self.views["output"], self.unfinished]
        return next((visible(without_phase_mark(text.strip()), 300) for text in reversed(lines) if text.strip()), "")

    def redraw(self) -> None:
        lines, height = self.views[self.view], self.content_size.height
        content = (id(lines), lines.gone, len(lines), self.unfinished)
        drawn = (*content, self.filter_word, self.find_word, self.top, self.match, self.content_size)
        if self._drawn == drawn:
            return
        numbered = self._filtered()
        last = self._first_fitting(numbered, len(numbered), height)
        if self.top is None:  # the end of the previous line fills the space that is left
            first, shown = max(0, last - 1), slice(-height, None)
        else:
            first, shown = min(last, bisect.bisect_left(numbered, (self.top, ""))), slice(height)
        rows = [row for number, text in numbered[first : first + height + 1] for row in self._wrapped(number, text)]
        self.show(rows[shown] if height else [])
        self.border_title = TITLES[self.view]
        hidden = []  # why lines are not visible
        if self.filter_word:
            hidden.append(f"{len(numbered)} of {len(lines)} contain {visible(self.filter_word, 20)}")
        if lines.gone:
            hidden.append(f"the latest {len(lines):,} lines")
        if self.top is not None:
            hidden.append("scrolled up; press end to follow")
        self.border_subtitle = Content(" · ".join(hidden))
        self._drawn = drawn

    def filter(self, word: str) -> None:
        """Show only lines that contain the word; all lines for ''."""
        self.filter_word, self.top, self.match = word, None, None
        self.redraw()

    def find(self, word: str) -> None:
        """Go to the latest line that contains the word."""
        self.find_word, self.match = word, None
        if word:
            self._find_next(older=True)
        self.redraw()

    def action_next(self) -> None:
        self._find_next(older=True)

    def action_previous(self) -> None:
        self._find_next(older=False)

    def action_output(self) -> None:
        self.show_view("events" if self.view == "output" else "output")

    def show_view(self, view: str) -> None:
        self.view, self.top, self.match = view, None, None
        self.redraw()

    def action_move(self, lines: int) -> None:
        numbered = self._filtered()
        last = self._first_fitting(numbered, len(numbered), self.content_size.height)
        current = last if self.top is None else bisect.bisect_left(numbered, (self.top, ""))
        target = max(0, current + lines)
        self.top = None if target >= last else numbered[target][0]
        self.match = self.match if self.top is not None else None
        self.redraw()

    def action_copy(self) -> None:
        """Copy the shown lines to the clipboard of the user's terminal, also over SSH (OSC 52)."""
        lines = [visible(text) for _, text in self._filtered()]
        while lines and sum(map(len, lines)) + len(lines) > MAX_COPIED:
            lines = lines[len(lines) // 8 + 1 :]
        self.app.copy_to_clipboard("\n".join(lines))
        tmux = "; in tmux this requires `set -g set-clipboard on`" if "TMUX" in os.environ else ""
        tell(self, f"{amount(len(lines), 'line')} sent to the terminal's clipboard{tmux}")

    def action_save(self) -> None:
        """Write the shown lines to a file in the working directory."""
        lines = self._filtered()
        path = Path(f"{self.run_name or 'ftbench'}-{self.view}.txt")
        try:
            path = working_directory() / path
            write_atomically(path, "".join(f"{visible(text)}\n" for _, text in lines).encode())
        except UserError as error:
            tell(self, error.line, severity="error")
            return
        except OSError as error:
            hint = "start ftbench in a directory that you can write to"
            tell(self, f"cannot write {path}: {error.strerror}; {hint}", severity="error")
            return
        tell(self, f"{amount(len(lines), 'line')} written to {path}")

    def _filtered(self) -> list[tuple[int, str]]:
        """Number and text of the lines that contain the filter word."""
        lines = self.views[self.view]
        numbered = lines.matching(self.filter_word)
        if self.view == "output" and self.unfinished and self.filter_word.lower() in self.unfinished.lower():
            numbered.append((lines.gone + len(lines), self.unfinished))
        return numbered

    def _find_next(self, older: bool) -> None:
        """Go to the nearest matching line above (`older`) or below the one that was found last."""
        if not self.find_word:
            tell(self, f"no word to find; press {app_keys(self).of('bench.find')} to enter one")
            return
        numbered, word = self._filtered(), self.find_word.lower()
        matches = [number for number, text in numbered if word in text.lower()]
        if self.match is None:
            nearest = matches[-1:]
        elif older:
            nearest = [number for number in matches if number < self.match][-1:]
        else:
            nearest = [number for number in matches if number > self.match][:1]
        if not nearest:
            kind = "" if self.match is None else " older" if older else " newer"
            tell(self, f"no{kind} line contains {self.find_word!r}")
            return
        self.match = nearest[0]
        index = bisect.bisect_left(numbered, (self.match, ""))
        self.top = numbered[self._first_fitting(numbered, index + 1, max(1, self.content_size.height // 2))][0]
        self.redraw()

    def _first_fitting(self, numbered: Sequence[tuple[int, str]], end: int, rows: int) -> int:
        """Index of the first line before `end` such that all up to `end` fit in `rows`; at least one line is taken."""
        first = end
        while first > 0 and (rows := rows - len(self._wrapped(*numbered[first - 1]))) >= 0:
            first -= 1
        return max(0, min(first, end - 1))

    def _wrapped(self, number: int, text: str) -> list[Content]:
        """A line wrapped to the width of the pane; the rest of an event is indented by the width of its time.

        The color of an event is that of the word after its time; every match of the find word is marked.
        """
        shown, width, message = visible(text), max(1, self.content_size.width), text.split(" ", 1)[-1]
        color = next((color for start, color in COLORS.items() if message.startswith(start)), "")
        content = Content.styled(shown, color if self.view == "events" else "")
        word, at = self.find_word.lower(), -1
        style = "bold reverse" if number == self.match else "underline"
        while word and (at := shown.lower().find(word, at + 1)) >= 0:
            content = content.stylize(style, at, at + len(word))
        if content.cell_length <= width:
            return [content]
        indent = TIME_WIDTH if self.view == "events" and width > 2 * TIME_WIDTH else 0
        first, *rest = content[indent:].wrap(width - indent)
        return [content[:indent] + first, *(Content(" " * indent) + row for row in rest)]
