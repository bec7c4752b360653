"""The models screen: choose a model by size, license and predicted memory, type a Hub id, download."""

from __future__ import annotations

import contextlib
from typing import ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import Input, Static

from engine.config.catalog import CATALOG
from engine.config.errors import UserError
from engine.config.files import working_directory
from engine.config.model_files import describe_model, list_models
from engine.config.text import amount, visible
from engine.memory.formula.memory_budget import MemoryBudget
from tui.background import BackgroundRequest, ProgressReported, ResponseReceived
from tui.charts.bars import bar
from tui.commands import actions, bindings
from tui.data.recent import MODELS, forget, read_recent, remember
from tui.preview.method_table import ModelRow, columns, detail_lines, model_row, table_row
from tui.screens.base import BaseScreen
from tui.selection import Selection
from tui.settings import app_keys, app_settings
from tui.widgets.inputs import ValueInput
from tui.widgets.table import Table
from tui.widgets.text_rows import KeyLine

ACTIONS = actions("models")
BAR_WIDTH = 30
PLACEHOLDERS = {"type": "owner/name on the Hub, a folder, or a .gguf file", "filter": "show only models that contain …"}


class ModelsScreen(BaseScreen[Selection | None]):
    """Closes with the selection with another model, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("models")
    AUTO_FOCUS = "Lines"
    CSS = """
    ModelsScreen { layout: vertical; }
    ModelsScreen #title { height: 1; text-style: bold; padding: 0 1; }
    ModelsScreen Table { padding: 0 1; }
    ModelsScreen #detail { height: 5; padding: 0 1; border-top: solid $surface-lighten-2; }
    ModelsScreen ValueInput { margin: 0 1; }
    ModelsScreen #pull { height: 1; padding: 0 1; }
    """

    def __init__(self, selection: Selection, budget: MemoryBudget | None) -> None:
        super().__init__()
        self.selection, self.budget = selection, budget
        self.selected = selection.effective().config.model.id
        self.rows: dict[str, ModelRow] = {}
        """By model id; filled by a thread."""
        self.word = ""
        self.purpose: Literal["", "type", "filter"] = ""
        """What the input line is open for."""
        self.request: BackgroundRequest | None = None
        """The download in progress."""
        self.pulled = ""
        """The model that is being downloaded."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide keys that type letters while the input line has the focus."""
        return not (isinstance(self.focused, Input) and action in ACTIONS)

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Table(columns(), id="table")
        yield Static(id="detail")
        yield ValueInput()
        yield Static(id="pull")
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one("#title", Static).update("models: reading …")
        self.read_models()

    def on_unmount(self) -> None:
        if self.request:
            self.request.cancel()

    def read_models(self) -> None:
        """Read the models again, in a thread: a cache may have hundreds."""
        self.run_worker(self._read, thread=True, exclusive=True, group="models")

    def _read(self) -> None:
        listed = list_models(working_directory(), read_recent(MODELS))
        if self.selected not in {model.id for model in listed}:
            listed.append(describe_model(self.selected))
        rows = {model.id: model_row(self.selection, model, self.budget) for model in listed}
        self.app.call_from_thread(self._take_rows, rows)

    def _take_rows(self, rows: dict[str, ModelRow]) -> None:
        first = not self.rows
        self.rows = rows
        self._fill(self.selected if first else "")

    def _fill(self, cursor: str = "") -> None:
        word = self.word.lower()
        shown = [row for key, row in self.rows.items() if word in f"{key} {row.model.architecture}".lower()]
        self.query_one(Table).show_rows([table_row(row, row.model.id == self.selected) for row in shown], cursor=cursor)
        matching = f" matching {self.word!r}" if self.word else ""
        title = f"{amount(len(shown), 'model')}{matching}, with the predicted memory of each method"
        self.query_one("#title", Static).update(Content(visible(title)))
        self._describe()

    @property
    def row(self) -> ModelRow | None:
        """The model under the cursor."""
        return self.rows.get(self.query_one(Table).key)

    @on(Table.CursorMoved)
    def _describe(self) -> None:
        key = "escape" if self.purpose else app_keys(self).of("models.back")
        lines = detail_lines(self.row, app_keys(self)) if self.row else [f"no model contains this word; press {key}"]
        self.query_one("#detail", Static).update(Content("\n").join(Content(visible(line)) for line in lines))

    @on(Table.RowSelected)
    def action_select(self) -> None:
        if self.row:
            self._select(self.row.model.id)

    def _select(self, name: str) -> None:
        """Close with this model, unless the selection cannot have it."""
        selection = self.selection.with_model(name)
        try:
            model_id = selection.effective().config.model.id
        except UserError as error:
            self.tell(error.line, severity="error")
            return
        if name not in CATALOG:
            with contextlib.suppress(OSError):  # it is selected; only the list of recent models does not have it
                remember(model_id, MODELS)
        self.dismiss(selection.with_model(model_id))

    def action_type_id(self) -> None:
        """Type a Hub id or a path."""
        self._ask("type", "")

    def action_filter(self) -> None:
        self._ask("filter", self.word)

    def _ask(self, purpose: Literal["type", "filter"], text: str) -> None:
        self.purpose = purpose
        self.query_one(ValueInput).ask(text, PLACEHOLDERS[purpose])

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if self.purpose == "filter":
            self.word = event.value
            self._fill()
        elif self.purpose == "type":
            self._describe_typed(event.value.strip())

    def _describe_typed(self, name: str) -> None:
        """What is known about the model that is typed."""
        if not name:
            return
        try:
            model_id = self.selection.with_model(name).effective().config.model.id
            lines = detail_lines(model_row(self.selection, describe_model(model_id), self.budget), app_keys(self))
        except UserError as error:
            lines = [error.line]
        self.query_one("#detail", Static).update(Content("\n").join(Content(visible(line)) for line in lines))

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        purpose, name = self.purpose, event.value.strip()
        self._close_input()
        if purpose == "type" and name:
            self._select(name)

    @on(ValueInput.EditingCancelled)
    def _cancelled(self) -> None:
        if self.purpose == "filter":
            self.word = ""
        self._close_input()

    def _close_input(self) -> None:
        self.purpose = ""
        self.query_one(ValueInput).leave()
        self.query_one(Table).focus()
        self._fill()

    def action_pull(self) -> None:
        """Download the model under the cursor."""
        row = self.row
        if row is None or not row.model.requires_network:
            self.tell("model already downloaded")
        elif self.request is not None:
            key = app_keys(self).of("models.back")
            self.tell(f"{self.pulled} is being downloaded; wait, or press {key} to cancel it", severity="warning")
        else:
            self.pulled = row.model.id
            self.request = BackgroundRequest("pull", {"name": row.model.id}, self.post_message)
            self._show_pull(f"downloading {row.model.id} …")

    @on(ProgressReported)
    def _progress_reported(self, message: ProgressReported) -> None:
        if message.request is not self.request:
            return
        if message.counted and message.counted[2]:
            self._show_pull(message.text, message.counted[1] / message.counted[2])
        else:
            self._show_pull(message.text)

    @on(ResponseReceived)
    def _answered(self, message: ResponseReceived) -> None:
        if message.request is not self.request:
            return
        self.request = None
        if message.error:
            self._show_pull("")
            self.tell(message.error, severity="error", timeout=15)
            return
        self._show_pull(f"downloaded {self.pulled} to {message.answer['folder']}")
        self.read_models()

    def _show_pull(self, text: str, share: float | None = None) -> None:
        """The progress of a download, with a bar where its size is known."""
        parts = [] if share is None else [*bar(share, BAR_WIDTH, app_settings(self).ascii), (f" {share:.0%}  ", "")]
        self.query_one("#pull", Static).update(Content.assemble(*parts, visible(text, 300)))

    def action_forget(self) -> None:
        if self.row is None or not self.row.model.recent:
            self.tell("only recent models can be removed from the list")
            return
        with contextlib.suppress(OSError):  # it stays in the list
            forget(self.row.model.id, MODELS)
        self.read_models()

    def action_back(self) -> None:
        """Clear the filter, cancel the download, or return."""
        if self.word:
            self.word = ""
            self._fill()
        elif self.request:
            self.request.cancel()
            self.request = None
            self._show_pull(f"cancelled: {self.pulled} was not downloaded")
        else:
            self.dismiss(None)
