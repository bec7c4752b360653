"""`presets list`, `show`, `new` and `import`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from engine.config import preset_import, preset_library
from engine.config.method_specs import reads
from engine.config.settings import Flat, flatten, setting_text
from tui.output.console import print_json, say, table


def show_list(json: bool) -> None:
    """Print name, key, method, model, data and title of each preset; an invalid one with its error."""
    listed = preset_library.list_presets()
    if json:
        print_json(
            [
                {
                    "name": entry.name,
                    "path": str(entry.path),
                    "error": entry.error,
                    **(
                        {key: entry.preset.values.get(key) for key in ("slot", "method", "title")}
                        if entry.preset
                        else {}
                    ),
                }
                for entry in listed
            ]
        )
        return
    table("", ("name", "slot", "method", "model", "data", "title"), [_cells(entry) for entry in listed])
    for entry in listed:
        if entry.error:
            say(f"invalid preset: {entry.error}", "red")


def show(name: str, method: str | None, overrides: Flat, json: bool) -> None:
    """Print every value with its origin, as TOML that is valid in a preset file."""
    effective = preset_library.resolve_preset(name, method, overrides)
    values = flatten(effective.config)
    if json:
        shown: dict[str, Any] = {key: {"value": values[key], "origin": effective.origins[key]} for key in values}
        notices = [msgspec.to_builtins(notice) for notice in effective.notices]
        print_json({**shown, **({"notices": notices} if notices else {})})
        return
    for notice in effective.notices:
        say(f"# {notice.text} [{notice.code}]", "yellow")
    section = ""
    for key, value in values.items():
        head, dot, last = key.rpartition(".")
        if not reads(values["method"], key):
            continue
        if dot and head != section:
            section = head
            say("")
            say(f"[{section}]")
        say(f"{_assignment(last, value):<44} # {effective.origins[key]}")


def new(name: str, base: str, overrides: Flat, json: bool) -> None:
    """Write `NAME.toml` into the user's preset folder: the base preset with the changes of the command line."""
    path = preset_library.create_from_preset(name, base, overrides)
    if json:
        print_json({"name": name, "path": str(path)})
    else:
        say(f"{path}")


def import_file(file: Path, name: str | None, overrides: Flat, json: bool) -> None:
    """Write a preset with what another tool's file sets, and print the outcome of each of its keys."""
    imported = preset_import.import_preset(file, overrides)
    name = name or re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem).strip("-_")[:64]
    path = preset_library.create_from_values(name, f"{name}, from {imported.tool}", imported.values)
    if json:
        keys = msgspec.to_builtins(imported.keys)
        answer = {"name": name, "path": str(path), "tool": imported.tool, "keys": keys}
        print_json({**answer, "without_effect": imported.without_effect})
        return
    for outcome, title in IMPORT_TITLES.items():
        keys = [key for key in imported.keys if key.outcome == outcome]
        if outcome in ("taken", "default") and keys:
            table(title, (imported.tool, "value", "setting"), [[key.key, key.value, key.setting] for key in keys])
            say("")
        elif keys:
            say(title, "bold")
            for key in keys:
                say(f"  {key.key}: {key.value}{f' → {key.setting}' if key.setting else ''}; {key.note}")
            say("")
    if imported.without_effect:
        say(f"without effect on training, or empty: {', '.join(imported.without_effect)}")
    say(f"preset: {path}")
    data = "" if "data.id" in imported.values else " --data FILE"
    say(f"next: ftbench plan {name}{data}; ftbench run {name}{data}")


IMPORT_TITLES = {
    "taken": "taken",
    "default": "defaults of the other tool, which the file leaves unset",
    "changed": "changed",
    "left out": "left out",
}


def _assignment(key: str, value: Any) -> str:
    """On one line, as `--set` takes it; tomli_w writes one item of a list per line."""
    if value is None:
        return f"# {key} is not set"
    if isinstance(value, dict | list | tuple):
        return f"{key} = {setting_text(list(value) if isinstance(value, tuple) else value)}"
    return tomli_w.dumps({key: value}).strip()


def _cells(entry: preset_library.PresetEntry) -> list[str]:
    if entry.preset is None:
        return [entry.name, "", "invalid", "", "", "see below"]
    return [entry.name, str(entry.preset.values.get("slot", "")), *entry.shown]
