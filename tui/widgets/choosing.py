"""Data, method and preset in three lists: what is chosen, and what the choice changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.contract import library
from engine.contract.errors import UserError
from engine.contract.preset import Effective
from engine.contract.schema import METHODS
from engine.contract.text import visible
from tui.choice import Choice, changes

ABOUT = {"qlora": "adapters, 4 bits", "lora": "adapters", "full": "every weight"}
EMBEDDED = ("tickets",)
"""Data sets that come along."""
MOST_FILES = 200


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


@dataclass
class Picked(Message):
    """Something was taken from a list by hand: the keys may go back to the bench."""


class ChoosingPane(Vertical):
    """The lists and the choice they show."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.choice = Choice()
        self.effective: Effective | None = None

    def compose(self) -> ComposeResult:
        for name in ("data", "method", "preset"):
            yield OptionList(id=name, compact=True)

    def on_mount(self) -> None:
        self._list_data()
        self._list_presets()
        self.choose(self.choice)

    def choose(self, choice: Choice) -> None:
        """Another choice, laid out whole; a refused one leaves the old."""
        try:
            chosen = choice.effective()
        except UserError as error:
            self.post_message(Refused(error.line))
            return
        changed = changes(self.effective, chosen)
        self.choice, self.effective = choice, chosen
        self._list_methods(chosen)
        self.post_message(Chosen(choice.name, chosen, changed))

    def choose_slot(self, slot: int) -> None:
        """The preset that asked for this key."""
        for listed in library.list_presets():
            if listed.preset and listed.preset.values.get("slot") == slot:
                self.choose(self.choice.with_preset(listed.name))
                return
        self.post_message(Refused(f"no preset asked for key {slot}"))

    def next_method(self) -> None:
        if self.effective is not None:
            number = METHODS.index(self.effective.config.method)
            self.choose(self.choice.with_method(METHODS[(number + 1) % len(METHODS)]))

    def _list_data(self) -> None:
        options = [Option(Content(name), id=name) for name in EMBEDDED]
        files = sorted(path for path in Path.cwd().iterdir() if path.suffix in library.DATA_SUFFIXES)
        options += [Option(Content(visible(path.name)), id=str(path)) for path in files[:MOST_FILES]]
        self.query_one("#data", OptionList).set_options(options)

    def _list_methods(self, chosen: Effective) -> None:
        pane = self.query_one("#method", OptionList)
        pane.set_options([Option(Content(f"{method:<6} {ABOUT[method]}"), id=method) for method in METHODS])
        pane.highlighted = METHODS.index(chosen.config.method)

    def _list_presets(self) -> None:
        options = []
        for listed in library.list_presets():
            slot = listed.preset.values.get("slot", " ") if listed.preset else "!"
            title = listed.preset.values.get("title", listed.name) if listed.preset else f"{listed.name}: broken"
            options.append(Option(Content(visible(f"{slot} {title}")), id=listed.name, disabled=listed.preset is None))
        self.query_one("#preset", OptionList).set_options(options)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        taken = event.option_id or ""
        match event.option_list.id:
            case "data":
                self.choose(self.choice.with_data(taken))
            case "method":
                self.choose(self.choice.with_method(next(method for method in METHODS if method == taken)))
            case _:
                self.choose(self.choice.with_preset(taken))
        self.post_message(Picked())
