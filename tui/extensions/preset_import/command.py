"""`presets import`: a preset from another tool's configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from engine.config import preset_library
from engine.extensions.preset_import.imported import import_preset
from tui.cli import options
from tui.output.console import print_json, say, table

IMPORT_TITLES = {
    "taken": "taken",
    "default": "defaults of the other tool, which the file leaves unset",
    "changed": "changed",
    "left out": "left out",
}


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration of axolotl, LLaMA-Factory, TRL or PEFT.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the preset; unset: that of the file.")] = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Write a preset with what another tool's file sets, and print the outcome of each of its keys."""
    imported = import_preset(file, options.overrides(settings))
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
