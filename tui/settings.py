"""The workbench's settings, `$XDG_CONFIG_HOME/ftbench/config.toml`. What is wrong in it is shown and harms nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config.files import read_small
from engine.runs.home import config_file
from tui.terminal.capabilities import needs_ascii
from tui.terminal.themes import AUTO


@dataclass(kw_only=True)
class Settings:
    """What one may set, each with its default."""

    theme: str = AUTO
    """Any of Textual's themes; `ansi` ones follow the terminal's own colours, `auto` is what suits the terminal."""
    ascii: bool = field(default_factory=needs_ascii)
    """No braille and no box drawing, for terminals without them; on by itself where the environment says so."""
    mouse: bool = True
    keys: dict[str, str] = field(default_factory=dict)
    """Command -> keys: { "bench.start" = "f" }."""
    runs: dict[str, str] = field(default_factory=dict)
    """`home`: the runs home, an absolute path; read by `engine.runs.home`."""
    errors: list[str] = field(default_factory=list)
    """What could not be used, in words."""


def settings_file() -> Path:
    return config_file()


def read_settings(commands: Iterable[str], themes: Iterable[str], path: Path | None = None) -> Settings:
    """The user's settings; whatever is wrong is left at its default and named in `errors`."""
    path = path or settings_file()
    found = Settings()
    try:
        text = read_small(path).decode("utf-8")
    except FileNotFoundError:
        return found
    except (OSError, UnicodeDecodeError) as error:
        found.errors.append(f"{path}: {error}")
        return found
    import msgspec  # the first picture of one who has set nothing does not wait for them
    import tomli

    try:
        table = tomli.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is the first
        found.errors.append(f"{path}: not TOML: {error}")
        return found
    known = {"theme": str, "ascii": bool, "mouse": bool, "keys": dict[str, str], "runs": dict[str, str]}
    for key, value in table.items():
        if key not in known:
            found.errors.append(f"{path}: nothing reads {key}{_close(key, known)}")
            continue
        try:
            setattr(found, key, msgspec.convert(value, known[key]))
        except msgspec.ValidationError as error:
            found.errors.append(f"{path}: {key}: {error}")
    _check(found, set(commands), set(themes), path)
    return found


def _check(found: Settings, commands: set[str], themes: set[str], path: Path) -> None:
    found.errors += [f"{path}: nothing reads runs.{key}{_close(key, ['home'])}" for key in found.runs if key != "home"]
    if found.theme not in {*themes, AUTO}:
        found.errors.append(f"{path}: no theme {found.theme!r}{_close(found.theme, themes)}")
        found.theme = Settings().theme
    for command in [name for name in found.keys if name not in commands]:
        found.errors.append(f"{path}: keys: no command {command!r}{_close(command, commands)}")
        del found.keys[command]


def _close(wrong: str, known: Iterable[Any]) -> str:
    close = difflib.get_close_matches(wrong, [str(one) for one in known], n=1)
    return f"; did you mean {close[0]}?" if close else ""
