"""`run.toml`: the frozen configuration of a run, the origin of each value, and facts about its launch."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any, TypedDict, Unpack

import msgspec
import tomli
from msgspec.structs import replace

from engine import __version__
from engine.config.errors import UserError
from engine.config.files import MAX_SETTINGS_BYTES, read_regular, unusable_file
from engine.config.preset import EffectiveConfig, Flat, flatten, nested, with_settings
from engine.config.schema import Config
from engine.runs.home import STARTED_IN
from engine.runs.run import folder

LADDER_ORIGIN = "ladder "
"""Before the ladder's name in the origin of each setting of a ladder's run."""


class FrozenRun(msgspec.Struct, kw_only=True, frozen=True):
    """The content of `run.toml`: the configuration, and what its section `run` says of the launch."""

    config: Config
    origins: dict[str, str]
    preset: str
    created: float
    notes: list[str]
    wait: bool = True
    """False: start immediately, even if another run uses the GPU."""
    data_fingerprint: str = ""
    """Fingerprint of the rows that were checked before the launch: the run refuses other rows. '' for no check."""
    key_fingerprints: dict[str, str] = {}
    """Of each value of the configuration as it was written; `edited_keys` compares them."""
    started_in: str = ""
    """The directory it was started from."""
    command: str = ""
    """The command line that started it, or one that is equivalent to what was selected on the bench; '' if unknown."""

    @property
    def ladder(self) -> str:
        """The ladder that started the run, '' for a run that was started alone."""
        origins = self.origins.values()
        return next((origin.removeprefix(LADDER_ORIGIN) for origin in origins if origin.startswith(LADDER_ORIGIN)), "")

    def with_metric(self, metric: str) -> FrozenRun:
        """The same with the metric that was decided for `auto`, which the run's result names."""
        return replace(self, config=with_settings(self.config, {"evaluation.metric": metric}))


class LaunchFields(TypedDict, total=False):
    """What `run.toml` records of a launch next to the configuration."""

    wait: bool
    """Whether the run waits in the device queue; True by default."""
    identity: str
    """Hash by which a ladder finds the run again (`engine/ladder/runner.py`); '' if no ladder started it."""
    data_fingerprint: str
    """Fingerprint of the rows that a check showed; '' without a check."""
    started_in: str | None
    """Working directory by default; a ladder's process, which works in its own, passes the ladder's."""
    command: str
    """The command line that starts it."""


def frozen_text(preset: str, effective: EffectiveConfig, **launch: Unpack[LaunchFields]) -> str:
    """The text of `run.toml`."""
    import tomli_w  # only needed to start a run

    values = values_that_are_set(effective.config)
    started_in = launch.pop("started_in", None)
    section = {
        "preset": preset,
        "created": time.time(),
        "version": __version__,
        "wait": True,
        "identity": "",
        "data_fingerprint": "",
        "command": "",
        **launch,
        "key_fingerprints": _key_fingerprints(values),
        STARTED_IN: folder.current_directory() if started_in is None else started_in,
        "notes": effective.notes,
    }
    return tomli_w.dumps({**nested(values), "run": section, "origins": effective.origins})


def _key_fingerprints(values: Flat) -> dict[str, str]:
    """By dotted key, independent of comments and layout of the file."""
    texts = {key: json.dumps(value, sort_keys=True, default=str) for key, value in values.items()}
    return {key: hashlib.sha256(text.encode()).hexdigest()[:8] for key, text in texts.items()}


def edited_keys(path: Path) -> set[str]:
    """Dotted keys whose values were edited since a `run.toml`, which `read_file` accepts, was written."""
    table: dict[str, Any] = tomli.loads(read_regular(path, MAX_SETTINGS_BYTES).decode())
    recorded = table.pop("run").get("key_fingerprints", {})
    table.pop("origins")
    return {key for key, _ in _key_fingerprints(_flat(table)).items() ^ recorded.items()}


def _flat(table: dict[str, Any], prefix: str = "") -> Flat:
    """Values by dotted key; a table that is the value of a key (`data.map`) is one value, as in `flatten`."""
    flat: Flat = {}
    for name, value in table.items():
        if isinstance(value, dict) and not prefix:
            flat |= _flat(value, f"{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _refuse_infinite(table: dict[str, Any]) -> None:
    """Raise ValueError for a number that is not finite: no comparison with it and no JSON would be right."""
    for key, value in _flat(table).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}")


def values_that_are_set(config: Config) -> Flat:
    """The values of a configuration that are set, by dotted key."""
    return {key: value for key, value in flatten(config).items() if value is not None and value != {}}


def read_file(path: Path) -> FrozenRun:
    """Read a `run.toml`. Raises UserError where it is missing, damaged or cannot be read."""
    try:
        table: dict[str, Any] = tomli.loads(read_regular(path, MAX_SETTINGS_BYTES).decode())
        _refuse_infinite(table)
        facts, origins = table.pop("run"), table.pop("origins")
        return msgspec.convert({**facts, "origins": origins, "config": table}, FrozenRun)
    except FileNotFoundError as error:
        hint = "run `ftbench runs` to list the runs"
        raise UserError("not a run: no run.toml", str(path.parent), hint, "run.not_a_run") from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise unusable_file(path, error, "start a new run", "run.config_damaged") from error
