"""The colour theme: the one chosen last on the bench, else the user's setting, else what suits the terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path

import platformdirs

from engine.contract.files import write_atomically

AUTO = "auto"
"""The setting that leaves it to the terminal."""


def theme_file() -> Path:
    """`$XDG_STATE_HOME/ftbench/theme`: the chosen theme, and the setting that held when it was chosen."""
    return Path(platformdirs.user_state_dir("ftbench")) / "theme"


def remember(chosen: str, setting: str) -> None:
    """Keep the choice, where the disk lets us; the user's config.toml is his own and stays as it is."""
    with contextlib.suppress(OSError):
        theme_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(theme_file(), f"{chosen}\n{setting}\n".encode())


def remembered(setting: str) -> str | None:
    """The theme chosen last; None where there is none, or where the setting has been changed since."""
    try:
        chosen, _, when = theme_file().read_text("utf-8").strip().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return chosen if when == setting else None
