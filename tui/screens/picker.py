"""The file picker: select a data file, a folder of data files, or a Hub id, by keyboard or mouse.

Used instead of Textual's DirectoryTree, which cannot go above its root folder, has no filter while typing, and keeps
the control characters of file names in its labels (tried with Textual 8.2).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import ClassVar

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from engine.config.text import visible
from tui.commands import bindings
from tui.data.datasets import NOT_TEXT, FolderEntry, FolderView, entries, is_utf8, read_folder, resolve_typed_path
from tui.screens.base import BaseScreen
from tui.settings import app_keys
from tui.widgets.text_rows import KeyLine

STYLES = {"folder": "$primary", "up": "$primary", "select": "bold $text-success", "hub": "$text-warning", "file": ""}


class PathInput(Input, inherit_bindings=False):
    """Filters as the user types; enter and backspace belong to the picker."""

    BINDINGS: ClassVar[list[BindingType]] = [
        binding
        for binding in Input.BINDINGS
        if isinstance(binding, Binding) and binding.key not in ("enter", "backspace")
    ]

    def on_mount(self) -> None:
        self.cursor_blink = False  # each change is sent over SSH


class PickerScreen(BaseScreen[str | None]):
    """Closes with the selected path or Hub id, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "move(-10)", show=False),
        Binding("pagedown", "move(10)", show=False),
        *bindings("picker"),
    ]
    CSS = """
    PickerScreen PathInput { height: 1; margin: 0 1; }
    PickerScreen OptionList { height: 1fr; margin: 0 1; }
    PickerScreen OptionList > .option-list--option-highlighted { background: $primary 20%; }
    PickerScreen #note { height: 1; padding: 0 1; color: $foreground-muted; }
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.view = FolderView(folder)
        self.hidden = False
        self.entries: list[FolderEntry] = []
        self._reading: Path | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield PathInput(placeholder="type to filter; or /path, ~/path, or a Hub id owner/name", compact=True)
        files = OptionList(id="entries", compact=True, markup=False)
        files.can_focus = False
        yield files
        yield Static(id="note")
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(PathInput).focus()
        self._read(self.folder)

    def on_resize(self) -> None:
        self._fill()

    @property
    def typed(self) -> str:
        return self.query_one(PathInput).value.strip()

    def _read(self, folder: Path) -> None:
        """Read a folder in a thread: a network disk may be slow."""
        self._reading = folder
        self.set_text("title", f"{folder} · reading …")

        def take(view: FolderView) -> None:
            if view.path == self._reading:
                self.view, self._reading = view, None
                self._fill()

        # not a worker: on exit, the app would wait for a network disk that does not respond
        threading.Thread(target=lambda: self.call_later(take, read_folder(folder)), daemon=True).start()

    @on(Input.Changed)
    def _typed(self) -> None:
        folder, _ = resolve_typed_path(self.typed, self.folder)
        if folder != self.view.path and folder != self._reading:
            self._read(folder)
        else:
            self._fill()

    def _fill(self) -> None:
        if self._reading is not None:
            return
        _, word = resolve_typed_path(self.typed, self.folder)
        self.entries = entries(self.view, word, self.hidden, self.typed)
        files = self.query_one("#entries", OptionList)
        width = max(20, (files.size.width or self.size.width - 2) - 2)
        options = list[Option]()
        for entry in self.entries:  # name at the left, size or note at the right
            name, about = visible(entry.name), visible(entry.note)
            gap = max(2, width - cell_len(name) - cell_len(about))
            options.append(Option(Content.assemble((name, STYLES[entry.kind]), " " * gap, (about, "dim"))))
        files.set_options(options)
        files.highlighted = 0 if self.entries else None
        self.set_text("title", str(self.view.path))
        others = f"; other files, not shown: {self.view.others:,}" if self.view.others else ""
        note = f"folders: {len(self.view.folders):,}; data files: {len(self.view.files):,}{others}"
        if not self.entries:
            note = f"no file or folder {word!r} here; a Hub id has the form owner/name"
        if self.view.error:
            note = f"{self.view.error}; press {app_keys(self).of('picker.erase')} or type another path"
        self.set_text("note", note)

    def action_move(self, lines: int) -> None:
        files = self.query_one("#entries", OptionList)
        if files.option_count:
            files.highlighted = max(0, min(files.option_count - 1, (files.highlighted or 0) + lines))

    @on(OptionList.OptionSelected)
    def action_open(self) -> None:
        number = self.query_one("#entries", OptionList).highlighted
        if number is None or self._reading is not None:
            return
        entry = self.entries[number]
        if entry.kind in ("folder", "up"):
            self._enter(Path(entry.target))
        elif not is_utf8(entry.target):
            self.tell(NOT_TEXT, severity="error")
        else:
            self.dismiss(entry.target)

    def _enter(self, folder: Path) -> None:
        self.folder = Path(os.path.normpath(folder))
        with self.prevent(Input.Changed):
            self.query_one(PathInput).value = ""
        self._read(self.folder)

    def action_erase(self) -> None:
        """Delete the last character; with nothing typed, go up a folder."""
        path = self.query_one(PathInput)
        if path.value:
            path.action_delete_left()
        else:
            self._enter(self.folder.parent)

    def action_hidden(self) -> None:
        self.hidden = not self.hidden
        self._fill()
