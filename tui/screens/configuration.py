"""The configuration screen: every setting with its origin, edited in place, and what a change costs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import Input, Static

from engine.config import preset_library
from engine.config.errors import UserError
from engine.config.method_specs import method_title, reads
from engine.config.model_files import find_model
from engine.config.preset import EffectiveConfig, flatten
from engine.config.preset_library import list_presets
from engine.config.setting_specs import SettingSpec, setting_specs, setting_text
from engine.config.text import amount, visible
from tui.background import ProgressReported, ResponseReceived
from tui.charts.columns import Column, TableRow
from tui.command_line import run_command
from tui.commands import actions, bindings
from tui.format import setting
from tui.preview.launch_context import DataCheckCache, LaunchContext
from tui.preview.launches import restored_text, with_text
from tui.preview.method_table import PredictedCost, ThroughputCache, effects, effects_text
from tui.screens.base import BaseScreen
from tui.screens.data_checking import DataChecking
from tui.screens.dialogs import NameScreen
from tui.selection import NOT_COMPARED, Selection
from tui.settings import app_keys
from tui.widgets.inputs import ValueInput
from tui.widgets.table import Table
from tui.widgets.text_rows import KeyLine

if TYPE_CHECKING:
    from engine.memory.formula.history import Throughput

COLUMNS = (Column("setting", 16), Column("value", 10), Column("set by", 8), Column("accepts"))
ACTIONS = actions("config")
EDIT_KEYS = "enter apply   escape cancel   empty: default"
YOURS = "your change"
"""Origin of a value that was changed on the bench."""


class ConfigurationScreen(BaseScreen[Selection]):
    """Closes with the selection and the settings that were changed."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("config")
    AUTO_FOCUS = "Lines"
    CSS = """
    ConfigurationScreen { layout: vertical; }
    ConfigurationScreen #title { height: 1; text-style: bold; padding: 0 1; }
    ConfigurationScreen Table { padding: 0 1; }
    ConfigurationScreen #detail { height: 5; padding: 0 1; border-top: solid $surface-lighten-2; }
    ConfigurationScreen ValueInput { margin: 0 1; }
    ConfigurationScreen #effect { height: 2; padding: 0 1; }
    """

    def __init__(
        self, selection: Selection, runs: Path, context: Callable[[], LaunchContext], checks: DataCheckCache
    ) -> None:
        super().__init__()
        self.selection, self.runs, self.context = selection, runs, context
        self.effective: EffectiveConfig = selection.effective()
        self.checking = DataChecking(checks, self.post_message)
        self.speeds = ThroughputCache(runs)
        self.speed: Throughput | None = None
        """Of earlier runs of this model and method; None until it is read."""
        self.word = ""
        """Only settings that contain this word are listed."""
        self.edited = ""
        """Key of the setting that is being edited; `filter` while the word is typed."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide keys that type letters while the input line has the focus."""
        return not (isinstance(self.focused, Input) and action in ACTIONS)

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Table(COLUMNS, id="table")
        yield Static(id="detail")
        yield ValueInput()
        yield Static(id="effect")
        yield KeyLine()

    def on_mount(self) -> None:
        self.set_interval(2.0, self._show_effect)  # the machine's free memory changes
        self._changed()

    def on_unmount(self) -> None:
        self.checking.leave()

    def _changed(self) -> None:
        """Show another configuration: its values, and what it costs."""
        config = self.effective.config
        on_this_machine = not find_model(config.model).fetch and Path(config.data.id).exists()
        embedded = config.data.id == type(config.data)().id
        self.checking.begin([config], start=on_this_machine or (embedded and not find_model(config.model).fetch))
        self.run_worker(self._read_speed, thread=True, exclusive=True, group="speed")
        self.show_settings()

    def _read_speed(self) -> None:
        """In a thread: the results of earlier runs may be many."""
        config, budget = self.effective.config, self.context().budget
        try:
            speed = self.speeds.of(config, budget)
        except (UserError, OSError):
            return  # the list of runs reports it; the time stays unknown
        self.app.call_from_thread(self._take_speed, speed)

    def _take_speed(self, speed: Throughput | None) -> None:
        self.speed = speed
        self._show_effect()

    def show_settings(self, cursor: str = "") -> None:
        """List the settings that the method reads."""
        changed = amount(len([key for key in setting_specs() if self.selection.changed(key)]), "change")
        word = f" · only {self.word!r}" if self.word else ""
        title = (
            f"configuration of {self.selection.name} · {method_title(self.effective.config.method)} · {changed}{word}"
        )
        self.query_one("#title", Static).update(Content(visible(title)))
        self.query_one(Table).show_rows([self._row(spec) for spec in self._listed()], cursor=cursor)
        self._describe()

    def _listed(self) -> list[SettingSpec]:
        """Settings whose key contains the word, else those whose meaning does."""
        method, word = self.effective.config.method, self.word.lower()
        read = [spec for key, spec in setting_specs().items() if key not in NOT_COMPARED and reads(method, key)]
        named = [spec for spec in read if word in spec.key.lower()]
        return named or [spec for spec in read if word in spec.meaning.lower()]

    def _row(self, spec: SettingSpec) -> TableRow:
        key, origin = spec.key, self.effective.origins.get(spec.key, "default")
        value = setting(flatten(self.effective.config)[key])
        changed = self.selection.changed(key)
        style = "bold $text-primary" if changed else "bold" if origin != "default" else ""
        set_by = YOURS if changed else origin
        cells = ((key, style), (value, style), (set_by, "$foreground-muted"), (spec.accepts, "$foreground-muted"))
        return TableRow(key, cells)

    @property
    def key(self) -> str:
        """The setting under the cursor."""
        return self.query_one(Table).key

    @on(Table.CursorMoved)
    def _describe(self) -> None:
        """Meaning, range and default of the setting under the cursor, then what the configuration costs."""
        spec = setting_specs().get(self.key)
        if spec is None:
            key = "escape" if self.edited else app_keys(self).of("config.back")
            self.query_one("#detail", Static).update(Content(f"no setting contains this word; press {key}"))
            return
        width = max(20, self.size.width - 3)
        lines = textwrap.wrap(spec.meaning, width, max_lines=2, placeholder=" …")
        about = f"accepts {spec.accepts}; default {restored_text(self.selection, spec.key)}"
        if restored_text(self.selection, spec.key) != (own := setting_text(spec.default) or "unset"):
            about += f" (without preset and method: {own})"
        text = Content("\n").join([Content(visible(line)) for line in lines])
        muted = Content.styled(visible("\n".join(textwrap.wrap(about, width, max_lines=2)), 400), "$foreground-muted")
        self.query_one("#detail", Static).update(Content("\n").join([text, muted]))
        self._show_effect()

    def _show_effect(self) -> None:
        if self.edited in ("", "filter"):
            self.query_one("#effect", Static).update(effects_text(self._effects(self.effective)))

    def _effects(self, effective: EffectiveConfig) -> PredictedCost:
        return effects(effective.config, self.context().budget, self.checking.report, self.speed)

    @on(ProgressReported)
    def _progress_reported(self, message: ProgressReported) -> None:
        self.checking.take_progress(message)

    @on(ResponseReceived)
    def _answered(self, message: ResponseReceived) -> None:
        if self.checking.take(message):
            self._show_effect()

    @on(Table.RowSelected)
    def action_edit(self) -> None:
        """Edit the value under the cursor."""
        spec = setting_specs().get(self.key)
        if spec is None:
            return
        self.edited = spec.key
        text = setting_text(flatten(self.effective.config)[spec.key])
        self.query_one(ValueInput).ask(text, f"{spec.key}: {spec.accepts}")
        self._typed_value(text)

    def action_filter(self) -> None:
        """Show only settings that contain a word."""
        self.edited = "filter"
        self.query_one(ValueInput).ask(self.word, "show only settings that contain …")

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if self.edited == "filter":
            self.word = event.value
            self.show_settings()
        elif self.edited:
            self._typed_value(event.value)

    def _typed_value(self, text: str) -> None:
        """Say what is wrong with the value, or what it changes."""
        try:
            chosen = with_text(self.selection, self.edited, text).effective()
        except UserError as error:
            shown = Content.styled(visible(error.line, 300), "$text-error")
        else:
            shown = effects_text(self._effects(chosen), self._effects(self.effective))
        self.query_one("#effect", Static).update(Content("\n").join([shown, Content(EDIT_KEYS)]))

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        key = self.edited
        if key != "filter" and not self._take(key, event.value):
            self.app.bell()
            return
        self._end_editing()

    @on(ValueInput.EditingCancelled)
    def _cancelled(self) -> None:
        if self.edited == "filter":
            self.word = ""
        self._end_editing()
        self.show_settings()

    def _end_editing(self) -> None:
        self.edited = ""
        self.query_one(ValueInput).leave()
        self.query_one(Table).focus()
        self._describe()

    def _take(self, key: str, text: str) -> bool:
        """Take a value; False where it is invalid, which is shown already."""
        try:
            selection = with_text(self.selection, key, text)
            effective = selection.effective()
        except UserError:
            return False
        self.selection, self.effective = selection, effective
        self._changed()
        return True

    def action_default(self) -> None:
        """Restore the preset's value, or the default."""
        if not self.selection.changed(self.key):
            self.tell(f"{self.key} is not changed: it is set by {self.effective.origins.get(self.key, 'default')}")
            return
        if not self._take(self.key, ""):
            self.tell(f"cannot restore {self.key}: another change needs it", severity="error")

    def action_save(self) -> None:
        """Save the selection with its changes as a preset."""
        question = f"Save the selection ({self.selection.name}, {self.effective.config.method}) as preset:"
        taken = {entry.name for entry in list_presets()}
        free = next(name for number in range(2, 10_000) if (name := f"{self.selection.name}-{number}") not in taken)

        def answered(name: str | None) -> None:
            if name is None:
                return
            try:
                path = preset_library.create_from_config(name, self.selection.preset, self.effective)
            except UserError as error:
                self.tell(error.line, severity="error", timeout=10)
                return
            self.tell(f"saved {path}; press {app_keys(self).of('bench.presets')} on the bench to select it")

        self.app.push_screen(NameScreen(question, free, preset_library.check_name), answered)

    def action_copy(self) -> None:
        """Copy the command line that starts a run with this configuration."""
        command = run_command(self.selection, self.runs)
        self.app.copy_to_clipboard(command)
        self.tell(f"copied: {command}")

    def action_back(self) -> None:
        if self.word:
            self.word = ""
            self.show_settings()
            return
        self.dismiss(self.selection)
