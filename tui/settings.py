"""The user's settings, themes that suit the terminal, and what screens and widgets need of the app."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_type_hints

import platformdirs
from textual.color import BLACK, WHITE, Color
from textual.message_pump import MessagePump

from engine.config.files import read_small, write_atomically
from engine.config.home import config_file
from engine.config.text import visible
from tui.commands import DEFAULT_KEYS, CommandKeys

WITHOUT_BRAILLE = ("linux", "dumb", "vt100", "vt220")
"""Values of $TERM for terminals whose fonts have no braille and few box-drawing characters."""
AUTO = "auto"
"""Value of the setting that picks a theme for the terminal."""


def needs_ascii(environ: Mapping[str, str] | None = None, encoding: str | None = None) -> bool:
    """Whether the terminal or its encoding lacks braille and box-drawing characters."""
    environ = environ or os.environ
    term = environ.get("TERM", "")
    if environ.get("LC_ALL", "") in ("C", "POSIX"):
        return True  # Python writes UTF-8 all the same (PEP 540), but the user asks for ASCII
    output = encoding or getattr(sys.__stderr__, "encoding", None) or "utf-8"  # noqa: TID251 - where Textual writes
    return term in WITHOUT_BRAILLE or not output.lower().replace("-", "").startswith("utf8")


@dataclass(kw_only=True)
class Settings:
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
    errors: list[str] = field(default_factory=list)
    """One sentence per invalid entry, each ending with its code."""


def read_settings(themes: Collection[str], path: Path | None = None) -> Settings:
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
    from engine.config.schema import user_sections

    types = {key: kind for key, kind in get_type_hints(Settings).items() if key != "errors"}
    for key, value in table.items():
        if key in user_sections():  # defaults of presets, which `engine.config.preset_library` reads and checks
            continue
        if key not in types:
            settings.errors.append(f"unknown key {key}: {path}{_suggestion(key, types)} [settings.unknown_key]")
            continue
        try:
            setattr(settings, key, msgspec.convert(value, types[key]))
        except msgspec.ValidationError as error:
            settings.errors.append(f"invalid value of {key}: {path}: {error} [settings.invalid_value]")
    if settings.theme not in (*themes, AUTO):
        hint = _suggestion(settings.theme, themes)
        settings.errors.append(f"unknown theme {settings.theme!r}: {path}{hint} [settings.unknown_theme]")
        settings.theme = Settings().theme
    for command in [name for name in settings.keys if name not in DEFAULT_KEYS]:
        del settings.keys[command]
        hint = _suggestion(command, DEFAULT_KEYS)
        settings.errors.append(f"keys: unknown command {command!r}: {path}{hint} [settings.unknown_command]")
    return settings


def _suggestion(wrong: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def app_settings(node: MessagePump) -> Settings:
    """The user's settings, as the app of a screen or widget has them."""
    return cast(Settings, cast(Any, node.app).settings)


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
    shown = "\n".join(visible(line, 400) for line in text.split("\n"))
    node.app.notify(shown, title=visible(title, 80), severity=severity, timeout=timeout, markup=False)


LIGHT = ("7", "9", "10", "11", "12", "13", "14", "15")
"""Background colors that count as light in $COLORFGBG (vim's rule)."""


def is_light(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the background is light; dark where the terminal does not tell."""
    return (environ or os.environ).get("COLORFGBG", "").rpartition(";")[2] in LIGHT


def suited_theme(color_system: str | None, environ: Mapping[str, str] | None = None) -> str:
    """The theme for Rich's name of a color system; an ANSI theme where there are only 16 colors."""
    family = "textual" if color_system in ("256", "truecolor") else "ansi"
    return f"{family}-{'light' if is_light(environ) else 'dark'}"


TEXT_COLORS = ("text-success", "text-warning", "text-error", "text-primary", "text-accent", "text-secondary")
"""Theme variables of text colors."""
RUNG_COLORS = {
    False: ("#6d6d69", "#0072b2", "#d55e00", "#008f68", "#a8479a", "#9c7000", "#7a5c3e"),
    True: ("#9c9c97", "#56b4e9", "#ff8f45", "#2fc79a", "#e08ccb", "#e3b53a", "#c9a581"),
}
"""Whether a theme is dark -> the colors of rungs, `$rung-0` for the base model, as in the report's page."""
ANSI_RUNGS = tuple(f"ansi_{name}" for name in ("white", "bright_blue", "yellow", "green", "magenta", "cyan", "red"))
MIN_CONTRAST = 4.5
"""Minimum contrast for text (WCAG 2.2, AA)."""
CURSOR = 0.2
"""Share of the primary color in the background of the row under the cursor, `$primary 20%`."""


def theme_file() -> Path:
    """`$XDG_STATE_HOME/ftbench/theme`: the selected theme, and the value of the setting at that time."""
    return Path(platformdirs.user_state_dir("ftbench")) / "theme"


def remember(chosen: str, setting: str) -> None:
    """Store the selection, ignoring write errors; the user's config.toml is not modified."""
    with contextlib.suppress(OSError):
        theme_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(theme_file(), f"{chosen}\n{setting}\n".encode())


def remembered(setting: str) -> str | None:
    """The theme selected last; None if none was selected or the setting has changed since."""
    try:
        chosen, _, when = read_small(theme_file()).decode("utf-8").strip().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return chosen if when == setting else None


def legible(variables: dict[str, str], dark: bool) -> dict[str, str]:
    """A theme's variables with text colors made darker or lighter until they reach MIN_CONTRAST under the cursor.

    The terminal defines the colors of ANSI themes; only blue is replaced where it would be on black.
    """
    if any("ansi" in variables[name] for name in ("background", "primary", *TEXT_COLORS)):
        rungs = {f"rung-{number}": color for number, color in enumerate(ANSI_RUNGS)}
        replaced = dict.fromkeys(("primary", "text-primary"), "ansi_bright_blue") if dark else {}
        return {**variables, **rungs, **replaced}
    behind = Color.parse(variables["background"]).blend(Color.parse(variables["primary"]), CURSOR)
    towards = BLACK if behind.brightness > 0.5 else WHITE
    colors = {name: Color.parse(variables[name]) for name in TEXT_COLORS}
    colors |= {f"rung-{number}": Color.parse(color) for number, color in enumerate(RUNG_COLORS[dark])}
    for name, color in colors.items():
        while contrast(color, behind) < MIN_CONTRAST and color != towards:
            color = color.blend(towards, 0.1) if contrast(color, towards) > 1.1 else towards
        colors[name] = color
    return {**variables, **{name: color.hex for name, color in colors.items()}}


def contrast(one: Color, other: Color) -> float:
    """1 to 21 (WCAG 2.2)."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(color: Color) -> float:
    def linear(share: float) -> float:
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(share) for share in color.normalized)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
