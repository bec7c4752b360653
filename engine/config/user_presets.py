"""Create, copy and delete the user's own presets. No file is ever overwritten."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import tomli_w

from engine.config import preset_library
from engine.config.errors import UserError
from engine.config.files import working_directory
from engine.config.method_specs import reads
from engine.config.preset import EXCLUSIVE, EffectiveConfig, Flat, Preset, flatten, nested, resolve
from engine.config.schema import Config

NOT_COPIED = ("slot", "title")
"""Keys that belong to one preset alone."""


def is_own(listed: preset_library.PresetEntry) -> bool:
    """Whether it is in the user's folder, and may be edited in place and deleted."""
    return listed.path.parent == preset_library.user_folder()


def create_from_preset(name: str, base: str, overrides: Flat | None = None) -> Path:
    """Write `NAME.toml` with what `base` sets and `overrides` change.

    Raises UserError for an invalid or existing name, and for overrides that `base` could not be run with.
    """
    path = _new_path(name)
    preset, file = preset_library.find_preset(base)
    given = preset_library.with_absolute_paths(overrides or {}, working_directory())
    method = resolve(preset, None, given).config.method
    copied = {
        key: value
        for key, value in preset_library.with_absolute_paths(preset.values, file.parent).items()
        if key not in NOT_COPIED and reads(method, key) and EXCLUSIVE.get(key) not in given
    }
    rate = copied.get("train.learning_rate")
    if method != preset.values.get("method", Config().method) and not isinstance(rate, dict):
        copied.pop("train.learning_rate", None)  # it was set for the other method
    values = {"title": f"{name}, from {preset_library.preset_name(base)}", **copied, **given}
    resolve(Preset(name, values))
    return _write(path, tomli_w.dumps(nested(values)))


def create_from_config(name: str, base: str, chosen: EffectiveConfig) -> Path:
    """Write `NAME.toml` with only what differs from the method's defaults.

    Raises UserError for an invalid or existing name.
    """
    path = _new_path(name)
    values = changed_settings(chosen, _rates(base))
    values = {"title": f"{name}, from {preset_library.preset_name(base)}", **values}
    resolve(Preset(name, values))
    return _write(path, tomli_w.dumps(nested(values)))


def create_from_values(name: str, title: str, values: Flat) -> Path:
    """Write `NAME.toml` with these values. Raises UserError for an invalid or existing name, and for invalid values."""
    path = _new_path(name)
    values = {"title": title, **values}
    resolve(Preset(name, values))
    return _write(path, tomli_w.dumps(nested(values)))


def changed_settings(chosen: EffectiveConfig, rates: dict[str, float] | None = None) -> Flat:
    """The method and every value that is not its default. `rates`: the preset's learning rates by method, if any."""
    method = chosen.config.method
    defaults = flatten(resolve(Preset("defaults", {}), method).config)
    values: Flat = {"method": method}
    for key, value in flatten(chosen.config).items():
        if key in (*NOT_COPIED, "method") or value is None or value == defaults[key] or not reads(method, key):
            continue
        values[key] = value
    if "train.steps" in values:
        values.pop("train.epochs", None)  # steps count instead of epochs, and a preset must not set both
    if rates and rates.get(method) == values.get("train.learning_rate"):
        values["train.learning_rate"] = rates
    return values


def copy_to_own(listed: preset_library.PresetEntry) -> Path:
    """Copy a shipped preset into the user's folder, where it hides the shipped one."""
    path = preset_library.user_folder() / listed.path.name
    return _write(path, listed.path.read_text("utf-8"))


def delete_own(listed: preset_library.PresetEntry) -> None:
    """Delete an own preset. Raises UserError for a shipped one, and where the file cannot be deleted."""
    if not is_own(listed):
        what, do = "cannot delete a shipped preset", "delete one of your own (`ftbench presets list`)"
        raise UserError(what, listed.name, do, code="preset.shipped")
    try:
        listed.path.unlink()
    except OSError as error:
        what = f"cannot delete the preset ({error.strerror})"
        raise UserError(what, str(listed.path), "check its permissions", code="preset.not_deletable") from error


def check_name(name: str) -> None:
    """Raise UserError for an invalid preset name, and for one that exists."""
    _new_path(name)


def _new_path(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        what = f"invalid preset name {name!r}: use letters, digits, '-' and '_'"
        raise UserError(what, do="start with a letter or digit, at most 64 characters", code="preset.invalid_name")
    if name == preset_library.GPU_LIST:
        what = f"reserved preset name {name!r}: {name}.toml is the GPU price list"
        raise UserError(what, do="choose another name", code="preset.reserved_name")
    existing = next((listed for listed in preset_library.list_presets() if listed.name == name), None)
    if existing is not None:
        raise _exists(existing.path)
    return preset_library.user_folder() / f"{name}.toml"


def _exists(path: Path) -> UserError:
    return UserError("the preset already exists", str(path), "edit it, or choose another name", code="preset.exists")


def _rates(base: str) -> dict[str, float] | None:
    """The learning rates by method in a preset; None where it has no such table."""
    preset, _ = preset_library.find_preset(base)
    rates = preset.values.get("train.learning_rate")
    return rates if isinstance(rates, dict) else None


def _write(path: Path, text: str) -> Path:
    """Write a complete file or nothing, and never overwrite: unlike a rename, a link fails where the name exists."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        what = f"cannot write the preset ({error.strerror})"
        raise UserError(what, str(path), "check the folder and its permissions", code="preset.not_writable") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path
