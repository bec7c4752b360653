"""`presets list`, `show` and `new`."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import tomli_w
import typer

from engine.config import preset_library
from engine.config.method_specs import reads
from engine.config.settings import flatten, setting_text
from tui.cli import completion, options
from tui.output.console import print_json, say, table


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
    name: options.PresetName,
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
    base: Annotated[
        str, typer.Option("--from", help="Preset to copy.", autocompletion=completion.presets)
    ] = "demo-lora",
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Write `NAME.toml` into the user's preset folder: the base preset with the changes of the command line."""
    path = preset_library.create_from_preset(name, base, options.overrides(settings))
    if json:
        print_json({"name": name, "path": str(path)})
    else:
        say(f"{path}")
