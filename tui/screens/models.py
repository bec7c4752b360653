"""The models screen: choose a model by size, license and predicted memory, type a Hub id, download."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

from textual import on
from textual.binding import BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static

from engine.config.catalog import CATALOG
from engine.config.errors import UserError
from engine.config.files import working_directory
from engine.config.model_files import describe_model, list_models
from engine.config.text import amount, visible
from engine.memory.formula.memory_budget import MemoryBudget
from tui.background import BackgroundRequest, RequestProgress
from tui.charts import bar
from tui.commands import bindings
from tui.data.recent import MODELS, forget, read_recent, remember
from tui.preview.method_table import ModelRow, columns, detail_lines, model_row, table_row
from tui.screens.table_screen import TableScreen
from tui.selection import MODEL, Selection
from tui.settings import app_keys

BAR_WIDTH = 30


class ModelsScreen(TableScreen[Selection | None]):
    """Closes with the selection with another model, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("models")
    CSS = "ModelsScreen #pull { height: 1; padding: 0 1; }"
    columns = columns()
    row_name = "models"

    def __init__(self, selection: Selection, budget: MemoryBudget | None) -> None:
        super().__init__()
        self.selection, self.budget = selection, budget
        self.selected = selection.effective().config.model.id
        self.rows: dict[str, ModelRow] = {}
        """By model id; filled by a thread."""
        self.pulled = ""
        """The model that is being downloaded, while `request` is set."""

    def below(self) -> Iterator[Widget]:
        yield Static(id="pull")

    def on_mount(self) -> None:
        self.set_text("title", "models: reading …")
        self.read_models()

    def read_models(self) -> None:
        """Read the models again, in a thread: a cache may have hundreds."""

        def read() -> None:
            listed = list_models(working_directory(), read_recent(MODELS))
            if self.selected not in {model.id for model in listed}:
                listed.append(describe_model(self.selected))
            rows = {model.id: model_row(self.selection, model, self.budget) for model in listed}
            first, self.rows = not self.rows, rows
            self.app.call_from_thread(self.fill, self.selected if first else "")

        self.run_worker(read, thread=True, exclusive=True, group="models")

    def fill(self, cursor: str = "") -> None:
        word = self.word.lower()
        shown = [row for key, row in self.rows.items() if word in f"{key} {row.model.architecture}".lower()]
        self.table.show_rows([table_row(row, row.model.id == self.selected) for row in shown], cursor=cursor)
        matching = f" matching {self.word!r}" if self.word else ""
        about = "with the predicted memory of each method (! does not fit, ? tight)"
        self.set_text("title", f"{amount(len(shown), 'model')}{matching}, {about}")
        self.describe()

    @property
    def row(self) -> ModelRow | None:
        return self.rows.get(self.key)

    def is_useful(self, command: str) -> bool:
        model = self.row.model if self.row else None
        match command:
            case "pull":
                return model is not None and model.requires_network
            case "forget":
                return model is not None and model.recent
        return True

    def describe(self) -> None:
        key = "escape" if self.input_line.display else app_keys(self).of("models.back")
        lines = detail_lines(self.row, app_keys(self)) if self.row else [f"no model contains this word; press {key}"]
        self.show_detail("\n".join(lines))

    @on(OptionList.OptionSelected)
    def action_select(self) -> None:
        if self.row:
            self._select(self.row.model.id)

    def _select(self, name: str) -> None:
        """Close with this model, unless the selection cannot have it."""
        selection = self.selection.with_setting(MODEL, name)
        with self.errors_told():
            model_id = selection.effective().config.model.id
            if name not in CATALOG:
                with contextlib.suppress(OSError):  # it is selected; only the list of recent models does not have it
                    remember(model_id, MODELS)
            self.dismiss(selection.with_setting(MODEL, model_id))

    def action_type_id(self) -> None:
        self.input_line.ask("", "owner/name on the Hub, a folder, or a .gguf file", self._entered, self._typed)

    def _typed(self, text: str) -> None:
        """What is known about the model that is typed."""
        if not text.strip():
            return
        try:
            model_id = self.selection.with_setting(MODEL, text.strip()).effective().config.model.id
            lines = detail_lines(model_row(self.selection, describe_model(model_id), self.budget), app_keys(self))
        except UserError as error:
            lines = [error.line]
        self.show_detail("\n".join(lines))

    def _entered(self, text: str) -> None:
        if text.strip():
            self._select(text.strip())

    def action_pull(self) -> None:
        def progressed(progress: RequestProgress) -> None:
            _, done, total = progress.counted or ("", 0, None)
            self._show_pull(progress.text, done / total if total else None)

        row = self.row
        if row is None or not row.model.requires_network:
            self.tell("model already downloaded")
        elif self.request is not None:
            key = app_keys(self).of("models.back")
            self.tell(f"{self.pulled} is being downloaded; wait, or press {key} to cancel it", severity="warning")
        else:
            self.pulled = row.model.id
            self.request = BackgroundRequest(self, "pull", {"name": row.model.id}, self._answered, progressed)
            self._show_pull(f"downloading {row.model.id} …")

    def _answered(self, answer: Any, error: str) -> None:
        self.request = None
        if error:
            self._show_pull("")
            self.tell(error, severity="error", timeout=15)
            return
        self._show_pull(f"downloaded {self.pulled} to {answer['folder']}")
        self.read_models()

    def _show_pull(self, text: str, share: float | None = None) -> None:
        """The progress of a download, with a bar where its size is known."""
        parts = [] if share is None else [*bar(share, BAR_WIDTH), (f" {share:.0%}  ", "")]
        self.set_text("pull", Content.assemble(*parts, visible(text, 300)))

    def action_forget(self) -> None:
        if self.row is None or not self.row.model.recent:
            self.tell("only recent models can be removed from the list")
            return
        with contextlib.suppress(OSError):  # it stays in the list
            forget(self.row.model.id, MODELS)
        self.read_models()

    def leave(self) -> None:
        """Cancel the download, or return."""
        if self.request is None:
            self.dismiss(None)
            return
        self.request.cancel()
        self.request = None
        self._show_pull(f"cancelled: {self.pulled} was not downloaded")
