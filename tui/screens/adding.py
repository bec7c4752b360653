"""The input line that adds a dataset by its Hub id, or by its path, which tab completes as in a shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.suggester import Suggester

from engine.config.errors import UserError
from engine.config.files import expanded, is_data_file, is_hub_id
from engine.config.text import visible
from tui.data.datasets import ON_THE_HUB, is_folder, typed_dataset
from tui.data.recent import EMBEDDED
from tui.screens.table_screen import ValueInput
from tui.settings import tell

HINT = "path of a file or folder (tab completes it), or Hub id owner/name"
MAX_SHOWN = 100
"""Maximum number of matching names shown."""
READING_SECONDS = 1.0
"""Maximum time that a key press waits for a disk."""
T = TypeVar("T")


class DiskReader:
    """Reads disks in threads, because a network disk may be stalled. A call in progress is shared, not repeated.

    The threads are daemon threads: on exit, the app would wait for the threads of asyncio's executor.
    """

    def __init__(self) -> None:
        self._pending: dict[tuple[Callable[[str], object], str], asyncio.Future[Any]] = {}

    async def read(self, function: Callable[[str], T], path: str) -> T:
        """What the function returns for this path. Raises the UserError that it raises."""
        key, loop = (function, path), asyncio.get_running_loop()
        if key not in self._pending:
            result = self._pending[key] = loop.create_future()

            def finish(answer: Callable[[], object]) -> None:
                del self._pending[key]
                answer()

            def work() -> None:
                try:
                    answer = partial(result.set_result, function(path))
                except UserError as error:
                    answer = partial(result.set_exception, error)
                with contextlib.suppress(RuntimeError):  # the app has ended
                    loop.call_soon_threadsafe(finish, answer)

            threading.Thread(target=work, daemon=True, name="disk").start()
        return await asyncio.shield(self._pending[key])


def list_folder(folder: str) -> list[str]:
    """Names of the data files and of the folders in a folder, the latter with a trailing slash.

    Names with control characters are left out, because an input line cannot show them. Raises UserError for a folder
    that cannot be read.
    """
    try:
        entries = [entry for entry in os.scandir(expanded(folder or ".")) if entry.name == visible(entry.name)]
    except (OSError, ValueError) as error:
        problem = f"cannot read the folder ({getattr(error, 'strerror', None) or error})"
        raise UserError(problem, visible(folder), "check the path", code="data.not_found") from error
    names = [f"{entry.name}/" if is_folder(entry) else entry.name for entry in entries]
    return [name for name in names if name.endswith("/") or is_data_file(name)]


async def continuations(text: str, disk: DiskReader) -> list[str]:
    """The folders and data files to which a typed path can be continued, sorted; hidden ones only after a dot.

    Raises UserError for a folder that cannot be read.
    """
    if text in ("~", ".", ".."):
        return [f"{text}/"]
    head, slash, word = text.rpartition("/")
    folder = head + slash
    names = await disk.read(list_folder, folder)
    return sorted(folder + name for name in names if name.startswith(word) and (word or not name.startswith(".")))


class PathSuggester(Suggester):
    """Suggests the first of the paths that start with the typed text."""

    def __init__(self, disk: DiskReader, show: Callable[[str, str], object]) -> None:
        """`show`: called with the typed text, and with a line about the paths or the dataset that it matches."""
        super().__init__(use_cache=False, case_sensitive=True)
        self._disk, self._show = disk, show

    async def get_suggestion(self, value: str) -> str | None:
        try:
            paths, about = await continuations(value, self._disk), "no matching folder or data file"
        except UserError as error:
            paths, about = [], error.line
        if paths:
            start = value.rfind("/") + 1
            about = f"{len(paths):,} matching: {'  '.join(path[start:] for path in paths[:MAX_SHOWN])}"
        elif value in EMBEDDED:
            about = "embedded dataset"
        elif is_hub_id(value):
            with contextlib.suppress(UserError):
                if await self._disk.read(typed_dataset, value) == value:
                    about = ON_THE_HUB.note
        self._show(value, about)
        return paths[0] if paths else None


class PathInput(ValueInput):
    """Tab completes the path up to where the matching paths differ; right accepts the suggested path."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "complete", "complete"),
        Binding("right", "cursor_right", "take suggestion"),
        Binding("enter", "submit", "add"),
        Binding("escape", "cancel", "cancel"),
    ]

    def __init__(self, hidden: Callable[[], object]) -> None:
        super().__init__(hidden, id="path")
        self._disk = DiskReader()
        self.suggester: Suggester = PathSuggester(self._disk, self._show)

    def open(self, take: Callable[[str], bool]) -> None:
        """Ask for a dataset. `take` is called with its id, and returns False if it is not accepted."""

        def typed(text: str = "") -> None:
            if not text:  # Textual requests no suggestion for an empty input
                self.run_worker(self.suggester.get_suggestion(""))

        self.ask("", HINT, partial(self._enter, take), typed)
        typed()

    def _show(self, text: str, about: str) -> None:
        if text == self.value:  # else the text was edited, and its own answer follows
            self.border_title = Content(about)

    async def _enter(self, take: Callable[[str], bool], text: str) -> bool:
        """Take the dataset that was typed, if any. False for invalid text, with a notification."""
        if not (text := text.strip()):
            return True
        try:
            return take(await asyncio.wait_for(self._disk.read(typed_dataset, text), READING_SECONDS))
        except UserError as error:
            tell(self, error.line, severity="error")
        except TimeoutError:
            tell(self, f"no answer from the disk: {visible(text)}; try again later", severity="error")
        return False

    async def action_complete(self) -> None:
        text, paths = self.value, list[str]()
        with contextlib.suppress(UserError, TimeoutError):
            paths = await asyncio.wait_for(continuations(text, self._disk), READING_SECONDS)
        certain = os.path.commonprefix(paths)  # noqa: RUF071 - character by character, as a shell does
        if self.value == text and len(certain) > len(text):
            self.value = certain
            self.cursor_position = len(certain)
        else:
            self.app.bell()
