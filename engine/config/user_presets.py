"""The user's own presets: made from others, from a choice, or as a copy to edit; never written over another."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import tomli_w

from engine.config import preset_library
from engine.config.errors import UserError
from engine.config.files import working_folder
from engine.config.method_specs import reads
from engine.config.preset import Effective, Flat, Preset, flatten, nested, resolve
from engine.config.schema import Config

NOT_COPIED = ("slot", "title")
"""A key of the workbench belongs to one preset, and so does a title."""
_RIVALS = {"train.epochs": ("train.steps",), "train.steps": ("train.epochs",)}
"""Keys that give way to another one."""


def is_own(listed: preset_library.PresetEntry) -> bool:
    """Whether it lies in the user's folder, and so may be edited in place and deleted."""
    return listed.path.parent == preset_library.user_folder()


def from_preset(name: str, base: str, overrides: Flat | None = None) -> Path:
    """`NAME.toml` with what `base` sets and `overrides` change. Raises UserError where the name is taken, and for
    overrides that `base` could not be run with.
    """
    path = _free(name)
    preset, file = preset_library.find_preset(base)
    given = preset_library.anchored(overrides or {}, working_folder())
    method = resolve(preset, None, given).config.method
    kept = {
        key: value
        for key, value in preset_library.anchored(preset.values, file.parent).items()
        if key not in NOT_COPIED and reads(method, key) and given.keys().isdisjoint(_RIVALS.get(key, ()))
    }
    if method != preset.values.get("method", Config().method) and not isinstance(kept.get("train.learning_rate"), dict):
        kept.pop("train.learning_rate", None)  # it was meant for the other method
    values = {"title": f"{name}, from {preset_library.called(base)}", **kept, **given}
    resolve(Preset(name, values))
    return _write(path, tomli_w.dumps(nested(values)))


def from_choice(name: str, base: str, chosen: Effective) -> Path:
    """`NAME.toml` with only what differs from the method's defaults. Raises UserError where the name is taken."""
    path = _free(name)
    values = differing(chosen, _rates(base))
    values = {"title": f"{name}, from {preset_library.called(base)}", **values}
    resolve(Preset(name, values))
    return _write(path, tomli_w.dumps(nested(values)))


def differing(chosen: Effective, rates: dict[str, float] | None = None) -> Flat:
    """The method and every value that is not its default; `rates` is the preset's table of learning rates, if any."""
    method = chosen.config.method
    defaults = flatten(resolve(Preset("defaults", {}), method).config)
    values: Flat = {"method": method}
    for key, value in flatten(chosen.config).items():
        if key in (*NOT_COPIED, "method") or value is None or value == defaults[key] or not reads(method, key):
            continue
        values[key] = value
    if "train.steps" in values:
        values.pop("train.epochs", None)  # steps count instead of epochs, and a preset may not set both
    if rates and rates.get(method) == values.get("train.learning_rate"):
        values["train.learning_rate"] = rates
    return values


def copy_to_own(listed: preset_library.PresetEntry) -> Path:
    """A shipped preset's text in the user's folder, under its name, where it hides the shipped one."""
    path = preset_library.user_folder() / listed.path.name
    return _write(path, listed.path.read_text("utf-8"))


def delete_own(listed: preset_library.PresetEntry) -> None:
    """Raises UserError for a shipped one, and where the file cannot be deleted."""
    if not is_own(listed):
        raise UserError(f"{listed.name} ships with ftbench", do="only your own presets can be deleted")
    try:
        listed.path.unlink()
    except OSError as error:
        raise UserError(f"cannot be deleted: {error.strerror}", str(listed.path), "look at its permissions") from error


def check_name(name: str) -> None:
    """Raises UserError for what is no file's name everywhere, and for one that is taken."""
    _free(name)


def _free(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise UserError(f"{name!r} is no name for a preset", do="letters, digits, - and _, at most 64")
    if name == "cards":
        raise UserError("cards.toml is the list of cards", do="choose another name")
    taken = next((listed for listed in preset_library.list_presets() if listed.name == name), None)
    if taken is not None:
        raise UserError("exists already", str(taken.path), "edit it, or choose another name")
    return preset_library.user_folder() / f"{name}.toml"


def _rates(base: str) -> dict[str, float] | None:
    """The table of learning rates by method that a preset may have."""
    preset, _ = preset_library.find_preset(base)
    rates = preset.values.get("train.learning_rate")
    return rates if isinstance(rates, dict) else None


def _write(path: Path, text: str) -> Path:
    """Whole or not at all, and never over another file: a link, unlike a rename, refuses a name that is taken."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError as error:
        raise UserError("exists already", str(path), "edit it, or choose another name") from error
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", str(path), "look at the folder") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path
