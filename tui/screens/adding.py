"""The input line that adds a dataset: a Hub id, or a path that it completes as a shell does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.suggester import Suggester

from engine.config.errors import UserError
from engine.config.files import expanded, is_data_file
from engine.config.text import visible
from tui.data.datasets import ON_THE_HUB, DataSet, is_folder
from tui.screens.table_screen import ValueInput

HINT = "path of a file or folder (tab completes it), or Hub id owner/name"
MAX_SHOWN = 100
"""Names that are shown, at most: more do not fit."""
READING_SECONDS = 1.0
"""For which the completion key waits for a disk."""


async def continuations(text: str) -> list[str]:
    """The folders and data files to which a typed path can be continued, sorted.

    Raises UserError for a folder that cannot be read. A thread reads it, because a network disk may be slow. It is none
    of asyncio's, for which the app would wait on exit.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[list[str]] = loop.create_future()

    def read() -> None:
        try:
            answer = partial(result.set_result, sorted(_continuations(text)))
        except UserError as error:
            answer = partial(result.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the app has ended
            loop.call_soon_threadsafe(lambda: None if result.done() else answer())

    threading.Thread(target=read, daemon=True).start()
    return await result


def _continuations(text: str) -> Iterator[str]:
    """Without names that an input line cannot show as they are; hidden ones only after a dot."""
    if text in ("~", ".", ".."):
        yield f"{text}/"
        return
    head, slash, word = text.rpartition("/")
    folder = head + slash
    try:
        entries = list(os.scandir(expanded(folder or ".")))
    except (OSError, ValueError) as error:
        problem = f"cannot read the folder ({getattr(error, 'strerror', None) or error})"
        raise UserError(problem, visible(folder), code="data.not_found") from error
    for entry in entries:
        is_hidden = entry.name.startswith(".") and not word
        if entry.name.startswith(word) and not is_hidden and entry.name == visible(entry.name):
            if is_folder(entry):
                yield f"{folder}{entry.name}/"
            elif is_data_file(entry.name):
                yield folder + entry.name


class PathSuggester(Suggester):
    """Suggests the first path to which a typed one can be continued."""

    def __init__(self, show: Callable[[str, str], object]) -> None:
        """`show`: called with the typed text, and with what it can be."""
        super().__init__(use_cache=False, case_sensitive=True)
        self._show = show

    async def get_suggestion(self, value: str) -> str | None:
        try:
            paths, about = await continuations(value), "no folder or data file begins like this"
        except UserError as error:
            paths, about = [], error.line
        if paths:
            start = value.rfind("/") + 1
            about = f"{len(paths):,} matching: {'  '.join(path[start:] for path in paths[:MAX_SHOWN])}"
        elif DataSet(value, value).on_the_hub:
            about = ON_THE_HUB.note
        self._show(value, about)
        return paths[0] if paths else None


class PathInput(ValueInput):
    """Tab continues the path as far as it is certain; right takes the path that is suggested."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "complete", "complete"),
        Binding("right", "cursor_right", "take suggestion"),
        Binding("enter", "submit", "add"),
        Binding("escape", "cancel", "cancel"),
    ]

    def __init__(self, hidden: Callable[[], object]) -> None:
        super().__init__(hidden, id="path")
        self.suggester: Suggester = PathSuggester(self._show)

    def open(self, entered: Callable[[str], object]) -> None:
        """Ask for a dataset. `entered` returns False for a text that is not accepted."""

        def typed(text: str = "") -> None:
            if not text:  # for which an input asks for no suggestion
                self.run_worker(self.suggester.get_suggestion(""))

        self.ask("", HINT, entered, typed)
        typed()

    def _show(self, text: str, about: str) -> None:
        if text == self.value:  # else the answer for a later text follows
            self.border_title = Content(about)

    async def action_complete(self) -> None:
        text, paths = self.value, list[str]()
        with contextlib.suppress(UserError, TimeoutError):
            paths = await asyncio.wait_for(continuations(text), READING_SECONDS)
        certain = os.path.commonprefix(paths)  # noqa: RUF071 - character by character, as a shell does
        if self.value == text and len(certain) > len(text):
            self.value = certain
            self.cursor_position = len(certain)
        else:
            self.app.bell()
