"""The rating screen: two answers to a question side by side, without the names of the rungs that wrote them."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from engine.config.text import visible
from engine.extensions.judge.judge_dir import progress_of_ratings
from engine.extensions.judge.preferences import RatingSummary
from engine.extensions.judge.ratings import Choice, PairToRate, RatingSession
from tui.background import BackgroundRequest
from tui.commands import bindings, moves
from tui.screens.base import BaseScreen
from tui.screens.table_screen import ValueInput
from tui.settings import app_keys
from tui.widgets.text_rows import KeyLine, literal

SUMMARY_EVERY = 5
"""Ratings after which it is computed again how far the result is decided."""


class RatedText(VerticalScroll, can_focus=True, inherit_bindings=False):
    """A long text that scrolls; without keys for left and right, which choose an answer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *moves(*(f"move('{way}')" for way in ("scroll_up", "scroll_down", "scroll_home", "scroll_end"))),
        Binding("pageup,ctrl+u", "move('page_up')", show=False),
        Binding("pagedown,ctrl+d,space", "move('page_down')", show=False),
    ]
    DEFAULT_CSS = """
    RatedText { scrollbar-size-vertical: 1; }
    RatedText Static { height: auto; }
    """
    together: RatedText | None = None
    """The other answer, which scrolls with this one."""
    _follows = False
    """Whether it is being scrolled by the other one, and does not scroll that one back."""

    def compose(self) -> ComposeResult:
        yield Static()

    def show(self, text: str) -> None:
        """Show a text of data or model literally, from its start."""
        self.query_one(Static).update(literal(text) if text.strip() else Content.styled("(empty)", "dim"))
        self.scroll_home(animate=False)

    def action_move(self, how: str) -> None:
        """Scroll the longer one of two texts that scroll together, whichever has the focus."""
        longer = max((self, self.together or self), key=lambda text: text.max_scroll_y)
        if longer.allow_vertical_scroll:
            getattr(longer, f"action_{how}")()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self.together is not None and not self._follows:
            self.together.follow(new_value)

    def follow(self, y: float) -> None:
        """Scroll to where the other answer is, or to the end of a shorter text."""
        self._follows = True
        try:
            self.scroll_to(y=y, animate=False, immediate=True)
        finally:
            self._follows = False


class RatingScreen(BaseScreen[None]):
    """Owns the session of one rater; closing it lets another process rate with this name."""

    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = bindings("rate")
    CSS = """
    RatingScreen #question { height: auto; max-height: 33%; }
    RatingScreen #answers { height: 1fr; }
    RatingScreen #left-answer, RatingScreen #right-answer { width: 1fr; height: 1fr; }
    RatingScreen #state { height: auto; max-height: 3; padding: 0 1; color: $foreground-muted; }
    """

    def __init__(self, session: RatingSession) -> None:
        super().__init__()
        self.session = session
        self.pair: PairToRate | None = None
        self.note = ""
        self.summary: RatingSummary | None = None
        self._shown_at = 0.0
        self._since_summary = 0

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield RatedText(id="question", classes="pane")
        with Horizontal(id="answers"):
            yield RatedText(id="left-answer", classes="pane")
            yield RatedText(id="right-answer", classes="pane")
        yield Static(id="state")
        yield ValueInput(self._leave_note, id="note")
        yield KeyLine()

    def on_mount(self) -> None:
        question, left, right = self.query(RatedText)
        question.border_title, left.border_title, right.border_title = "question", "left", "right"
        left.together, right.together = right, left
        self._summarize()
        self._next()

    def on_unmount(self) -> None:
        self.session.own.close()

    def _next(self) -> None:
        """Show the next pair, from the start of its texts."""
        self.pair, self.note = self.session.current, ""
        question, left, right = self.query(RatedText)
        for part in (question, left, right):
            part.display = self.pair is not None
        if (pair := self.pair) is not None:
            question.show(pair.question)
            left.show(pair.left)
            right.show(pair.right)
            self.set_focus(left)
        self._shown_at = time.monotonic()
        self._draw()
        self.refresh_bindings()

    def _draw(self) -> None:
        session = self.session
        place = f"{session.rated} of {len(session.pairs)} rated"
        skipped = f" · {session.skipped} skipped" if session.skipped else ""
        note = f" · note: {visible(self.note, 60)}" if self.note else ""
        self.set_text("title", Content(f"rate · {visible(session.rater)} · {place}{skipped}{note}"))
        lines = progress_of_ratings(self.summary)
        if self.pair is None:
            keys = app_keys(self)
            lines = [f"All pairs are rated; press {keys.of('rate.undo')} to change the last one.", *lines]
        self.set_text("state", Content("\n".join(map(visible, lines))))

    # How far the result is decided

    def _summarize(self) -> None:
        """Compute in a process of its own how far the result is decided; skipped while one is at work."""
        if self.request is None:
            self._since_summary = 0
            arguments = {"path": str(self.session.folder.subject.path), "report": False}
            self.request = BackgroundRequest(self, "rating.summary", arguments, self._summarized)

    def _summarize_if_due(self) -> None:
        """Summarize after every SUMMARY_EVERY ratings, and after the last one."""
        if self._since_summary >= SUMMARY_EVERY or (self._since_summary and self.session.current is None):
            self._summarize()

    def _summarized(self, answer: Any, error: str) -> None:
        self.request = None
        if error:
            self.tell(error, severity="warning")
        else:
            self.summary = msgspec.convert(answer, RatingSummary | None)
            self._draw()
        self._summarize_if_due()  # ratings while it was computed

    # Keys

    def is_useful(self, command: str) -> bool:
        return self.pair is not None or command in ("back", "undo")

    def _is_writing(self) -> bool:
        """Whether a note is being written, which another action would discard; if so, show a notification."""
        if self.query_one(ValueInput).display:
            self.tell("finish the note first", severity="warning")
            return True
        return False

    def action_choose(self, choice: Choice) -> None:
        if self._is_writing():
            return
        if self.pair is None:
            self.tell("all pairs are rated")
            return
        with self.errors_told():
            self.session.choose(self.pair, choice, self.note, time.monotonic() - self._shown_at)
            self._since_summary += 1
            self._summarize_if_due()
            self._next()

    def action_undo(self) -> None:
        if self._is_writing():
            return
        with self.errors_told():
            if not self.session.undo():
                self.tell("nothing to undo")
                return
            self._since_summary = SUMMARY_EVERY  # the summary counts what was taken back
            self._summarize_if_due()
            self._next()

    def action_write_note(self) -> None:
        if self._is_writing():
            return
        if self.pair is None:
            self.tell("all pairs are rated")
            return
        self.query_one(ValueInput).ask(self.note, "note on this pair", self._take_note)

    def _take_note(self, text: str) -> None:
        self.note = text.strip()[:500]

    def _leave_note(self) -> None:
        self.set_focus(self.query_one("#left-answer", RatedText))
        self._draw()
