"""The line of keys at the bottom: what each key does here, as many as fit. A click presses the key.

Empty while another screen has the keyboard.
"""

from __future__ import annotations

from collections.abc import Sequence

from textual.binding import Binding
from textual.content import Content
from textual.events import Click
from textual.screen import Screen

from tui.commands import all_commands
from tui.widgets.rows import Rows

ALWAYS = ("app.help", "app.quit")
"""Shown however narrow the terminal is: help lists all others."""
GAP = "  "


class KeyLine(Rows):
    """One line for all keys. Textual's Footer has a widget per key and creates all of them when the focus moves."""

    DEFAULT_CSS = """
    KeyLine { dock: bottom; height: 1; padding: 0 1; background: $footer-background; color: $footer-foreground; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._places: list[tuple[int, str]] = []
        """Column where each key's text ends, and the key."""

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)

    def on_resize(self) -> None:
        self.redraw()

    def on_click(self, event: Click) -> None:
        column = event.x - self.styles.padding.left
        if key := next((key for end, key in self._places if column < end), None):
            self.app.simulate_key(key)

    def redraw(self) -> None:
        parts: list[tuple[str, str]] = []
        self._places, end = [], 0
        for binding, shown in self._fitting() if self.screen is self.app.screen else ():
            parts += [(shown, "bold $text-primary"), (f" {binding.description}{GAP}", "")]
            end += len(shown) + 1 + len(binding.description) + len(GAP)
            self._places.append((end, binding.key))
        self.show([Content.assemble(*parts).rstrip()])

    def _fitting(self) -> list[tuple[Binding, str]]:
        """The bindings that fit, each with the name of its key."""
        active = in_order(
            [one.binding for one in self.screen.active_bindings.values() if one.binding.show and one.enabled]
        )
        first = {binding.action: binding for binding in reversed(active)}  # of several keys for one action the first
        named = [(binding, self.app.get_key_display(binding)) for binding in active if first[binding.action] is binding]
        widths = {pair: len(pair[1]) + 1 + len(pair[0].description) + len(GAP) for pair in named}
        space = self.content_size.width + len(GAP) - sum(widths[pair] for pair in named if pair[0].id in ALWAYS)
        fitting = []
        for pair in named:
            if pair[0].id not in ALWAYS:
                space -= widths[pair]
            if pair[0].id in ALWAYS or space >= 0:
                fitting.append(pair)
        return fitting

    def _bindings_changed(self, screen: Screen[object]) -> None:
        if self.is_attached and screen is self.screen:
            self.redraw()


def in_order(active: Sequence[Binding]) -> list[Binding]:
    """Sorted as in the command table: Textual appends a user's own key behind all others."""
    places = {command.id: number for number, command in enumerate(all_commands())}
    groups = [(binding.id or "").partition(".")[0] for binding in active]

    def place(binding: Binding) -> tuple[int, int]:
        return groups.index((binding.id or "").partition(".")[0]), places.get(binding.id or "", 0)

    return sorted(active, key=place)
