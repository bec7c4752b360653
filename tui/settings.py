"""The user's settings, and what screens and widgets need of the app that shows them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_type_hints

from textual.message_pump import MessagePump

from engine.config.files import read_small
from engine.config.home import config_file
from engine.config.text import visible
from tui.keymap import CommandKeys
from tui.terminal.themes import AUTO, needs_ascii


@dataclass(kw_only=True)
class Settings:
    """All settings with their defaults."""

    theme: str = AUTO
    """Any Textual theme; `ansi` themes use the terminal's own colors, `auto` picks one that suits the terminal."""
    ascii: bool = field(default_factory=needs_ascii)
    """No braille and no box drawing; on by default where the environment names a terminal that lacks them."""
    mouse: bool = True
    notify: str = ""
    """When a run ends while the bench is open: `bell`, or a command that gets a sentence as its last argument."""
    keys: dict[str, str] = field(default_factory=dict)
    """Command -> keys: { "bench.start" = "S" }."""
    home: str = ""
    """The folder of runs and caches, an absolute path; read by `engine.config.home`, written by `ftbench home`."""
    track: dict[str, Any] = field(default_factory=dict)
    """Trackers of every run; read by `engine.config.preset_library`."""
    errors: list[str] = field(default_factory=list)
    """One sentence per invalid entry, each ending with its code."""


def read_settings(commands: Iterable[str], themes: Iterable[str], path: Path | None = None) -> Settings:
    """Read the user's settings; an invalid entry keeps its default and is reported in `errors`."""
    path = path or config_file()
    settings = Settings()
    try:
        text = read_small(path).decode("utf-8")
    except FileNotFoundError:
        return settings
    except (OSError, UnicodeDecodeError) as error:
        settings.errors.append(f"cannot read {path}: {error} [settings.unreadable]")
        return settings
    import msgspec  # slow to import, and not needed for the first paint without a settings file
    import tomli

    try:
        table = tomli.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError includes TOMLDecodeError
        settings.errors.append(f"invalid TOML: {path}: {error} [settings.invalid_toml]")
        return settings
    types = {key: kind for key, kind in get_type_hints(Settings).items() if key != "errors"}
    for key, value in table.items():
        if key not in types:
            settings.errors.append(f"unknown key {key}: {path}{_suggestion(key, types)} [settings.unknown_key]")
            continue
        try:
            setattr(settings, key, msgspec.convert(value, types[key]))
        except msgspec.ValidationError as error:
            settings.errors.append(f"invalid value of {key}: {path}: {error} [settings.invalid_value]")
    _check_theme(settings, set(themes), path)
    _check_keys(settings, set(commands), path)
    return settings


def _check_theme(settings: Settings, themes: set[str], path: Path) -> None:
    if settings.theme not in {*themes, AUTO}:
        hint = _suggestion(settings.theme, themes)
        settings.errors.append(f"unknown theme {settings.theme!r}: {path}{hint} [settings.unknown_theme]")
        settings.theme = Settings().theme


def _check_keys(settings: Settings, commands: set[str], path: Path) -> None:
    """Drop unknown commands."""
    for command in [name for name in settings.keys if name not in commands]:
        del settings.keys[command]
        hint = _suggestion(command, commands)
        settings.errors.append(f"keys: unknown command {command!r}: {path}{hint} [settings.unknown_command]")


def _suggestion(wrong: str, known: Iterable[Any]) -> str:
    close = difflib.get_close_matches(wrong, [str(name) for name in known], n=1)
    return f"; did you mean {close[0]}?" if close else ""


class WorkbenchApp(Protocol):
    """An app with the user's settings; everything else comes from Textual's own `App`."""

    settings: Settings


def app_settings(node: MessagePump) -> Settings:
    """The user's settings, as the app of a screen or widget has them."""
    return cast(WorkbenchApp, node.app).settings


def app_keys(node: MessagePump) -> CommandKeys:
    """The keys of the commands, for the sentences of a screen or widget."""
    return CommandKeys(app_settings(node).keys)


def tell(
    node: MessagePump,
    text: str,
    *,
    title: str = "",
    severity: Literal["information", "warning", "error"] = "information",
    timeout: float | None = None,
) -> None:
    """Show a notification: control characters are escaped, brackets are not markup."""
    node.app.notify(visible(text, 400), title=visible(title, 80), severity=severity, timeout=timeout, markup=False)
