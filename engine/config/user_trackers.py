"""The user's own trackers: `[track]` in config.toml is the default of every preset that does not set them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from engine.config.errors import UserError
from engine.config.files import read_small
from engine.config.preset import EffectiveConfig
from engine.config.preset_values import with_settings
from engine.config.schema import Track

ORIGIN = "config.toml"


def with_user_trackers(found: EffectiveConfig) -> EffectiveConfig:
    """The configuration with the keys of `[track]` in config.toml, where neither preset nor command line set them.

    Raises UserError for an invalid table: a run would silently not be logged.
    """
    table = _table()
    values = {f"track.{name}": value for name, value in table.items()}
    chosen = {key: value for key, value in values.items() if found.origins.get(key) == "default"}
    if not chosen:
        return found
    origins = {**found.origins, **dict.fromkeys(chosen, ORIGIN)}
    return EffectiveConfig(with_settings(found.config, chosen), origins, found.notices)


def _table() -> dict[str, Any]:
    """`[track]` of config.toml; {} where it is not set. A file that is not TOML is left to the bench to report."""
    path = Path(platformdirs.user_config_dir("ftbench")) / "config.toml"
    try:
        text = read_small(path).decode("utf-8", "surrogateescape")
    except OSError:
        return {}
    if "track" not in text:
        return {}
    import tomli  # only needed by users who set it

    try:
        table = tomli.loads(text).get("track", {})
        checked = msgspec.convert(table, Track)
    except (ValueError, RecursionError) as error:  # msgspec.ValidationError is a ValueError
        do = 'write `to = ["tensorboard"]` under [track], and project and online if needed'
        raise UserError(f"invalid [track]: {error}", str(path), do, code="track.invalid_settings") from error
    return {name: getattr(checked, name) for name in table}
