"""`home`: show where runs and caches are and what they take, or move them to another disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from engine.config.errors import Notice
from engine.config.files import check_utf8, expanded
from engine.config.home import HUB, cache_folder, config_file, configured_home, hub_cache_is_chosen
from engine.config.model_files import hub_cache
from engine.config.quantities import size
from engine.config.text import amount
from engine.runs.cleaning import measure_tree
from engine.runs.home import home_warnings, nearest_existing, runs_home, tilde
from engine.runs.moving import move_home
from tui.cli.errors import show_notices
from tui.output.console import print_json, say, table


def show(json: bool) -> None:
    """Runs and caches: path, size, free space of the disk."""
    folders = {"runs": runs_home(), "cache": cache_folder()}
    locations: dict[str, dict[str, Any]] = {}
    for name, path in folders.items():
        free = shutil.disk_usage(nearest_existing(path)).free
        locations[name] = {"path": str(path), "bytes": measure_tree(path)[0], "free": free}
    if json:
        home = configured_home()
        print_json({"home": str(home) if home else None, **locations})
        return
    cells = [
        [name, tilde(place["path"]), size(place["bytes"]), size(place["free"])] for name, place in locations.items()
    ]
    table("", ("", "path", "size", "free on its disk"), cells, right=(2, 3))
    say("`ftbench home DIR` moves both to another disk, `ftbench clean` removes what is not needed")


def _models_that_stay(target: Path) -> list[Notice]:
    """A notice of models in the Hub's own cache: it is shared with other tools and not moved; later downloads go to the
    home.
    """
    hub = hub_cache()
    if hub_cache_is_chosen() or not any(hub.glob("models--*--*")):
        return []
    to = target / "cache" / HUB
    how = f"copy those that you need with `mkdir -p {to} && cp -a {hub}/models--OWNER--NAME {to}/`"
    return [Notice("home.hub_models_stay", f"models in {tilde(hub)} stay there, and are not looked for there: {how}")]


def move(directory: Path, json: bool) -> None:
    """Move runs and caches to a directory; print each entry that is there. Raises as `move_home` does."""
    target = expanded(directory).absolute()
    check_utf8(str(target))
    show_notices([*home_warnings(target), *_models_that_stay(target)], json)
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
