"""The list of datasets, each with its number of rows, its format, and a mark if a problem was found."""

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

from engine.config.text import visible
from tui.commands import bindings
from tui.settings import tell
from tui.widgets.table import Lines

if TYPE_CHECKING:  # imported where they are used: the first frame lists no datasets
    from engine.config.schema import Data
    from tui.data.datasets import DataSet
    from tui.data.preview import Preview, PreviewReady, PreviewThread

COUNT_DELAY = 0.3
"""Seconds before counting starts: the first frame and quick key presses go first."""


@dataclass
class SettingsSuggested(Message):
    """The selected dataset can be used with other settings, which its preview has."""

    data: str
    preview: Preview


class SelectList(Lines):
    """A list of the bench; enter selects."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", show=False)]

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, compact=True)

    def fill(self, cursor: str = "") -> None:
        """List what is known, as wide as the list is; the cursor stays on its row, or goes to `cursor`."""

    def on_resize(self) -> None:
        self.fill()
        self.call_after_refresh(self.scroll_to_highlight)


class DataList(SelectList, inherit_bindings=False):
    """Space or a click selects a dataset (`OptionSelected`); the bench inspects one on enter or a double click."""

    BINDINGS: ClassVar[list[BindingType]] = [*Lines.BINDINGS, *bindings("data")]
    letter: ClassVar[str] = "d"

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id)
        self.section: Data | None = None
        """The section `data` of the configuration; its id is the selected dataset. None until there is one."""
        self.sets: list[DataSet] = []
        self.previews: dict[str, Preview] = {}
        self.offered: set[str] = set()
        """Datasets whose suggested settings were offered."""
        self._missing: set[str] = set()
        """Recent files that no longer exist: hidden until they exist again."""
        self._preview_thread: PreviewThread | None = None
        self._count_timer: Timer | None = None

    def on_unmount(self) -> None:
        if self._preview_thread:
            self._preview_thread.stop()

    def select(self, section: Data) -> None:
        """Take another configuration: mark its dataset, and preview all datasets as it would read them."""
        if self.section is None or _read_settings(section) != _read_settings(self.section):
            self.previews = {}
        kept = self.current if section.id == self.selected_id else None
        self.section = section
        self.relist(kept.id if kept else section.id)
        self.suggest()

    def suggest(self) -> None:
        """Offer the settings that the selected dataset needs, once."""
        preview = self.previews.get(self.selected_id)
        if preview is not None and preview.suggested and self.selected_id not in self.offered:
            self.offered.add(self.selected_id)
            self.call_later(self._offer, self.selected_id, preview)

    def _offer(self, data: str, preview: Preview) -> None:
        """Called later: a message that is made while its parent's is handled does not go beyond that parent."""
        self.post_message(SettingsSuggested(data, preview))

    def relist(self, cursor: str | None = None) -> None:
        """List the datasets as they are now, the cursor on `cursor` or where it was."""
        if self.section is None:
            return
        from tui.data.datasets import list_datasets

        cursor = cursor or (self.current.id if self.current else self.selected_id)
        missing = self._missing - {self.selected_id}
        self.sets = [
            dataset for dataset in list_datasets(self.selected_id) if not (dataset.recent and dataset.id in missing)
        ]
        ids = [dataset.id for dataset in self.sets]
        self.fill(cursor if cursor in ids else self.selected_id)
        if self._count_timer:
            self._count_timer.stop()
        self._count_timer = self.set_timer(COUNT_DELAY, self._count)

    @property
    def selected_id(self) -> str:
        """The id of the selected dataset, '' before there is one."""
        return self.section.id if self.section else ""

    @property
    def current(self) -> DataSet | None:
        return self.sets[self.highlighted] if self.highlighted is not None and self.sets else None

    def _count(self) -> None:
        """Let the engine count in the background; datasets on the Hub are not downloaded for it."""
        if self.section is None:
            return
        from tui.data.datasets import NOT_TEXT, DataSet, is_utf8
        from tui.data.preview import Preview, PreviewReady, PreviewThread

        if self._preview_thread is None:
            self._preview_thread = PreviewThread(self.post_message)
            self._preview_thread.start()
        settings = _read_settings(self.section)
        for dataset in self.sets:
            if not is_utf8(dataset.id):
                self.on_preview_ready(PreviewReady(dataset.id, Preview(error=NOT_TEXT)))
        listed = [*self.sets, *(DataSet(data, data) for data in self._missing)]
        countable = [dataset.id for dataset in listed if is_utf8(dataset.id) and not dataset.on_the_hub]
        self._preview_thread.want([(data, {**settings, "id": data}) for data in countable])

    def on_preview_ready(self, message: PreviewReady) -> None:
        message.stop()
        if self.previews.get(message.data) == message.preview:
            return
        self.previews[message.data] = message.preview
        self.suggest()
        if message.preview.gone == (message.data in self._missing):
            self.fill()
            return
        self._missing ^= {message.data}
        self.relist()

    def fill(self, cursor: str = "") -> None:
        if not self.sets:  # the first frame, which must not wait for the import
            return
        from tui.data.datasets import line

        width, selected = self.scrollable_content_region.width or 24, self.selected_id
        rows = [(data.id, line(data, self.previews.get(data.id), data.id == selected, width)) for data in self.sets]
        self.show(rows, cursor)
        self._describe()

    def on_focus(self) -> None:
        self.relist()  # files may have been added or removed

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._describe()

    def _describe(self) -> None:
        """Describe the dataset under the cursor: in the border as much as fits, in the tooltip everything."""
        if self.current:
            from tui.data.datasets import detail

            text = detail(self.current, self.previews.get(self.current.id))
            self.border_subtitle = Content(visible(text, max(8, self.content_size.width - 2)))
            self.tooltip = Content(visible(f"{self.current.id}: {text}", 600))

    async def on_click(self, event: events.Click) -> None:
        if event.chain == 2:
            await self.app.run_action("inspect_data", default_namespace=self.screen)

    def action_forget(self) -> None:
        """Remove a recent dataset from the list; files of the working directory are always listed."""
        from tui.data.recent import forget

        if self.current and self.current.recent:
            with contextlib.suppress(OSError):  # it stays in the list
                forget(self.current.id)
            self.relist()
        elif self.current:
            tell(self, f"{self.current.label} cannot be removed from the list: only recent datasets from elsewhere can")


def _read_settings(section: Data) -> dict[str, Any]:
    """The section without the id: how a dataset is read."""
    import msgspec

    table: dict[str, Any] = msgspec.to_builtins(section)
    return {key: value for key, value in table.items() if key != "id"}
