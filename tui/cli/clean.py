"""`clean`: show what runs, checkpoints, exports and caches take, and remove what is chosen."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from engine.config.errors import UserError
from engine.config.model_files import hub_cache
from engine.config.quantities import size
from engine.config.text import amount
from engine.runs.cleaning import KINDS, NAMED_ONLY, Kind, StoredItem, list_stored_items, remove, select_items
from engine.runs.home import nearest_existing, tilde
from engine.runs.ladder import ladder_dir
from engine.runs.run.folder import pick
from tui.output import streams
from tui.output.console import console, print_json, say, table

LARGEST = 5
"""Items of a kind that are listed by name."""


def clean(
    runs: Path, words: Sequence[str], names: Sequence[str], min_age_days: float | None, yes: bool, json: bool
) -> int:
    """Show the table, or remove the chosen kinds. Returns 1 if something could not be removed.

    Raises UserError for an unknown kind, for runs without a name or an age, and where nobody can confirm.
    """
    items = list(list_stored_items(runs))
    if not words:
        _show(runs, items, json)
        if json or not streams.is_terminal():
            return 0
        offered = ", ".join(kind for kind in KINDS if kind not in NAMED_ONLY)
        words = _answer(f"What to remove? ({offered}; press enter for nothing) ").replace(",", " ").split()
    kinds = _kinds(words, is_limited=bool(names) or min_age_days is not None)
    full_names = [_full_name(runs, name, items) for name in names]
    chosen, kept = select_items(items, kinds, full_names, min_age_days)
    if not kinds:
        return 0
    if not json:
        _list(chosen, kept)
    if not chosen or not (yes or _confirmed(chosen, json)):
        if json:
            print_json({"removed": [], "kept": [_as_json(item) for item in kept], "bytes": 0})
        return 0
    return _remove(chosen, kept, json)


def _kinds(words: Sequence[str], is_limited: bool) -> list[Kind]:
    """The kinds of the command line; `is_limited`: to items with a name, or of an age."""
    kinds = list(dict.fromkeys(word for given in words for word in given.split(",")))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        hint = f"use {', '.join(KINDS)}"
        raise UserError(f"unknown kind {unknown[0]!r}", hint=hint, code="clean.unknown")
    for kind in NAMED_ONLY:
        if kind in kinds and not is_limited:
            hint = "name them with --run NAME, or give --older-than DAYS"
            raise UserError(f"{kind} cannot be recreated", hint=hint, code="clean.not_named")
    return cast(list[Kind], kinds)


def _full_name(runs: Path, name: str, items: list[StoredItem]) -> str:
    """The name of the one run or ladder, or of the cache entry, that is meant. Raises UserError unless it is one."""
    if any(item.owner is None and item.name == name for item in items):
        return name
    return pick(ladder_dir.iterate_all(runs), name, "run", runs, "run `ftbench runs` to list the runs").name


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
    say(f"{size(free)} free in {tilde(runs)}; sizes of runs include their checkpoints and exports")
    for item in sorted(items, key=lambda item: item.bytes, reverse=True)[:LARGEST]:
        say(f"largest: {item.kind} {item.name}, {size(item.bytes)}{f' ({item.keep})' if item.keep else ''}")
    hub = hub_cache()
    if hub.is_dir():
        where = f" --cache-dir {shlex.quote(str(hub))}"
        how = f"`hf cache ls{where}` shows and `hf cache rm{where} …` removes them"
        say(f"models and datasets of the Hub are in {tilde(hub)}: {how}")
    say("`ftbench clean checkpoints exports` removes all removable checkpoints and exports after confirmation")


def _list(chosen: list[StoredItem], kept: list[StoredItem]) -> None:
    for item in kept:
        say(f"kept: {item.kind} {item.name}, {size(item.bytes)}: {item.keep}", "yellow")
    for item in chosen:
        say(f"to remove: {item.kind} {item.name}, {size(item.bytes)}")
    if not chosen:
        say("nothing to remove")


def _confirmed(chosen: list[StoredItem], json: bool) -> bool:
    """Ask on a terminal. Raises UserError without one."""
    total = size(sum(item.bytes for item in chosen))
    if json or not streams.is_terminal():
        problem = f"{amount(len(chosen), 'item')}, {total}, would be removed"
        raise UserError(problem, hint="add --yes to skip the confirmation", code="clean.not_confirmed")
    return _answer(f"Remove {amount(len(chosen), 'item')}, {total}? [y/N] ").lower() in ("y", "yes")


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
    gone: list[Path] = []
    for item in sorted(chosen, key=lambda item: len(item.path.parts)):
        if any(item.path.is_relative_to(path) for path in gone):  # in a run that was removed
            continue
        try:
            if remove(item):
                removed.append(item)
                gone.append(item.path)
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
