"""The list of data sets, each with rows, format and a mark where a problem was found."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from textual import events, on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.config.text import visible
from tui.commands import bindings

if TYPE_CHECKING:  # imported where they are needed: the first picture has no sets yet
    from engine.config.schema import Data
    from tui.app import Workbench
    from tui.data.datasets import DataSet
    from tui.data.preview import Preview, PreviewReady, PreviewThread

MOVES = (
    ("down", "cursor_down"),
    ("up", "cursor_up"),
    ("home", "first"),
    ("end", "last"),
    ("pagedown", "page_down"),
    ("pageup", "page_up"),
)
SOON = 0.3
"""Seconds before counting begins: a first paint and quick key presses go first."""


@dataclass
class Inspect(Message):
    """Look into this set."""

    data: str


class Add(Message):
    """Another set than those listed."""


class Done(Message):
    """The keys may go back to the bench."""


class DataList(OptionList, inherit_bindings=False):
    """Space or a click takes a set (`OptionSelected`), enter or a double click looks into it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, action, show=False) for key, action in MOVES),
        *bindings("data"),
    ]

    app: Workbench

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, compact=True, markup=False)
        self.section: Data | None = None
        """What the configuration says of the data; its id is the set that is taken. None until there is one."""
        self.sets: list[DataSet] = []
        self.previews: dict[str, Preview] = {}
        self._gone: set[str] = set()
        """Recent files that are no longer there: left out for as long as that is so."""
        self._preview_thread: PreviewThread | None = None
        self._soon: Timer | None = None

    def on_unmount(self) -> None:
        if self._preview_thread:
            self._preview_thread.leave()

    def choose(self, section: Data) -> None:
        """Another configuration: mark its set, and look at all sets as it would read them."""
        if self.section is None or _reading(section) != _reading(self.section):
            self.previews = {}
        here = self.here if section.id == self.taken else None
        self.section = section
        self.relist(here.id if here else section.id)

    def relist(self, here: str | None = None) -> None:
        """The sets as they are now, the highlight on `here` or where it was."""
        if self.section is None:
            return
        from tui.data.datasets import offered

        here = here or (self.here.id if self.here else self.taken)
        gone = self._gone - {self.taken}
        self.sets = [one for one in offered(self.taken) if not (one.recent and one.id in gone)]
        self.set_options(Option(self._line(one), id=one.id) for one in self.sets)
        ids = [one.id for one in self.sets]
        self.highlighted = ids.index(here) if here in ids else ids.index(self.taken)
        if self._soon:
            self._soon.stop()
        self._soon = self.set_timer(SOON, self._look)

    @property
    def taken(self) -> str:
        """The id of the set that is taken, '' before there is one."""
        return self.section.id if self.section else ""

    @property
    def here(self) -> DataSet | None:
        """The highlighted set."""
        return self.sets[self.highlighted] if self.highlighted is not None and self.sets else None

    def problems(self, data: str) -> list[str]:
        """What was found in a set so far."""
        preview = self.previews.get(data)
        return preview.problems if preview else []

    def _look(self) -> None:
        """Have the engine count, in the background, what can be counted without a network."""
        if self.section is None:
            return
        from tui.data.datasets import NOT_TEXT, DataSet, is_text
        from tui.data.preview import Preview, PreviewReady, PreviewThread

        if self._preview_thread is None:
            self._preview_thread = PreviewThread(self.post_message)
            self._preview_thread.start()
        reading = _reading(self.section)
        for one in self.sets:
            if not is_text(one.id):
                self.on_preview_ready(PreviewReady(one.id, Preview(error=NOT_TEXT)))
        every = [*self.sets, *(DataSet(data, data) for data in self._gone)]
        wanted = [one.id for one in every if is_text(one.id) and not one.on_the_hub]
        self._preview_thread.want([(data, {**reading, "id": data}) for data in wanted])

    def on_preview_ready(self, message: PreviewReady) -> None:
        message.stop()
        if self.previews.get(message.data) == message.preview:
            return
        self.previews[message.data] = message.preview
        if message.preview.gone == (message.data in self._gone):
            self._redraw(message.data)
            return
        self._gone ^= {message.data}
        self.relist()

    def _redraw(self, data: str | None = None) -> None:
        for number, one in enumerate(self.sets):
            if data in (None, one.id):
                self.replace_option_prompt_at_index(number, self._line(one))
        self._describe()

    def on_resize(self) -> None:
        self._redraw()

    def on_focus(self) -> None:
        self.relist()  # files come and go

    def _line(self, one: DataSet) -> Content:
        from tui.data.datasets import line

        preview, taken = self.previews.get(one.id), one.id == self.taken
        width = self.scrollable_content_region.width or 24
        return line(one, preview, taken, width, self.app.settings.ascii)

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._describe()

    def _describe(self) -> None:
        """The highlighted set in a sentence: as much as fits into the border, all of it under the mouse."""
        if self.here:
            from tui.data.datasets import detail

            said = detail(self.here, self.previews.get(self.here.id))
            self.border_subtitle = Content(visible(said, max(8, self.content_size.width - 2)))
            self.tooltip = Content(visible(f"{self.here.id}: {said}", 600))

    def on_click(self, event: events.Click) -> None:
        if event.chain == 2:
            self.action_inspect()

    def action_take(self) -> None:
        self.action_select()

    def action_inspect(self) -> None:
        if self.here:
            self.post_message(Inspect(self.here.id))

    def action_add(self) -> None:
        self.post_message(Add())

    def action_forget(self) -> None:
        """Only a recent one; a file of this folder is listed because it is there."""
        from tui.data.recent import forget

        if self.here and self.here.recent:
            with contextlib.suppress(OSError):  # then it is still there next time
                forget(self.here.id)
            self.relist()
        elif self.here:
            said = f"{self.here.label} cannot be removed from the list: only recent sets from elsewhere can"
            self.app.notify(visible(said), markup=False)

    def action_back(self) -> None:
        self.post_message(Done())


def _reading(section: Data) -> dict[str, Any]:
    """What the configuration says of any set: all but which one it is."""
    import msgspec

    table: dict[str, Any] = msgspec.to_builtins(section)
    return {key: value for key, value in table.items() if key != "id"}
