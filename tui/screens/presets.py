"""The table of presets: select, edit in $EDITOR, duplicate, save the selection as a preset, delete."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import App, SuspendNotSupported
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import OptionList

from engine.config import preset_library
from engine.config.errors import RunFailed, UserError
from engine.config.preset import EffectiveConfig
from engine.config.preset_library import PresetEntry
from engine.config.text import visible
from tui.commands import bindings
from tui.format import Column, TableRow, last_part
from tui.screens.base import BaseScreen
from tui.screens.dialogs import NameScreen
from tui.screens.table_screen import TableScreen
from tui.selection import Selection, changes
from tui.settings import app_keys

COLUMNS = (
    Column("key", 3),
    Column("preset", 12),
    Column("method", 6),
    Column("origin", 7),
    Column("model", 5),
    Column("data", 4),
    Column("title", 8),
)


class PresetsScreen(TableScreen[str | None]):
    """Closes with the name of the selected preset, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("presets")
    CSS = "PresetsScreen #detail { height: 8; }"
    columns = COLUMNS

    def __init__(
        self, selection: Selection, effective: EffectiveConfig | None, read: Callable[[], Sequence[PresetEntry]]
    ) -> None:
        """`read`: all presets as their files are now, with the slots that suit this machine."""
        super().__init__()
        self.selection, self.effective, self._read = selection, effective, read
        self.listed: dict[str, PresetEntry] = {}

    def on_mount(self) -> None:
        self.set_text("title", f"presets; yours are in {preset_library.user_folder()}")
        self.fill(self.selection.name)

    def fill(self, cursor: str = "") -> None:
        self.listed = {listed.name: listed for listed in self._read()}
        rows, keys = list[TableRow](), app_keys(self)
        for listed in self.listed.values():
            origin = "yours" if preset_library.is_own(listed) else "built-in"
            cells, style = ["!", listed.name, "invalid", origin, "", "", "see below"], "$text-error"
            if listed.preset is not None:
                method, model, data, title = listed.shown
                key, style = keys.of_preset(listed.slot), ""
                cells = [key, listed.name, method, origin, last_part(model), last_part(data), title]
            rows.append(TableRow(listed.name, tuple((text, style) for text in cells)))
        self.table.show_rows(rows, cursor=cursor)
        self.describe()

    def is_useful(self, command: str) -> bool:
        listed = self._selected()
        return command != "delete" or (listed is not None and preset_library.is_own(listed))

    def describe(self) -> None:
        listed = self._selected()
        if listed is None:
            return
        error = listed.error
        if listed.preset is not None:
            try:
                changed = changes(self.effective, self.selection.with_preset(listed.name).effective())
            except UserError as refused:
                error = refused.line
            else:
                about = visible(str(listed.preset.values.get("about", "")))
                text = ", ".join(map(visible, changed)) if changed else "nothing"
                what = ("\nselecting it changes: ", "$foreground-muted")
                self.set_text("detail", Content.assemble(about, what, text))
                return
        self.set_text("detail", Content.styled(visible(error), "$text-error"))

    def _selected(self) -> PresetEntry | None:
        return self.listed.get(self.key)

    @on(OptionList.OptionSelected)
    def action_select(self) -> None:
        listed = self._selected()
        if listed is None:
            return
        if listed.preset is None:
            key = app_keys(self).of("presets.edit")
            self.tell(f"invalid preset: {listed.error}; press {key} to edit it", severity="error", timeout=10)
            return
        self.dismiss(listed.name)

    def action_edit(self) -> None:
        """Edit a preset; a built-in one is copied to the user's folder first, where the copy hides it."""
        listed = self._selected()
        if listed is None:
            return
        self.app.clear_notifications()
        copy: Path | None = None
        try:
            if not preset_library.is_own(listed):
                copy = preset_library.copy_to_own(listed)
            self.tell(f"edited with {edit(self.app, copy or listed.path)}")
        except UserError as error:
            if copy:  # not edited: the built-in preset is listed again
                copy.unlink(missing_ok=True)
                copy = None
            self.tell(error.line, severity="error", timeout=10)
        except RunFailed as error:
            self.tell(str(error), severity="error", timeout=10)
        if copy:
            self.tell(f"{listed.name} is built in; you edited your copy, {copy}", timeout=10)
        self.fill(listed.name)  # an error in it is shown below the table

    def action_duplicate(self) -> None:
        listed = self._selected()
        if listed is None or listed.preset is None:
            key = app_keys(self).of("presets.edit")
            self.tell(f"cannot duplicate an invalid preset; press {key} to edit it", severity="warning")
            return
        name = listed.name
        write = preset_library.create_from_preset
        ask_for_preset(self, f"Duplicate {name} as:", name, lambda new: write(new, name), self.fill)

    def action_save(self) -> None:
        """Save the selection as a preset: only what differs from the method's defaults is written."""
        if self.effective is None:
            self.tell("no preset selected", severity="warning")
        else:
            save_selection(self, self.selection, self.effective, self.fill)

    def action_delete(self) -> None:
        listed = self._selected()
        if listed is None or not preset_library.is_own(listed):
            self.tell("only your own presets can be deleted", severity="warning")
            return

        def delete() -> None:
            with self.errors_told():
                preset_library.delete_own(listed)
            self.fill()

        shows = (preset_library.shipped_folder() / listed.path.name).exists()
        again = " The built-in preset of this name is listed again." if shows else ""
        self.confirm(f"Delete your preset {listed.path}? This cannot be undone.{again}", delete)


def save_selection(
    screen: BaseScreen[Any], selection: Selection, effective: EffectiveConfig, saved: Callable[[str], object]
) -> None:
    """Ask for a name, and save the selection under it; `saved` is called with the name."""
    write = preset_library.create_from_config
    question = f"Save the selection ({selection.name}, {effective.config.method}) as preset:"
    ask_for_preset(screen, question, selection.name, lambda name: write(name, selection.preset, effective), saved)


def ask_for_preset(
    screen: BaseScreen[Any], question: str, base: str, write: Callable[[str], Path], saved: Callable[[str], object]
) -> None:
    """Ask for the name of a new preset, `base-2` or the next free number by default, and write it."""

    def answered(name: str | None) -> None:
        if name is not None:
            with screen.errors_told():
                screen.tell(f"saved {write(name)}")
                saved(name)

    taken = {listed.name for listed in preset_library.list_presets()}
    free = next(name for number in range(2, 10_000) if (name := f"{base}-{number}") not in taken)
    screen.app.push_screen(NameScreen(question, free, preset_library.check_name), answered)


EDITORS = ("nano", "vim", "vi")
"""Used where neither $VISUAL nor $EDITOR is set."""


def edit(app: App[Any], path: Path) -> str:
    """Open the file in the user's editor and wait until it exits; returns where the editor's command is from.

    Raises UserError where no editor can be started, and RunFailed where it fails.
    """
    command, origin = editor()
    failed: OSError | None = None
    status = 0
    try:
        with app.suspend():
            try:
                status = subprocess.run([*command, str(path)], check=False).returncode
            except OSError as error:  # raised inside `suspend` it would leave the app suspended
                failed = error
    except SuspendNotSupported as error:
        hint = f"edit {path} outside the workbench"
        raise UserError("cannot suspend the workbench in this terminal", hint=hint, code="editor.no_suspend") from error
    if failed is not None:
        problem = f"cannot start editor {command[0]}: {failed.strerror}"
        raise UserError(problem, origin, "set $EDITOR to an installed editor", "editor.cannot_start") from failed
    if status:
        text = f"{Path(command[0]).name} exited with status {status}; the file is read as saved"
        raise RunFailed(text, "editor.failed")
    return origin


def editor() -> tuple[list[str], str]:
    """(command, its origin): from $VISUAL, else $EDITOR, else an installed editor. Raises UserError without one."""
    for variable in ("VISUAL", "EDITOR"):
        if words := os.environ.get(variable, "").strip():
            try:
                return shlex.split(words), f"${variable}"
            except ValueError as error:
                problem = f"{error}: {words}"
                raise UserError(problem, f"${variable}", "quote it as in a shell", "editor.invalid") from error
    for name in EDITORS:
        if path := shutil.which(name):
            return [path], f"neither $VISUAL nor $EDITOR is set: {name}"
    hint = f"set $EDITOR or install one of {', '.join(EDITORS)}"
    raise UserError("no editor found", "$EDITOR", hint, "editor.not_found")
