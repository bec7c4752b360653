"""`home`: show where runs and caches are, or move them; `clean`: show the disk space they take, and remove them."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from engine.config.errors import Notice, UserError
from engine.config.files import check_utf8, expanded
from engine.config.home import HUB, cache_folder, config_file, configured_home, hub_cache_is_chosen
from engine.config.model_files import hub_cache
from engine.config.quantities import size
from engine.config.text import amount
from engine.runs.cleaning import (
    KINDS,
    NAMED_ONLY,
    Kind,
    StoredItem,
    list_stored_items,
    measure_tree,
    remove,
    select_items,
)
from engine.runs.home import home_warnings, nearest_existing, runs_home, tilde
from engine.runs.ladder import ladder_dir
from engine.runs.moving import move_home
from engine.runs.run.folder import pick
from tui.cli import options
from tui.cli.errors import show_notices
from tui.output import streams
from tui.output.console import console, print_json, say, table

LARGEST = 5
"""Items of a kind that are listed by name."""


def home(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Move runs, models and caches there (default: show them).")
    ] = None,
    json: options.Json = False,
) -> None:
    """Show path, size and free space of runs and caches, or move them. Raises as `move_home` does."""
    if directory is not None:
        _move(directory, json)
        return
    folders = {"runs": runs_home(), "cache": cache_folder()}
    locations: dict[str, dict[str, Any]] = {}
    for name, path in folders.items():
        free = shutil.disk_usage(nearest_existing(path)).free
        locations[name] = {"path": str(path), "bytes": measure_tree(path)[0], "free": free}
    if json:
        chosen = configured_home()
        print_json({"home": str(chosen) if chosen else None, **locations})
        return
    cells = [
        [name, tilde(place["path"]), size(place["bytes"]), size(place["free"])] for name, place in locations.items()
    ]
    table("", ("", "path", "size", "free on its disk"), cells, right=(2, 3))
    say("`ftbench home DIR` moves both to another disk, `ftbench clean` removes what is not needed")


def _move(directory: Path, json: bool) -> None:
    """Move runs and caches to a directory; print each entry that is there."""
    target = expanded(directory).absolute()
    check_utf8(str(target))
    show_notices(home_warnings(target), json)
    hub = hub_cache()
    if not hub_cache_is_chosen() and any(hub.glob("models--*--*")):
        # It is shared with other tools and not moved; later downloads go to the home.
        to = target / "cache" / HUB
        how = f"copy those that you need with `mkdir -p {to} && cp -a {hub}/models--OWNER--NAME {to}/`"
        text = f"models in {tilde(hub)} stay there, and are not looked for there: {how}"
        show_notices([Notice("home.hub_models_stay", text)], json)
    moved = []
    for entry in move_home(target):
        moved.append(entry)
        if not json:
            say(f"moved {entry.kind} {entry.name}, {size(entry.bytes)}")
    total = sum(entry.bytes for entry in moved)
    if json:
        print_json({"home": str(target), "moved": len(moved), "bytes": total})
        return
    say(f"{amount(len(moved), 'item')}, {size(total)}, in {tilde(target)}; {tilde(config_file())} names it as the home")


def clean(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="WHAT...", help=f"{', '.join(KINDS)}."),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="NAME", help="Only this run, ladder or cache entry; repeatable."),
    ] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", metavar="DAYS", min=0, help="Only what has not changed for DAYS.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without confirmation.")] = False,
    runs: options.Runs = None,
    json: options.Json = False,
) -> int:
    """Show the table, or remove the chosen kinds. Returns 1 if something could not be removed.

    Raises UserError for an unknown kind, for runs without a name or an age, and where nobody can confirm.
    """
    folder, words = runs_home(runs), what or []
    items = list(list_stored_items(folder))
    if not words:
        _show(folder, items, json)
        if json or not streams.is_terminal():
            return 0
        offered = ", ".join(kind for kind in KINDS if kind not in NAMED_ONLY)
        words = _answer(f"What to remove? ({offered}; press enter for nothing) ").replace(",", " ").split()

    kinds = list(dict.fromkeys(word for given in words for word in given.split(",")))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        hint = f"use {', '.join(KINDS)}"
        raise UserError(f"unknown kind {unknown[0]!r}", hint=hint, code="clean.unknown")
    for kind in NAMED_ONLY:
        if kind in kinds and not names and older_than is None:
            hint = "name them with --run NAME, or give --older-than DAYS"
            raise UserError(f"{kind} cannot be recreated", hint=hint, code="clean.not_named")
    full_names = []
    for name in names or []:  # a cache entry, else one run or ladder by its name or a part of it
        is_entry = any(item.owner is None and item.name == name for item in items)
        hint = "run `ftbench runs` to list the runs"
        full_names.append(name if is_entry else pick(ladder_dir.iterate_all(folder), name, "run", folder, hint).name)
    chosen, kept = select_items(items, cast(list[Kind], kinds), full_names, older_than)
    if not kinds:
        return 0

    total = size(sum(item.bytes for item in chosen))
    if not json:
        for item in kept:
            say(f"kept: {item.kind} {item.name}, {size(item.bytes)}: {item.keep}", "yellow")
        for item in chosen:
            say(f"to remove: {item.kind} {item.name}, {size(item.bytes)}")
        if not chosen:
            say("nothing to remove")
    if chosen and not yes:
        if json or not streams.is_terminal():
            problem = f"{amount(len(chosen), 'item')}, {total}, would be removed"
            raise UserError(problem, hint="add --yes to skip the confirmation", code="clean.not_confirmed")
        yes = _answer(f"Remove {amount(len(chosen), 'item')}, {total}? [y/N] ").lower() in ("y", "yes")
    if chosen and yes:
        return _remove(chosen, kept, json)
    if json:
        print_json({"removed": [], "kept": [_as_json(item) for item in kept], "bytes": 0})
    return 0


def _show(runs: Path, items: list[StoredItem], json: bool) -> None:
    """One line per kind, then the largest items."""
    free = shutil.disk_usage(nearest_existing(runs)).free
    if json:
        print_json({"home": str(runs), "free": free, "items": [_as_json(item) for item in items]})
        return
    lines = []
    for kind, about in KINDS.items():
        of_kind = [item for item in items if item.kind == kind]
        removable = [item.bytes for item in of_kind if not item.keep]
        lines.append(
            [kind, f"{len(of_kind):,}", size(sum(item.bytes for item in of_kind)), size(sum(removable)), about]
        )
    table("", ("what", "items", "size", "removable", "about"), lines, right=(1, 2, 3))
    say(f"{size(free)} free in {tilde(runs)}; sizes of runs include their checkpoints, exports and temporary files")
    for item in sorted(items, key=lambda item: item.bytes, reverse=True)[:LARGEST]:
        say(f"largest: {item.kind} {item.name}, {size(item.bytes)}{f' ({item.keep})' if item.keep else ''}")
    hub = hub_cache()
    if hub.is_dir():
        where = f" --cache-dir {shlex.quote(str(hub))}"
        how = f"`hf cache ls{where}` shows and `hf cache rm{where} …` removes them"
        say(f"models and datasets of the Hub are in {tilde(hub)}: {how}")
    say("`ftbench clean checkpoints exports` removes all removable checkpoints and exports after confirmation")


def _answer(question: str) -> str:
    """What the user types; '' after Ctrl+C."""
    console.print(question, end="")
    try:
        return sys.stdin.readline().strip()
    except KeyboardInterrupt:
        console.print()
        return ""


def _remove(chosen: list[StoredItem], kept: list[StoredItem], json: bool) -> int:
    removed: list[StoredItem] = []
    failed: list[tuple[StoredItem, str]] = []
    for item in sorted(chosen, key=lambda item: len(item.path.parts)):
        if any(item.path.is_relative_to(other.path) for other in removed):  # in a run that was removed
            continue
        try:
            if remove(item):
                removed.append(item)
            else:
                failed.append((item, "a process uses it"))
        except UserError as error:  # its lock file is damaged
            failed.append((item, f"{error.problem}; {error.hint}"))
        except OSError as error:
            failed.append((item, error.strerror or str(error)))
    total = sum(item.bytes for item in removed)
    if json:
        refused = [{**_as_json(item), "keep": why} for item, why in failed]
        print_json(
            {"removed": [_as_json(item) for item in removed], "kept": [*map(_as_json, kept), *refused], "bytes": total}
        )
    else:
        for item, why in failed:
            say(f"not removed: {item.kind} {item.name}: {why}", "red")
        say(f"removed {amount(len(removed), 'item')}, {size(total)}")
    return int(bool(failed))


def _as_json(item: StoredItem) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "name": item.name,
        "path": str(item.path),
        "bytes": item.bytes,
        "changed": item.changed,
        "keep": item.keep,
    }
