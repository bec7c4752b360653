"""The command palette: search commands, presets, runs, ladders and datasets. All of it is literal text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

from textual.binding import Binding
from textual.command import CommandInput, DiscoveryHit, Hit, Hits, Provider, SearchIcon
from textual.command import CommandPalette as TextualPalette
from textual.content import Content
from textual.screen import Screen

from engine.config.text import visible
from engine.runs.home import tilde
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.folder import sort_by_start
from engine.runs.run.run_dir import RunDir
from tui.commands import TABLES
from tui.data.datasets import list_datasets
from tui.data.recent import EMBEDDED
from tui.screens.bench_actions import BenchScreen
from tui.settings import app_keys

MAX_DIRECTORY = 60
"""Characters of a directory."""
MAX_RUNS = 200
"""Runs, and ladders, that a search finds, the latest first; the screens of runs and ladders have all."""
LISTED_RUNS = 10
"""Runs, and ladders, that are listed before anything is typed, the latest first."""


@dataclass(frozen=True)
class PaletteEntry:
    """An entry and what selecting it does."""

    text: str
    help: str
    select: Callable[[], object]
    folder: RunDir | LadderDir | None = None
    """The run or ladder that it shows; None for other entries."""
    is_listed: bool = True
    """Whether it is shown before anything is typed."""
    on_bench: bool = True
    """Whether the screens above the bench are closed first."""

    @cached_property
    def about(self) -> str:
        """The help, and where a run or ladder was started, which is read only for entries that are shown.

        `Show this ladder (started in ~/project).`; a long path is cut at its start.
        """
        if self.folder is None:
            return self.help
        directory = tilde(self.folder.started_in() or "")
        shown = directory if len(directory) <= MAX_DIRECTORY else f"…{directory[1 - MAX_DIRECTORY :]}"
        return f"{self.help} (started in {shown})." if directory else f"{self.help}."


class CommandPalette(TextualPalette):
    """Textual's palette, first drawn with its entries: before, it would be the screen below, drawn once more."""

    DEFAULT_CSS = """
    CommandPalette { background: transparent; } /* as all dialogs */
    CommandPalette SearchIcon { color: $foreground; }
    """

    def on_mount(self) -> None:
        self.query_one(SearchIcon).icon = ":"  # its emoji is not in every font, nor of the same width everywhere
        self.query_one(CommandInput).cursor_blink = False  # each change draws the screen below again

    def _compositor_refresh(self) -> None:  # private (Textual 8.2): if it is renamed, the palette only opens later
        if self.has_class("-ready"):
            super()._compositor_refresh()


class PaletteProvider(Provider):
    """Searches commands, presets, runs and datasets; equal matches stay in this order."""

    async def startup(self) -> None:
        self.bench = cast(BenchScreen, self.app.screen_stack[0])
        entries = [*commands(self.screen), *listed_entries(self.bench)]
        self.entries = [(visible(entry.text, 120), entry) for entry in entries]

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for text, entry in self.entries:
            score, offsets = matcher.fuzzy_search.match(query, text)
            if score:
                content = Content(text)
                for offset in offsets:  # the matching characters
                    if not text[offset].isspace():
                        content = content.stylize(self.match_style or "bold", offset, offset + 1)
                yield Hit(score, _shown(content, entry), partial(self._select, entry), text=text)

    async def discover(self) -> Hits:
        for text, entry in self.entries:
            if entry.is_listed:
                yield DiscoveryHit(_shown(Content(text), entry), partial(self._select, entry), text=text)

    def _select(self, entry: PaletteEntry) -> object:
        while entry.on_bench and self.app.screen is not self.bench and self.bench in self.app.screen_stack:
            self.app.pop_screen()
        return entry.select()


def commands(screen: Screen[Any]) -> Iterator[PaletteEntry]:
    """The commands of this screen and of the app."""
    keys = app_keys(screen)
    bound = {binding.id for binding in screen.BINDINGS if isinstance(binding, Binding)}
    for group, table in TABLES.items():
        for command in table:
            is_bound = command.id in bound or group == "app"
            if is_bound and command.label and command.id != "app.palette" and not command.id.startswith("preset."):
                text, run = f"{command.label}  {keys.of(command.id)}", screen.app.run_action
                yield PaletteEntry(
                    text, command.help, partial(run, command.listed or command.action, screen), on_bench=False
                )


def listed_entries(bench: BenchScreen) -> Iterator[PaletteEntry]:
    """Every valid preset, the latest runs and ladders, and the datasets, as the bench lists them."""
    pane = bench.selection_pane
    pane.select_initial()
    for preset in pane.listed:
        if preset.preset:
            title, about = (preset.preset.values.get(key, "") for key in ("title", "about"))
            select = partial(bench.select_preset, preset.name)
            yield PaletteEntry(f"preset {preset.name}  {title}", about, select)
    runs = sort_by_start(bench.read_all(RunDir.iterate(bench.runs)), latest_first=True)
    for index, run in enumerate(runs[:MAX_RUNS]):
        watch, is_listed = partial(bench.watch_run, run), index < LISTED_RUNS
        yield PaletteEntry(f"run {run.name}", "Show this run on the bench", watch, run, is_listed)
    ladders = sort_by_start(bench.read_all(LadderDir.iterate(bench.runs)), latest_first=True)
    for index, ladder in enumerate(ladders[:MAX_RUNS]):
        show, is_listed = partial(bench.action_ladder, index), index < LISTED_RUNS
        yield PaletteEntry(f"ladder {ladder.name}", "Show this ladder", show, ladder, is_listed)
    for dataset in list_datasets(pane.effective.config.data.id if pane.effective else EMBEDDED[0]):
        train = partial(pane.select_data, dataset.id)
        yield PaletteEntry(f"data {dataset.label}", f"Train on {dataset.id}.", train)


def _shown(text: Content, entry: PaletteEntry) -> Content:
    """The text with its help below; the palette's own help would be read as markup."""
    return Content.assemble(text, "\n", (f"  {visible(entry.about, 100)}", "dim not bold"))
