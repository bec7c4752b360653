"""What a shell offers for arguments and options, by Typer's completion: `ftbench --install-completion`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

from engine.config.errors import UserError

SAFE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
"""Words that need no quotes in a shell. Others, such as the name of a file with `$(…)`, are not offered: Typer's script
for zsh evaluates what it gets, that for bash inserts it as it is."""
Source = Callable[[Path | None], Iterable[str]]
"""The values of an argument or option, for the runs home of the command line. The modules that know them are imported
when the words are asked for."""


def offers(source: Source) -> Callable[[typer.Context, str], list[str]]:
    """`autocompletion` of an argument or option; offers nothing where the values cannot be read."""

    def fitting(ctx: typer.Context, incomplete: str) -> list[str]:
        home = ctx.params.get("runs") or ctx.find_root().params.get("runs")
        try:
            words = list(source(home))
        except (OSError, UserError):  # no message while a line is typed; the command itself reports it
            return []
        return [word for word in words if word.startswith(incomplete) and SAFE.fullmatch(word)]

    return fitting


def _names(home: Path | None, *kinds: Callable[[Path], Iterable[Any]]) -> list[str]:
    """`last`, and what is in the runs home, the latest first. `kinds`: functions that list some of it."""
    from engine.runs.home import runs_home
    from engine.runs.run.folder import sort_by_start

    found = [folder for kind in kinds for folder in kind(runs_home(home))]
    return ["last", *(folder.name for folder in sort_by_start(found, latest_first=True))]


@offers
def runs(home: Path | None) -> Iterable[str]:
    from engine.runs.run.run_dir import RunDir

    return _names(home, RunDir.iterate)


@offers
def ladders(home: Path | None) -> Iterable[str]:
    """Ladders, and what is made of several."""
    from engine.runs.ladder.ladder_dir import comparisons

    return _names(home, comparisons)


@offers
def runs_and_ladders(home: Path | None) -> Iterable[str]:
    from engine.runs.ladder.ladder_dir import iterate_all

    return _names(home, iterate_all)


@offers
def presets(home: Path | None) -> Iterable[str]:
    from engine.config.preset_library import list_presets

    return [entry.name for entry in list_presets() if not entry.error]


@offers
def methods(home: Path | None) -> Iterable[str]:
    from engine.config.method_specs import method_names

    return method_names()


@offers
def models(home: Path | None) -> Iterable[str]:
    from engine.config.catalog import CATALOG

    return ["tiny", *CATALOG]


@offers
def data(home: Path | None) -> Iterable[str]:
    """Embedded and recent datasets; the shell adds the files."""
    from tui.data.recent import EMBEDDED, read_recent

    return [*EMBEDDED, *read_recent()]


@offers
def settings(home: Path | None) -> Iterator[str]:
    """`train.batch=`, and with each value for keys that have a few: `train.schedule=linear`."""
    from engine.config.metric_specs import metric_names
    from engine.config.schema import SECTIONS
    from engine.config.settings import known_keys

    yield from (f"{key}=" for key in known_keys() if "." in key)
    for section, kind in SECTIONS.items():
        for name, annotation in get_type_hints(kind).items():
            yield from (f"{section}.{name}={value}" for value in _choices(annotation))
    yield from (f"evaluation.metric={name}" for name in metric_names())


def _choices(annotation: Any) -> list[str]:
    """The values of a field that is one of a few: `Literal["a", "b"]`, `bool`."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) is list:
        return []
    return [choice for argument in get_args(annotation) for choice in _choices(argument)]
