"""Data, method and preset in three lists: what is chosen, and what the choice changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import OptionList

from engine.config.errors import UserError
from engine.config.method_specs import method_spec, next_method
from tui.choice import Choice, changes
from tui.widgets.data_list import DataList, Done
from tui.widgets.method_list import MethodList
from tui.widgets.preset_list import PresetList

if TYPE_CHECKING:  # imported where they are needed: the first picture has no preset yet, and no forecast
    from engine.config.preset import Effective
    from engine.memory.formula.memory_budget import MemoryBudget
    from tui.preview.memory_forecast import MethodForecast


@dataclass
class Chosen(Message):
    """Another choice holds; `changed` says in what it differs from the one before."""

    name: str
    effective: Effective
    changed: list[str]


@dataclass
class Refused(Message):
    """A choice that does not go together; the old one holds."""

    why: str


class Picked(Message):
    """Something was taken from a list by hand: the keys may go back to the bench."""


class ChoosingPane(Vertical):
    """The lists and the choice they show."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.choice = Choice()
        self.begun = False
        """Whether a preset has been looked for."""
        self.effective: Effective | None = None
        self.changed: list[str] = []
        """In what it differs from the choice before."""
        self.before = ""
        """What was chosen before."""
        self.room: MemoryBudget | None = None
        self.found: list[MethodForecast] = []
        """What each method would take."""

    def compose(self) -> ComposeResult:
        yield DataList(id="data")
        yield MethodList(id="method")
        yield PresetList(id="preset")

    def on_mount(self) -> None:
        self.call_after_refresh(self.begin)

    def begin(self) -> None:
        """Choose for the first time, unless a key that came before has had it done."""
        from engine.config import preset_library

        if self.begun:
            return
        self.begun = True
        self.choose(self.choice)
        if self.effective is None:  # the copy of it that the user made is broken: begin with a whole one
            whole = [listed.name for listed in preset_library.list_presets() if listed.preset]
            self.choose(Choice(next(iter(whole), self.choice.preset)))

    def choose(self, choice: Choice) -> None:
        """Another choice, laid out whole; a refused one leaves the old."""
        try:
            chosen = choice.effective()
        except UserError as error:
            self.post_message(Refused(error.line))
            return
        self.changed = changes(self.effective, chosen)
        self.before = (self.effective.config.title or self.choice.name) if self.effective else ""
        self.choice, self.effective = choice, chosen
        self.list_presets()
        self.list_methods()
        self.query_one(DataList).choose(chosen.config.data)
        self.post_message(Chosen(choice.name, chosen, self.changed))

    def choose_again(self) -> None:
        """The same choice after files may have changed; where its preset is gone, the one it began with."""
        from engine.config import preset_library

        names = [listed.name for listed in preset_library.list_presets()]
        gone = self.choice.preset not in names and not Path(self.choice.preset).is_file()
        before, changed = self.before, self.changed
        self.choose(self.choice.with_preset(Choice().preset) if gone else self.choice)
        if not self.changed:  # nothing new: what was said still holds
            self.before, self.changed = before, changed
        self.list_presets()

    def choose_slot(self, slot: int) -> None:
        """The preset that asked for this key."""
        from engine.config import preset_library

        self.begin()
        for listed in preset_library.list_presets():
            if listed.slot == slot:
                self.choose(self.choice.with_preset(listed.name))
                return
        self.post_message(Refused(f"no preset asked for key {slot}"))

    def next_method(self) -> None:
        self.begin()
        if self.effective is not None:
            self.choose(self.choice.with_method(next_method(self.effective.config.method)))

    def take_data(self, data: str) -> None:
        """Train on this set from now on, whatever the preset says."""
        from tui.data.datasets import EMBEDDED, NOT_TEXT, is_text
        from tui.data.recent import remember

        if not is_text(data):
            self.post_message(Refused(NOT_TEXT))
            return
        if data not in EMBEDDED:
            try:
                remember(data)
            except OSError as error:
                self.post_message(Refused(f"it will not be listed as recent: {error}"))
        self.choose(self.choice.with_data(data))
        if problems := self.query_one(DataList).problems(data):
            self.post_message(Refused("; ".join(problems)))

    @on(Done)
    def _done(self) -> None:
        self.post_message(Picked())

    def list_methods(self) -> None:
        """What each method takes with the present choice."""
        if self.effective is not None:
            from engine.config.model_files import find_model
            from tui.preview.memory_forecast import forecasts

            self.found = forecasts(self.choice, find_model(self.effective.config.model), self.room)
            self.query_one(MethodList).show_forecasts(self.found, self.effective.config.method)

    def list_presets(self) -> None:
        """The presets as their files are now."""
        from engine.config import preset_library

        self.query_one(PresetList).show_presets(preset_library.list_presets(), self.choice.name)

    def measure(self, room: MemoryBudget) -> None:
        """What there is room for has been found out, or has changed."""
        if room != self.room:
            self.room = room
            self.list_methods()

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        taken = event.option_id or ""
        match event.option_list.id:
            case "data":
                self.take_data(taken)
            case "method":
                self.choose(self.choice.with_method(method_spec(taken).name))
            case _:
                self.choose(self.choice.with_preset(taken))
        self.post_message(Picked())
