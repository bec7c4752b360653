"""Rows of text that are drawn line by line, and the key line at the bottom of a screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.cells import cell_len
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click, MouseScrollDown, MouseScrollUp
from textual.geometry import Region, Size
from textual.screen import ModalScreen, Screen
from textual.strip import Strip
from textual.visual import Visual
from textual.widget import Widget

from engine.config.text import visible
from tui.commands import ADDED_KEYS, DEFAULT_KEYS, moves, typed_character

EMPTY = Content("")
WHEEL_LINES = 3
"""Lines per notch of the mouse wheel."""


def literal(text: str, style: str = "") -> Content:
    """Lines of a text of data, a model or a file: control characters are visible, nothing is markup."""
    return Content.styled("\n".join(map(visible, text.split("\n"))), style)


def is_covered(screen: Screen[Any]) -> bool:
    """Whether another full screen is above: Textual would draw that one again for every change below it.

    Dialogs are transparent. A screen that returns to the front redraws its rows (`BaseScreen`).
    """
    stack = screen.app.screen_stack
    above = stack[stack.index(screen) + 1 :] if screen in stack else []
    return any(not isinstance(covering, ModalScreen) for covering in above)


class Rows(Widget):
    """Cuts lines that are longer than the widget, and leaves the rows after the last line empty."""

    DEFAULT_CSS = "Rows { height: 1fr; }"

    lines: Sequence[Content] = ()
    _titles = ("", "")

    def redraw(self) -> None:
        """Draw what is known, for another size too."""

    def on_resize(self) -> None:
        self.redraw()

    def set_titles(self, title: str, right: str = "", below: str = "") -> None:
        """Set the pane's title, what stands at the right of it in the frame, and what stands in the frame below."""
        room = self.outer_size.width - cell_len(title) - cell_len(right) - 8  # corners and spaces of the frame
        titles = (f"{title} {'─' * room} {right}" if right and room > 0 else title, below)
        if titles != self._titles:  # setting them redraws the complete pane
            self._titles = titles
            self.border_title, self.border_subtitle = Content(titles[0]), Content(titles[1])

    def show(self, lines: Sequence[Content]) -> None:
        """Replace the lines; unchanged rows are not drawn again."""
        old, self.lines = self.lines, list(lines)
        width = self.content_size.width
        if not width or is_covered(self.screen):
            return
        for row in range(max(len(old), len(self.lines))):
            before = old[row] if row < len(old) else EMPTY
            after = self.lines[row] if row < len(self.lines) else EMPTY
            if before.plain != after.plain or before.spans != after.spans:  # Content.__eq__ compares the text only
                self.refresh(Region(0, row, width, 1))

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        style = self.visual_style
        if y >= len(self.lines):
            return Strip.blank(width, style.rich_style)
        line = self.lines[y].truncate(width, ellipsis=True)
        (strip,) = Visual.to_strips(self, line, width, 1, style, pad=True) or [Strip.blank(width, style.rich_style)]
        return strip

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return max(1, len(self.lines))


class ScrolledRows(Rows, can_focus=True):
    """Rows of which only some are visible; the wheel moves them as the keys do."""

    BINDINGS: ClassVar[list[BindingType]] = moves(
        "move(-1)", "move(1)", "move(-1000000)", "move(1000000)", "move(-10)", "move(10)"
    )

    def action_move(self, lines: int) -> None:
        raise NotImplementedError

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        event.stop()
        self.action_move(-WHEEL_LINES)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        event.stop()
        self.action_move(WHEEL_LINES)


ALWAYS = ("app.palette", "app.help")
"""Shown however narrow the terminal is: these find all others."""
GAP = "  "


class KeyLine(Rows):
    """One line for all keys. Textual's Footer has a widget per key and creates all of them when the focus moves."""

    DEFAULT_CSS = """
    KeyLine { dock: bottom; height: 1; padding: 0 1; background: $footer-background; color: $footer-foreground; }
    """

    def __init__(self, always: Sequence[str] = ()) -> None:
        """`always`: further commands that are shown however narrow the terminal is."""
        super().__init__()
        self.always = (*ALWAYS, *always)
        self._places: list[tuple[int, str]] = []
        """Column where each key's text ends, and the key."""

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)

    def on_click(self, event: Click) -> None:
        column = event.x - self.styles.padding.left
        if key := next((key for end, key in self._places if column < end), None):
            self.app.simulate_key(key)

    def redraw(self) -> None:
        """Show the keys of the screen in front that would do something now, as many as fit."""
        screen, always = self.screen, self.always
        of_screen = getattr(screen, "is_useful", lambda command: True)

        def is_useful(id: str) -> bool:
            return ADDED_KEYS[id].useful(screen) if id in ADDED_KEYS else bool(of_screen(id.partition(".")[2]))

        shown: dict[str, tuple[Binding, str]] = {}  # action -> the first of its keys, and the key's display name
        active = screen.active_bindings.values() if screen is self.app.screen else ()
        bound = [key.binding for key in active if key.binding.show and key.enabled]
        if screen.focused is not None:  # leave out keys that type text: Textual 8.2 misses slash, minus and others
            takes = screen.focused.check_consume_key
            bound = [binding for binding in bound if not takes(binding.key, typed_character(binding.key))]
        places = {id: number for number, id in enumerate(DEFAULT_KEYS)}
        groups = [(binding.id or "").partition(".")[0] for binding in bound]

        def place(binding: Binding) -> tuple[bool, int, int]:
            """As in the table of commands, the keys of all screens last: Textual appends a user's key to all others."""
            group = (binding.id or "").partition(".")[0]
            return group in EVERYWHERE, groups.index(group), places.get(binding.id or "", 0)

        for binding in sorted(bound, key=place):
            group = (binding.id or "").partition(".")[0]
            if group in EVERYWHERE or is_useful(binding.id or ""):
                shown.setdefault(binding.action, (binding, self.app.get_key_display(binding)))
        widths = {action: len(f"{key} {binding.description}{GAP}") for action, (binding, key) in shown.items()}
        needed = (widths[action] for action, (binding, _) in shown.items() if binding.id in always)
        space = self.content_size.width + len(GAP) - sum(needed)

        parts: list[tuple[str, str]] = []
        self._places, end = [], 0
        for action, (binding, key) in shown.items():
            if binding.id not in always:
                space -= widths[action]
                if space < 0:
                    continue
            parts += [(key, "bold $text-primary"), (f" {binding.description}{GAP}", "")]
            end += widths[action]
            self._places.append((end, binding.key))
        self.show([Content.assemble(*parts).rstrip()])

    def _bindings_changed(self, screen: Screen[object]) -> None:
        if self.is_attached and screen is self.screen:
            self.redraw()


EVERYWHERE = ("preset", "app")
"""Groups of the commands of all screens."""
