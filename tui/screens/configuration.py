"""The configuration screen: every setting with its origin, edited in place, and what a change costs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static

from engine.config.errors import UserError
from engine.config.method_specs import method_title, reads
from engine.config.model_files import find_model
from engine.config.preset import EffectiveConfig
from engine.config.schema import DESCRIPTIVE_KEYS
from engine.config.settings import flatten, setting_specs, setting_text
from engine.config.text import amount, visible
from tui.commands import bindings
from tui.format import Column, TableRow, setting
from tui.preview.launch_context import DataCheckCache, LaunchContext
from tui.preview.launches import restored_text, run_command, with_text
from tui.preview.method_table import PredictedCost, Training, effects, effects_text
from tui.screens.launching import LaunchForecast
from tui.screens.presets import save_selection
from tui.screens.table_screen import TableScreen
from tui.selection import Selection
from tui.settings import app_keys
from tui.widgets.text_rows import literal

COLUMNS = (Column("setting", 16), Column("value", 10), Column("set by", 8), Column("accepts", 16, droppable=True))
EDIT_KEYS = "enter apply   escape cancel   empty: default"
YOURS = "your change"
"""Origin of a value that was changed on the bench."""


class ConfigurationScreen(TableScreen[Selection]):
    """Closes with the selection and the settings that were changed."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("config")
    CSS = "ConfigurationScreen #effect { height: 2; padding: 0 1; }"
    columns = COLUMNS
    row_name = "settings"
    edited = ""
    """The setting whose value is being edited, '' for none."""

    def __init__(
        self, selection: Selection, runs: Path, context: Callable[[], LaunchContext], checks: DataCheckCache
    ) -> None:
        super().__init__()
        self.selection, self.runs, self.context = selection, runs, context
        self.effective: EffectiveConfig = selection.effective()
        self.forecast = LaunchForecast(checks, self, self._show_effect, runs)

    def below(self) -> Iterator[Widget]:
        yield Static(id="effect")

    def on_mount(self) -> None:
        self.set_interval(2.0, self._show_effect)  # the machine's free memory changes
        self._show_new()

    def on_unmount(self) -> None:
        self.forecast.leave()

    def _show_new(self) -> None:
        """Show another configuration: its values, and what it costs."""
        config = self.effective.config
        data_is_here = Path(config.data.id).exists() or config.data.id == type(config.data)().id  # a path, or embedded
        start = data_is_here and not find_model(config.model).fetch
        self.forecast.begin([Training(self.selection.name, config)], self.context, start)
        self.fill()

    def fill(self, cursor: str = "") -> None:
        """List the settings that the method reads: those whose key contains the word, else whose meaning does."""
        method, word = self.effective.config.method, self.word.lower()
        read = [spec for key, spec in setting_specs().items() if key not in DESCRIPTIVE_KEYS and reads(method, key)]
        named = [spec for spec in read if word in spec.key.lower()]
        listed = named or [spec for spec in read if word in spec.meaning.lower()]
        values, rows = flatten(self.effective.config), list[TableRow]()
        for spec in listed:
            key, origin = spec.key, self.effective.origins.get(spec.key, "default")
            changed = key in self.selection.settings
            style = "bold $text-primary" if changed else "bold" if origin != "default" else ""
            muted = [(YOURS if changed else origin, "$foreground-muted"), (spec.accepts, "$foreground-muted")]
            rows.append(TableRow(key, ((key, style), (setting(values[key]), style), *muted)))
        count = amount(sum(key in self.selection.settings for key in setting_specs()), "change")
        only = f" · only {self.word!r}" if self.word else ""
        self.set_text("title", f"configuration of {self.selection.name} · {method_title(method)} · {count}{only}")
        self.table.show_rows(rows, cursor=cursor)
        self.describe()

    def is_useful(self, command: str) -> bool:
        return command != "default" or self.key in self.selection.settings

    def describe(self) -> None:
        """Meaning, range and default of the setting under the cursor, then what the configuration costs."""
        spec = setting_specs().get(self.key)
        if spec is None:
            key = "escape" if self.input_line.display else app_keys(self).of("config.back")
            self.show_detail(f"no setting contains this word; press {key}")
            return
        width = max(20, self.size.width - 3)
        meaning = textwrap.wrap(spec.meaning, width, max_lines=2, placeholder=" …")
        restored, own = restored_text(self.selection, spec.key), setting_text(spec.default) or "unset"
        about = f"accepts {spec.accepts}; default {restored}"
        about += f" (without preset and method: {own})" if restored != own else ""
        muted = Content.styled(visible("\n".join(textwrap.wrap(about, width, max_lines=2)), 400), "$foreground-muted")
        self.set_text("detail", Content("\n").join([literal("\n".join(meaning)), muted]))
        self._show_effect()

    def _show_effect(self) -> None:
        if not self.edited:
            self.set_text("effect", effects_text(self._effects(self.effective)))

    def _effects(self, effective: EffectiveConfig) -> PredictedCost:
        return effects(effective.config, self.context().budget, self.forecast.report, self.forecast.times)

    @on(OptionList.OptionSelected)
    def action_edit(self) -> None:
        spec = setting_specs().get(self.key)
        if spec is None:
            return
        self.edited, text = spec.key, setting_text(flatten(self.effective.config)[spec.key])
        self.input_line.ask(text, f"{spec.key}: {spec.accepts}", partial(self._entered, spec.key), self._typed)
        self._typed(text)

    def close_input(self) -> None:
        self.edited = ""
        super().close_input()

    def _typed(self, text: str) -> None:
        """Say what is wrong with the value, or what it changes."""
        try:
            chosen = with_text(self.selection, self.edited, text).effective()
        except UserError as error:
            shown = Content.styled(visible(error.line, 300), "$text-error")
        else:
            shown = effects_text(self._effects(chosen), self._effects(self.effective))
        self.set_text("effect", Content("\n").join([shown, Content(EDIT_KEYS)]))

    def _entered(self, key: str, text: str) -> bool:
        """Take a value; False where it is invalid, which is shown already."""
        try:
            selection = with_text(self.selection, key, text)
            effective = selection.effective()
        except UserError:
            return False
        self.selection, self.effective = selection, effective
        self._show_new()
        return True

    def action_default(self) -> None:
        if self.key not in self.selection.settings:
            self.tell(f"{self.key} is not changed: it is set by {self.effective.origins.get(self.key, 'default')}")
            return
        if not self._entered(self.key, ""):
            self.tell(f"cannot restore {self.key}: another change needs it", severity="error")

    def action_save(self) -> None:
        def saved(_: str) -> None:
            self.tell(f"press {app_keys(self).of('bench.presets')} on the bench to select it")

        save_selection(self, self.selection, self.effective, saved)

    def action_copy(self) -> None:
        command = run_command(self.selection, self.runs)
        self.app.copy_to_clipboard(command)
        self.tell(f"copied: {command}")

    def leave(self) -> None:
        self.dismiss(self.selection)
