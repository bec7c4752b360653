"""Where ftbench keeps runs and caches: in the user's data and cache folders, or in the home that config.toml names.

`ftbench home DIR` writes the key `home` (`set_home`) and prints how to move both to DIR.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from engine.config.errors import UserError
from engine.config.files import read_small, write_atomically

KEY = "home"
"""The key of config.toml; at the top, before all sections."""


def config_file() -> Path:
    """The user's settings, `$XDG_CONFIG_HOME/ftbench/config.toml`."""
    return Path(platformdirs.user_config_dir("ftbench")) / "config.toml"


def user_setting(key: str) -> Any:
    """The value of a key of config.toml, None where it is not set. Raises OSError; ValueError, RecursionError for what
    is not TOML. A file with errors that does not contain the key cannot set it: `tui.settings` reports them.
    """
    try:
        text = read_small(config_file()).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    if key not in text:
        return None
    import tomli  # only needed by users who set the key: keeps the start of the bench fast

    return tomli.loads(text).get(key)


def configured_home() -> Path | None:
    """`home` of config.toml, None where it is not set. Raises UserError where it is invalid."""
    try:
        home = user_setting(KEY)
    except OSError as error:
        raise _invalid(f"cannot read the home: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(f"cannot read the home: not TOML: {error}") from error
    if home is None:
        return None
    if not isinstance(home, str) or not home.strip() or "\0" in home:
        raise _invalid("invalid home: not a path")
    try:
        absolute = Path(home).expanduser()
    except RuntimeError as error:  # no such user
        raise _invalid(f"invalid home: {error}") from error
    if not absolute.is_absolute():
        raise _invalid(f"invalid home: {home!r} is a relative path")
    return absolute


def set_home(home: Path) -> None:
    """Write `home` into config.toml; all other lines stay. Raises UserError where the file cannot be edited."""
    import tomli  # as in `user_setting`
    import tomli_w

    file = Path(os.path.realpath(config_file()))  # it may be a link to the user's collection of settings
    line, key = tomli_w.dumps({KEY: str(home)}), rf"(?m)\A((?:(?!^\s*\[).*\n)*?){KEY}\s*=.*(?:\n|\Z)"
    try:
        text = read_small(file).decode() if file.exists() else ""
        changed, count = re.subn(key, lambda match: match[1] + line, text)
        changed = changed if count else line + text
        if tomli.loads(changed) != tomli.loads(text) | {KEY: str(home)}:
            raise ValueError("the key would not be read")
    except (ValueError, RecursionError) as error:
        hint = f"set {line.strip()} in it, before the sections"
        raise UserError(f"cannot edit the settings: {error}", str(config_file()), hint, "home.config") from error
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(file, changed.encode())


def runs_folder() -> Path:
    """The runs of the home: `runs` in it, by default `$XDG_DATA_HOME/ftbench/runs`.

    Raises as `configured_home` does.
    """
    home = configured_home()
    return (home or Path(platformdirs.user_data_dir("ftbench"))) / "runs"


def cache_folder() -> Path:
    """Models, tools and prepared rows: `cache` in the home, by default `$XDG_CACHE_HOME/ftbench`; links are resolved.

    Raises as `configured_home` does.
    """
    home = configured_home()
    return Path(os.path.realpath(home / "cache" if home else platformdirs.user_cache_dir("ftbench")))


HUB = "hub"
"""Folder of the home's cache for downloads from the Hub, in the Hub's own layout."""
HUB_CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
"""Environment variables that set huggingface_hub's cache: the present and the former name."""


def hub_home(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of the Hub's cache and credentials, as huggingface_hub finds it."""
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    folder = environment.get("HF_HOME") or f"{cache}/huggingface"
    return Path(os.path.expandvars(os.path.expanduser(folder)))  # noqa: PTH111 - Path raises for an unknown user


def hub_cache_is_chosen() -> bool:
    """Whether the environment names the place of the Hub's cache."""
    return any(os.environ.get(name) for name in ("HF_HOME", *HUB_CACHE_VARIABLES))


def keep_hub_cache_in_home() -> None:
    """Let huggingface_hub and datasets keep downloads in the home that config.toml names, unless the environment names
    another place. For this process and those that it starts, before these libraries are imported: they read it once.

    The token of `hf auth login` stays where it is. An invalid home is reported by the commands that use it.
    """
    if hub_cache_is_chosen():
        return
    with contextlib.suppress(UserError):
        if home := configured_home():
            os.environ["HF_HUB_CACHE"] = str(home / "cache" / HUB)
            os.environ.setdefault("HF_DATASETS_CACHE", str(home / "cache" / "datasets"))


def _invalid(problem: str) -> UserError:
    hint = 'set `home = "/absolute/path"` before the sections'
    return UserError(problem, str(config_file()), hint, "home.invalid")
