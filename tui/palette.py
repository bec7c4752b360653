"""The command palette: search commands, presets, runs, ladders and datasets. All of it is literal text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, cast

from textual.binding import Binding
from textual.command import CommandInput, DiscoveryHit, Hit, Hits, Provider, SearchIcon
from textual.command import CommandPalette as TextualPalette
from textual.content import Content
from textual.dom import DOMNode
from textual.screen import Screen
from textual.style import Style

from engine.config.text import visible
from engine.runs.home import tilde
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from tui.commands import TABLES
from tui.data.datasets import EMBEDDED, list_datasets
from tui.keymap import CommandKeys
from tui.screens.bench_actions import BenchScreen
from tui.settings import Settings

MAX_DIRECTORY = 60
"""Characters of a directory."""
MAX_RUNS = 200
"""Runs, and ladders, that a search finds, the latest first; the screens of runs and ladders have all."""
LISTED_RUNS = 10
"""Runs, and ladders, that are listed before anything is typed, the latest first."""


class PaletteApp(Protocol):
    """What the palette needs of the app besides Textual's own `App`."""

    runs: Path
    settings: Settings
    bench: BenchScreen

    def back_to_bench(self) -> BenchScreen: ...

    async def run_action(self, action: str, default_namespace: DOMNode | None = None) -> bool: ...


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
        app = cast(PaletteApp, self.app)
        entries = [*commands(app, self.screen), *presets(app), *runs(app), *ladders(app), *data(app)]
        self.entries = [(visible(entry.text, 120), entry) for entry in entries]

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for text, entry in self.entries:
            score, offsets = matcher.fuzzy_search.match(query, text)
            if score:
                yield Hit(score, _shown(marked(text, offsets, self.match_style), entry), entry.select, text=text)

    async def discover(self) -> Hits:
        for text, entry in self.entries:
            if entry.is_listed:
                yield DiscoveryHit(_shown(Content(text), entry), entry.select, text=text)


def commands(app: PaletteApp, screen: Screen[Any]) -> Iterator[PaletteEntry]:
    """The commands of this screen and of the app."""
    keys = CommandKeys(app.settings.keys)
    bound = {binding.id for binding in screen.BINDINGS if isinstance(binding, Binding)}
    for group, table in TABLES.items():
        for command in table:
            is_bound = command.id in bound or group == "app"
            if is_bound and command.label and command.id != "app.palette" and not command.id.startswith("preset."):
                text = f"{command.label}  {keys.of(command.id)}"
                yield PaletteEntry(text, command.help, partial(app.run_action, command.action, screen))


def presets(app: PaletteApp) -> Iterator[PaletteEntry]:
    """Every valid preset, as the bench lists them."""

    def select(name: str) -> None:
        bench = app.back_to_bench()
        bench.selection_pane.select(bench.selection_pane.selection.with_preset(name))

    app.bench.selection_pane.select_initial()
    for listed in app.bench.selection_pane.listed:
        if listed.preset:
            values = listed.preset.values
            title, about = values.get("title", ""), values.get("about", "")
            yield PaletteEntry(f"preset {listed.name}  {title}", about, partial(select, listed.name))


def runs(app: PaletteApp) -> Iterator[PaletteEntry]:
    """The latest runs."""

    def watch(run: RunDir) -> None:
        app.back_to_bench().watch_run(run)

    latest = sorted(app.bench.read_all(run_dir.iterate(app.runs)), key=lambda run: run.name, reverse=True)
    for index, run in enumerate(latest[:MAX_RUNS]):
        show_run, is_listed = partial(watch, run), index < LISTED_RUNS
        yield PaletteEntry(f"run {run.name}", "Show this run on the bench", show_run, run, is_listed)


def ladders(app: PaletteApp) -> Iterator[PaletteEntry]:
    """The latest ladders."""

    def show(index: int) -> None:
        app.back_to_bench().action_ladder(index)

    latest = sorted(app.bench.read_all(ladder_dir.iterate(app.runs)), key=lambda ladder: ladder.name, reverse=True)
    for index, ladder in enumerate(latest[:MAX_RUNS]):
        is_listed = index < LISTED_RUNS
        yield PaletteEntry(f"ladder {ladder.name}", "Show this ladder", partial(show, index), ladder, is_listed)


def data(app: PaletteApp) -> Iterator[PaletteEntry]:
    """The datasets of the data list."""

    def select(name: str) -> None:
        app.back_to_bench().selection_pane.select_data(name)

    effective = app.bench.selection_pane.effective
    for dataset in list_datasets(effective.config.data.id if effective else EMBEDDED[0]):
        yield PaletteEntry(f"data {dataset.label}", f"Train on {dataset.id}.", partial(select, dataset.id))


def marked(text: str, offsets: Iterable[int], style: Style | None) -> Content:
    """The text with its matching characters highlighted."""
    content = Content(text)
    for offset in offsets:
        if not text[offset].isspace():
            content = content.stylize(style or "bold", offset, offset + 1)
    return content


def _shown(text: Content, entry: PaletteEntry) -> Content:
    """The text with its help below; the palette's own help would be read as markup."""
    return Content.assemble(text, "\n", (f"  {visible(entry.about, 100)}", "dim not bold"))
