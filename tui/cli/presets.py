"""`presets list`, `show`, `new` and `import`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tomli_w
import typer

from engine.config import preset_import, preset_library
from engine.config.method_specs import reads
from engine.config.settings import flatten, setting_text
from tui.cli import options
from tui.output.console import print_json, say, table

IMPORT_TITLES = {
    "taken": "taken",
    "default": "defaults of the other tool, which the file leaves unset",
    "changed": "changed",
    "left out": "left out",
}


def show_list(json: options.Json = False) -> None:
    """Print name, key, method, model, data and title of each preset; an invalid one with its error."""
    listed = preset_library.list_presets()
    if json:
        shown = []
        for entry in listed:
            values = entry.preset.values if entry.preset else None
            about = {key: values.get(key) for key in ("slot", "method", "title")} if values is not None else {}
            shown.append({"name": entry.name, "path": str(entry.path), "error": entry.error, **about})
        print_json(shown)
        return
    cells = [
        [entry.name, str(entry.preset.values.get("slot", "")), *entry.shown]
        if entry.preset
        else [entry.name, "", "invalid", "", "", "see below"]
        for entry in listed
    ]
    table("", ("name", "slot", "method", "model", "data", "title"), cells)
    for entry in listed:
        if entry.error:
            say(f"invalid preset: {entry.error}", "red")


def show(
    name: Annotated[str, typer.Argument(metavar="PRESET", help="Preset name or TOML file.")],
    method: options.Method = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Print every value with its origin, as TOML that is valid in a preset file."""
    chosen, given = options.chosen_method(method), options.overrides(settings, method=method)
    effective = preset_library.resolve_preset(name, chosen, given)
    values = flatten(effective.config)
    if json:
        origins: dict[str, Any] = {key: {"value": values[key], "origin": effective.origins[key]} for key in values}
        notices = [msgspec.to_builtins(notice) for notice in effective.notices]
        print_json({**origins, **({"notices": notices} if notices else {})})
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
        if value is None:
            assignment = f"# {last} is not set"
        elif isinstance(value, dict | list | tuple):  # on one line, as `--set` takes it; tomli_w writes a line per item
            assignment = f"{last} = {setting_text(list(value) if isinstance(value, tuple) else value)}"
        else:
            assignment = tomli_w.dumps({last: value}).strip()
        say(f"{assignment:<44} # {effective.origins[key]}")


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new preset.")],
    base: Annotated[str, typer.Option("--from", help="Preset to copy.")] = "demo-lora",
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Write `NAME.toml` into the user's preset folder: the base preset with the changes of the command line."""
    path = preset_library.create_from_preset(name, base, options.overrides(settings))
    if json:
        print_json({"name": name, "path": str(path)})
    else:
        say(f"{path}")


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration of axolotl, LLaMA-Factory, TRL or PEFT.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the preset; unset: that of the file.")] = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Write a preset with what another tool's file sets, and print the outcome of each of its keys."""
    imported = preset_import.import_preset(file, options.overrides(settings))
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
