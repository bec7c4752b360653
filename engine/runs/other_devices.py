"""Resume a run on other devices than it started on: of its frozen configuration only these settings can change.

They decide where the run is computed. Up to rounding its losses are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import tomli

from engine.config.errors import UserError
from engine.config.files import MAX_SETTINGS_BYTES, read_regular, write_atomically
from engine.config.preset import Flat
from engine.config.preset_values import with_settings
from engine.config.schema import Config
from engine.runs.config_check import check_unchanged
from engine.runs.run.frozen_config import DEVICE_KEYS, refingerprinted_text
from engine.runs.run.run_dir import RunDir, read_frozen


def use_devices(run: RunDir, settings: Flat, check: Callable[[Config], object]) -> None:
    """Set DEVICE_KEYS in the frozen configuration of a run that is not running. `check` raises if they do not exist.

    Raises UserError also for another key or an invalid value, and where the file was edited; it is then not changed.
    """
    if other := sorted(settings.keys() - set(DEVICE_KEYS)):
        what, do = f"{other[0]} cannot change in a resumed run", f"only {', '.join(DEVICE_KEYS)} can"
        raise UserError(what, "--set", do, code="run.setting_fixed")
    frozen = read_frozen(run)
    check_unchanged(run, frozen)
    try:
        check(msgspec.convert(msgspec.to_builtins(with_settings(frozen.config, settings)), Config))
    except msgspec.ValidationError as error:
        what, do = f"invalid value: {error}", "docs/configuration.md lists the values"
        raise UserError(what, "--set", do, "preset.invalid_value") from error
    table: dict[str, Any] = tomli.loads(read_regular(run.config_file, MAX_SETTINGS_BYTES).decode())
    for key, value in settings.items():
        section, _, name = key.partition(".")
        table.setdefault(section, {})[name] = value
    write_atomically(run.config_file, refingerprinted_text(table).encode())
