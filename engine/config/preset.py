"""Combine defaults, a preset file and the command line into one configuration, with the origin of each value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli

from engine.config.errors import Notice, UserError
from engine.config.files import read_small
from engine.config.method_specs import method_names, method_spec, reads
from engine.config.preset_checks import check_keys, check_read, check_values, converted, unknown_method
from engine.config.preset_values import Flat, Preset, flatten, known_keys, line_of, nested, with_settings
from engine.config.schema import SECTIONS, Config

__all__ = [
    "EXCLUSIVE",
    "EffectiveConfig",
    "Flat",
    "Preset",
    "flatten",
    "nested",
    "parse_overrides",
    "read_preset",
    "resolve",
    "with_settings",
]

EXCLUSIVE = {"train.epochs": "train.steps", "train.steps": "train.epochs"}
"""Key -> the key that it replaces in an earlier layer."""


@dataclass(frozen=True)
class EffectiveConfig:
    """A configuration with the origin of every value, and notices on what was left out or renamed."""

    config: Config
    origins: dict[str, str]
    notices: list[Notice] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """The texts of the notices."""
        return [notice.text for notice in self.notices]


def read_preset(path: Path, name: str | None = None) -> Preset:
    """Read and check one TOML file.

    Raises UserError for invalid TOML, unknown keys, invalid values, and keys that the preset's method does not read.
    """
    name = name or path.name
    text, table = _read_toml(path, name)
    preset = Preset(name, _flat(table, name, text), text)
    check_keys(preset)
    check_read(preset)
    resolve(preset)
    return preset


def _read_toml(path: Path, name: str) -> tuple[str, dict[str, Any]]:
    code, example = "preset.invalid_toml", "see `ftbench presets show demo-lora` for a complete preset"
    try:
        text = read_small(path).decode("utf-8")
        return text, tomli.loads(text)
    except UnicodeDecodeError as error:
        problem = f"invalid UTF-8 at byte {error.start}"
        raise UserError(problem, name, "save the preset as UTF-8", code="preset.not_utf8") from error
    except ValueError as error:  # TOMLDecodeError, and numbers that Python does not convert
        raise UserError(f"invalid TOML ({error})", name, example, code=code) from error
    except RecursionError as error:
        raise UserError("invalid preset (nested too deeply)", name, example, code=code) from error
    except OSError as error:
        problem = f"cannot read the preset ({error.strerror})"
        raise UserError(problem, str(path), "check the path", code="preset.unreadable") from error


COMMAND_LINE = "command line"
"""Origin of values that override a preset's."""


def resolve(
    preset: Preset, method: str | None = None, overrides: Flat | None = None, given_by: str = COMMAND_LINE
) -> EffectiveConfig:
    """Combine defaults, the method's defaults, the preset and the overrides; later ones take precedence.

    `given_by`: what sets the overrides, the origin of their values. A key that the chosen method does not read is an
    error among the overrides; it is left out with a notice where the preset sets it for another method. A preset's
    single learning rate belongs to its own method: another method uses its default, with a notice.
    """
    given = dict(overrides or {})
    check_keys(Preset(given_by, given))
    own_method = preset.values.get("method", Config().method)
    if method:
        _add(given, "method", method, "method", given_by)
    chosen = method or given.get("method") or own_method
    if chosen not in method_names():
        layer = Preset(given_by, given) if "method" in given else preset
        raise unknown_method(str(chosen), layer.where("method"))
    given["method"] = chosen
    layers = [
        (f"default for {chosen}", Preset("defaults", dict(method_spec(chosen).defaults))),
        (f"preset {preset.name}", preset),
        (given_by, Preset(given_by, given)),
    ]
    notices = list(preset.notices)
    values: Flat = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for key, value in _read_values(layer, layer is preset, chosen, own_method, origin, notices).items():
            if key == "method" and layer is not preset and method is None and value == own_method:
                continue
            if (other := EXCLUSIVE.get(key)) and origins.get(other) not in (None, origin):
                del values[other], origins[other]  # the later layer decides how long training is
            values[key] = value
            origins[key] = origin
    config = converted(values, layers)
    check_values(values, layers, config)
    return EffectiveConfig(config, {**dict.fromkeys(known_keys(), "default"), **origins}, notices)


def _read_values(
    layer: Preset, is_preset: bool, method: str, own_method: str, origin: str, notices: list[Notice]
) -> Flat:
    """The values of a layer that the method reads; adds a notice for each that a preset sets for another method."""
    values: Flat = {}
    for key, value in layer.values.items():
        if key == "train.learning_rate" and isinstance(value, dict):
            if method not in value:
                continue
            value = value[method]
        elif key == "train.learning_rate" and is_preset and method != own_method:
            text = f"{key} = {value} was set for {own_method}: {method}'s default is used"
            notices.append(Notice("preset.other_method_rate", text))
            continue
        if not reads(method, key):
            if not is_preset:
                hint = "remove it or choose another method"
                raise UserError(f"{key} is not read by {method}", origin, hint, code="preset.unread_key")
            notices.append(Notice("preset.unread_key", f"{key} is not read by {method}: left out"))
            continue
        values[key] = value
    return values


def parse_overrides(pairs: Iterable[str], where: str = "--set") -> Flat:
    """`train.batch=8` -> {"train.batch": 8}; a value is TOML, else a bare string. `where`: the option's name.

    Raises UserError for a pair that is not KEY=VALUE, and for a key with two values.
    """
    result: Flat = {}
    for pair in pairs:
        key, equals, raw = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UserError(
                f"{pair!r} is not KEY=VALUE", where, "for example train.batch=8", code="cli.invalid_setting"
            )
        try:
            value = tomli.loads(f"value = {raw}")["value"]
        except (tomli.TOMLDecodeError, KeyError):
            value = raw.strip()
        role = key.removeprefix("data.map.")
        if role != key and isinstance(value, str):
            key, value = "data.map", {role: value}
        if key == "data.map" and isinstance(value, dict):
            mapped = result.setdefault(key, {})
            for name in value:
                _add(mapped, name, value[name], f"data.map.{name}", where)
        else:
            _add(result, key, value, key, where)
    return result


def _add(table: Flat, name: str, value: Any, key: str, where: str) -> None:
    """Set a value. Raises UserError where it has another one already: the last must not win silently."""
    if (known := table.setdefault(name, value)) is not value and known != value:  # NaN differs from itself
        problem = f"different values for {key} ({table[name]!r} and {value!r})"
        raise UserError(problem, where, "keep one of them", code="preset.conflicting_values")


def _flat(table: dict[str, Any], name: str, text: str) -> Flat:
    """A TOML table by dotted key."""
    flat: Flat = {}
    for key, value in table.items():
        if key in SECTIONS and not isinstance(value, dict):
            location = f"{name} line {line_of(text, key)} ({key})"
            raise UserError(
                f"{key} must be a table", location, f"write [{key}] above its keys", code="preset.not_a_table"
            )
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items()} or {key: {}}
        else:
            flat[key] = value
    return flat
