"""The inspector: a dataset prepared for the selected model, row by row and token by token, with its report."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.theme import Theme
from textual.widgets import Static

from engine.config.preset import EffectiveConfig
from engine.config.text import visible
from engine.runs.rpc_client import rows_done
from tui.background import BackgroundRequest, RequestProgress
from tui.charts import bar
from tui.commands import bindings
from tui.data.inspection import (
    SPLITS,
    InspectedRow,
    Inspection,
    TokenDisplay,
    facts,
    sample_head,
    sample_text,
    template_text,
)
from tui.data_report import check_arguments
from tui.format import last_part
from tui.screens.base import BaseScreen
from tui.settings import app_keys, app_settings
from tui.widgets.text_rows import KeyLine

ROWS = 50
"""Rows requested at a time, for each split."""
BAR_WIDTH = 18
"""Columns of the progress bar."""
MAX_TOKENS = 3000
"""Tokens of one row; the middle of a longer row is omitted."""
VIEWS = ("rows", "report", "template")


class InspectorScreen(BaseScreen[bool]):
    """Requests one preparation from the engine and shows it. Closes with True if the dataset was selected."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("inspector")
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    CSS = """
    InspectorScreen { layout: vertical; }
    InspectorScreen #state { height: 1; padding: 0 1; color: $foreground-muted; }
    InspectorScreen VerticalScroll { scrollbar-size-vertical: 1; }
    InspectorScreen #row { margin-bottom: 1; }
    InspectorScreen.-wide #report { width: 58; }
    InspectorScreen.-narrow #report { display: none; }
    InspectorScreen.-narrow.-facts #report { display: block; }
    InspectorScreen.-narrow.-facts #sample { display: none; }
    """

    def __init__(self, effective: EffectiveConfig) -> None:
        super().__init__()
        self.effective = effective
        self.inspection: Inspection | None = None
        self.samples: dict[str, list[InspectedRow]] = {}
        self.error = ""
        self.split, self.view = "train", "rows"
        self.positions = dict.fromkeys(SPLITS, 0)
        self.style = TokenDisplay()
        self._progress, self._started_at = "", 0.0
        self._counted: tuple[str, int, int | None] | None = None
        """Activity, rows done, and total rows if known."""

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        with Horizontal():
            with VerticalScroll(id="sample", classes="pane"):
                yield Static(id="row")
                yield Static(id="text")
            with VerticalScroll(id="report", classes="pane") as right:
                right.border_title = "report"
                yield Static(id="facts")
        yield Static(id="state")
        yield KeyLine()

    def on_mount(self) -> None:
        self._set_style()
        self.app.theme_changed_signal.subscribe(self, self._set_style)
        config = self.effective.config
        length = f"max_length {config.train.max_length:,}"
        self.set_text("title", f"{last_part(config.data.id)} · prepared for {config.model.id} · {length}")
        self.query_one("#sample").focus()
        waiting = Content.styled("preparing the rows, exactly as a run does", "$foreground-muted")
        self.set_text("row", waiting)
        self.set_text("facts", waiting)
        self._send_request("data.inspect", {"rows": ROWS, "most": MAX_TOKENS})
        self.set_interval(1.0, self._tick)

    def _set_style(self, _: Theme | None = None) -> None:
        """Show token boundaries as shades only in colors that the terminal does not replace."""
        ascii_only = app_settings(self).ascii
        plain = ascii_only or self.app.no_color or self.app.theme.startswith("ansi")
        self.style = TokenDisplay(ascii_only, parted=plain)
        self._redraw()

    def on_resize(self) -> None:
        self.call_after_refresh(self._redraw)

    def _send_request(self, question: str, more: dict[str, Any]) -> None:
        arguments = check_arguments(self.effective.config)
        self._progress, self._started_at = "starting", time.monotonic()
        self.request = BackgroundRequest(self, question, {**arguments, **more}, self._answered, self._progressed)
        self._tick()

    def _progressed(self, progress: RequestProgress) -> None:
        self._progress, self._counted = progress
        self._tick()

    def _answered(self, answer: Any, error: str) -> None:
        assert self.request is not None
        try:
            if not error and self.request.question == "data.inspect":
                self.inspection = msgspec.convert(answer, Inspection)
                self.samples = {split: list(samples) for split, samples in self.inspection.samples.items()}
            elif not error:  # further rows of a split
                split = self.request.arguments["split"]
                self.samples[split] += msgspec.convert(answer, list[InspectedRow])
                self.positions[split] += 1
        except msgspec.ValidationError as invalid:
            error = f"invalid response from the engine: {invalid}"
        self.request = None
        if error and self.inspection:
            self.tell(error, severity="error")
        elif error:
            self.error, self.view = error, "rows"  # the view that shows it
            self.remove_class("-facts")
        self._tick()
        self._redraw()

    def _tick(self) -> None:
        """`tokenizing ━━━━──── 12,000 of 100,000 rows, 4 s; escape cancels`; afterwards a legend."""
        seconds = f"{time.monotonic() - self._started_at:.0f} s; {app_keys(self).of('inspector.back')} cancels"
        mark = "in [ ]" if self.style.ascii else "green and underlined"
        line: str | Content = f"tokens in the loss are {mark}, special tokens bold"
        if self.request and self._counted is None:
            line = Content(visible(f"{self._progress}, {seconds}", 300))
        elif self.request and self._counted:
            text, done, total = self._counted
            share = [*bar(done / total, BAR_WIDTH), (" ", "")] if total else []
            line = Content.assemble(f"{visible(text, 40)} ", *share, f"{rows_done(done, total)}, {seconds}")
        elif self.error:
            line = "cannot prepare this dataset; fix the problem and open it again"
        self.set_text("state", line)

    def _redraw(self) -> None:
        left = self.query_one("#sample")
        left.border_title = Content(self.view if self.view == "template" else "row")
        if self.error:
            self.set_text("row", Content.styled(visible(self.error), "bold $text-error"))
            self.set_text("facts", "")
        if self.inspection is None:
            return
        samples, position = self.samples[self.split], self.positions[self.split]
        if self.view == "template":
            self.set_text("row", Content.styled(visible(self.inspection.report["template"]), "bold"))
            self.set_text("text", template_text(self.inspection))
        elif samples:
            total = self.inspection.count(self.split)
            self.set_text("row", sample_head(samples[position], self.split, position + 1, total))
            self.set_text("text", sample_text(samples[position], self.style))
        else:
            self.set_text("row", Content.styled(f"no {self.split} rows", "bold"))
            self.set_text("text", "")
        width = self.query_one("#report").content_size.width or self.size.width - 4
        length = self.effective.config.train.max_length
        self.set_text("facts", facts(self.inspection, self.split, width - 1, length))

    def action_back(self) -> None:
        self.dismiss(False)

    def action_select(self) -> None:
        if self.error:
            self.tell("this dataset cannot be trained on; fix the problem first", severity="warning")
        else:
            self.dismiss(True)

    def action_next(self) -> None:
        """Show the next row; requests more after the last known one."""
        if self.inspection is None or self.request:
            return
        known = len(self.samples[self.split])
        if self.positions[self.split] + 1 < known:
            self._move(1)
        elif self.split != "noticed" and known < self.inspection.count(self.split):
            self._send_request("data.show", {"rows": ROWS, "most": MAX_TOKENS, "split": self.split, "start": known})
        else:
            self.tell("this is the last row")

    def action_previous(self) -> None:
        if self.inspection is not None and self.positions[self.split] > 0:
            self._move(-1)
        elif self.inspection is not None:
            self.tell("this is the first row")

    def _move(self, step: int) -> None:
        self.positions[self.split] += step
        self.view = "rows" if self.view == "template" else self.view
        self.query_one("#sample").scroll_home(animate=False)
        self._redraw()

    def action_split(self) -> None:
        """Show the next split that has rows."""
        if self.inspection is None:
            return
        nonempty = [split for split in SPLITS if self.samples[split]] or [self.split]
        index = nonempty.index(self.split) if self.split in nonempty else -1
        self.split = nonempty[(index + 1) % len(nonempty)]
        self._redraw()

    def action_view(self) -> None:
        if self.error:
            return
        views = [view for view in VIEWS if view != "report" or self.has_class("-narrow")]
        self.view = views[(views.index(self.view) + 1) % len(views)] if self.view in views else views[0]
        self.set_class(self.view == "report", "-facts")
        self.query_one("#report" if self.view == "report" else "#sample").focus()
        self.call_after_refresh(self._redraw)

    def action_parts(self) -> None:
        self.style = TokenDisplay(self.style.ascii, not self.style.parted)
        self._redraw()
