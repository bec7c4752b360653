"""The command palette: commands, presets, runs and data by a few letters. Everything in it is literal text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.screen import Screen
from textual.style import Style

from engine.config import preset_library
from engine.config.text import visible
from engine.runs import ladder_dir, run_dir
from engine.runs.home import tilde
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir
from tui.commands import TABLES, key_of
from tui.data.datasets import EMBEDDED, offered

if TYPE_CHECKING:
    from tui.app import Workbench

MOST_RUNS = 200
"""The newest: more than one reads through."""


@dataclass(frozen=True)
class PaletteEntry:
    """One thing one can take, with what taking it does."""

    text: str
    help: str
    take: Callable[[], object]


class Everything(Provider):
    """Searches all entries, in this order where they match equally."""

    async def startup(self) -> None:
        app = cast("Workbench", self.app)
        entries = [*commands(app, self.screen), *presets(app), *runs(app), *ladders(app), *data(app)]
        self.known = [(visible(entry.text, 120), entry) for entry in entries]

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for text, entry in self.known:
            score, offsets = matcher.fuzzy_search.match(query, text)
            if score:
                yield Hit(score, _shown(marked(text, offsets, self.match_style), entry), entry.take, text=text)

    async def discover(self) -> Hits:
        for text, entry in self.known:
            yield DiscoveryHit(_shown(Content(text), entry), entry.take, text=text)


def commands(app: Workbench, screen: Screen[Any]) -> Iterator[PaletteEntry]:
    """What the keys of this screen, and of every screen, do."""
    here = {binding.id for bindings in screen._bindings.key_to_bindings.values() for binding in bindings}
    for group, table in TABLES.items():
        for command in table:
            wanted = command.id in here or group == "app"
            if wanted and command.label and command.id != "app.palette":
                key = key_of(command.id, app.settings.keys)
                yield PaletteEntry(f"{command.label}  {key}", command.help, partial(_run, app, screen, command.action))


def presets(app: Workbench) -> Iterator[PaletteEntry]:
    """Every preset that can be used."""

    def choose(name: str) -> None:
        bench = app.back_to_bench()
        bench.choosing.choose(bench.choosing.choice.with_preset(name))

    for listed in preset_library.list_presets():
        if listed.preset:
            values = listed.preset.values
            title, about = values.get("title", ""), values.get("about", "")
            yield PaletteEntry(f"preset {listed.name}  {title}", about, partial(choose, listed.name))


def runs(app: Workbench) -> Iterator[PaletteEntry]:
    """The newest runs."""

    def watch(run: RunDir) -> None:
        app.back_to_bench().watch_run(run)

    newest = sorted(app.bench.read_all(run_dir.iterate(app.runs)), key=lambda run: run.name, reverse=True)
    for run in newest[:MOST_RUNS]:
        yield PaletteEntry(f"run {run.name}", _origin(run, "Show it on the bench"), partial(watch, run))


def ladders(app: Workbench) -> Iterator[PaletteEntry]:
    """The latest ladders."""

    def open_ladder(number: int) -> None:
        from tui.screens.ladder import LadderScreen

        screen = LadderScreen(app.runs, app.settings.ascii)
        screen.number = number
        app.back_to_bench()
        app.push_screen(screen)

    found = sorted(app.bench.read_all(ladder_dir.iterate(app.runs)), key=lambda ladder: ladder.name, reverse=True)
    for number, ladder in enumerate(found[:MOST_RUNS]):
        yield PaletteEntry(f"ladder {ladder.name}", _origin(ladder, "Show the ladder"), partial(open_ladder, number))


def _origin(found: RunDir | LadderDir, does: str) -> str:
    directory = found.started_in()
    return f"{does} (started in {tilde(directory)})." if directory else f"{does}."


def data(app: Workbench) -> Iterator[PaletteEntry]:
    """The sets of the data list."""

    def take(name: str) -> None:
        app.back_to_bench().choosing.take_data(name)

    chosen = app.bench.choosing.effective
    for one in offered(chosen.config.data.id if chosen else EMBEDDED[0]):
        yield PaletteEntry(f"data {one.label}", f"Train on {one.id}", partial(take, one.id))


async def _run(app: Workbench, screen: Screen[Any], action: str) -> None:
    await app.run_action(action, default_namespace=screen)


def marked(text: str, offsets: Iterable[int], style: Style | None) -> Content:
    """The text with the characters that matched standing out."""
    content = Content(text)
    for offset in offsets:
        if not text[offset].isspace():
            content = content.stylize(style or "bold", offset, offset + 1)
    return content


def _shown(text: Content, entry: PaletteEntry) -> Content:
    """With the help below: what the palette itself puts there it reads as markup."""
    return Content.assemble(text, "\n", (f"  {visible(entry.help, 100)}", "dim not bold"))
