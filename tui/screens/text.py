"""A scrollable text: help, methods, a configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from engine.config.preset import EffectiveConfig, flatten
from engine.config.text import visible
from tui.commands import TABLES, TITLES
from tui.format import setting
from tui.keymap import CommandKeys, displayed_key
from tui.screens.base import BaseScreen


class TextScreen(BaseScreen[None]):
    """Shows a title and lines; escape or q closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "back", "back")]
    CSS = """
    TextScreen { align: center middle; }
    TextScreen VerticalScroll { width: 90%; max-width: 110; height: 90%; border: round $primary; padding: 0 1; }
    """

    def __init__(self, title: str, text: Content) -> None:
        super().__init__()
        self.heading, self.text = title, text

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = Content(visible(self.heading))
            yield Static(self.text)

    def action_back(self) -> None:
        self.dismiss()


def help_text(keys: CommandKeys, first: Collection[str] = ()) -> Content:
    """Every command with its keys; `first`: groups of commands that come before the others."""
    lines: list[Content] = []
    for group in sorted(TABLES, key=lambda group: group not in first):
        lines.append(Content.styled(TITLES[group], "bold"))
        for command in TABLES[group]:
            key = displayed_key(keys.all_of(command.id))
            lines.append(
                Content.assemble((f"  {key:<12} ", "$primary"), command.help, (f"  {command.id}", "$foreground-muted"))
            )
        lines.append(Content(""))
    return Content("\n").join(lines)


def config_text(effective: EffectiveConfig) -> Content:
    """Every setting with its origin; those that are not defaults in bold."""
    lines: Iterable[Content] = (
        Content.assemble(
            (f"{key:<32}", "bold" if effective.origins.get(key, "default") != "default" else ""),
            (f"{visible(value)!s:<28} ", ""),
            (visible(effective.origins.get(key, "default")), "$foreground-muted"),
        )
        for key, value in ((key, setting(value)) for key, value in flatten(effective.config).items())
    )
    return Content("\n").join(lines)
