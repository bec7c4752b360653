"""`home`: show where runs and caches are, or choose where; `clean`: show the disk space they take, and remove them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from engine.config.errors import Notice, UserError
from engine.config.files import check_utf8, expanded, working_directory
from engine.config.home import HUB, KEY, cache_folder, config_file, configured_home, hub_cache_is_chosen, set_home
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
from engine.runs.home import VARIABLE, check_home, home_warnings, nearest_existing, runs_home, tilde
from engine.runs.ladder import ladder_dir
from engine.runs.queue import locks
from engine.runs.run.folder import pick
from engine.runs.run.run_dir import ACTIVE, RunDir
from tui.cli import completion, options
from tui.cli.errors import show_notices
from tui.output import streams
from tui.output.console import console, print_json, say, table

LARGEST = 5
"""Items of a kind that are listed by name."""


def home(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Choose it for runs and caches (default: show them).")
    ] = None,
    runs: options.Runs = None,
    json: options.Json = False,
) -> None:
    """Show path, size and free space of runs and caches, or choose their home. Raises UserError as `_choose_home`."""
    if directory is not None:
        _choose_home(directory, runs, json)
        return
    folders = {"runs": runs_home(runs), "cache": cache_folder()}
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
    say("`ftbench home DIR` chooses another disk, `ftbench clean` removes what is not needed")


def _choose_home(directory: Path, runs: Path | None, json: bool) -> None:
    """Set the home, create its folders, and print the commands that move what is in the present one.

    Raises UserError where another setting has precedence, a run is used or has a link, or the directory cannot be used.
    """
    target = Path(os.path.realpath(working_directory() / expanded(directory)))
    check_utf8(str(target))
    for name, given in (("--runs", runs), (VARIABLE, os.environ.get(VARIABLE))):
        if given:
            hint = f"omit or unset it: it has precedence over `{KEY}` in {config_file()}"
            raise UserError(f"{name} is set", str(given), hint, "home.overridden")
    present = {"runs": runs_home(), "cache": cache_folder()}
    if present["runs"] == target / "runs":
        raise UserError("this is the home already", str(target), "name another directory", "home.same")
    if any(target.is_relative_to(path) or path.is_relative_to(target / "runs") for path in present.values()):
        raise UserError("inside the present home", str(target), "name another directory", "home.nested")
    check_home(target)
    for folder in ladder_dir.iterate_all(present["runs"]):
        folder.check_files()
        active = folder.state() in ACTIVE if isinstance(folder, RunDir) else folder.is_active()
        if active or locks.is_in_use(folder.path):
            problem, hint = f"the {folder.KIND} is in use", "stop it, or wait until it has ended"
            raise UserError(problem, folder.name, hint, "home.active")
    for path in (target, *(target / name for name in present)):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise UserError("not a directory", str(path), "name another directory", "home.not_a_directory")
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            problem, hint = f"cannot create a directory: {error.strerror}", "name another directory"
            raise UserError(problem, str(path), hint, "runs.not_writable") from error
    set_home(target)

    notices, hub = home_warnings(target), hub_cache()
    if not hub_cache_is_chosen() and any(hub.glob("models--*--*")):
        # It is shared with other tools; later downloads go to the home.
        to = target / "cache" / HUB
        how = f"copy those that you need with `mkdir -p {to} && cp -a {hub}/models--OWNER--NAME {to}/`"
        text = f"models in {tilde(hub)} stay there, and are not looked for there: {how}"
        notices.append(Notice("home.hub_models_stay", text))
    show_notices(notices, json)
    moves = [
        f"mv {shlex.quote(str(path))}/* {shlex.quote(str(target / name))}/"
        for name, path in present.items()
        if any(path.glob("[!.]*"))
    ]
    if json:
        print_json({"home": str(target), "moves": moves})
        return
    say(f"{tilde(config_file())} names {tilde(target)} as the home{'; move what is in the former one:' * bool(moves)}")
    for command in moves:
        say(command)


def clean(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WHAT...", help=f"{', '.join(KINDS)}.", autocompletion=completion.offers(lambda home: KINDS)
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            metavar="NAME",
            help="Only this run, ladder or cache entry; repeatable.",
            autocompletion=completion.runs_and_ladders,
        ),
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
