"""From a preset file and the command line to one effective configuration, each value with its origin."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import tomli

from engine.config.errors import UserError
from engine.config.files import read_small
from engine.config.method_specs import method_names, method_spec, readers, reads
from engine.config.metric_specs import metric_names
from engine.config.schema import DATA_FORMATS, SECTIONS, TOP_KEYS, Config

Flat = dict[str, Any]
"""Dotted key -> value: {"train.batch": 16}."""


@dataclass(frozen=True)
class Effective:
    """A configuration with the origin of every value and what was left out on the way."""

    config: Config
    origins: dict[str, str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Preset:
    """A preset as read: its name, its keys (flat) and its text, kept to point at lines."""

    name: str
    values: Flat
    text: str = ""

    def where(self, key: str) -> str:
        """`name line 7 (train.batch)`, or without the line where the key is not in the text."""
        line = _line_of(self.text, key)
        return f"{self.name} line {line} ({key})" if line else f"{self.name} ({key})"


def read_preset(path: Path, name: str | None = None) -> Preset:
    """Read and check one TOML file.

    Raises UserError for invalid TOML, unknown keys, invalid values, and keys that the preset's method does not read.
    """
    name = name or path.name
    try:
        text = read_small(path).decode("utf-8")
        table = tomli.loads(text)
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 at byte {error.start}", name, "save the preset as UTF-8") from error
    except ValueError as error:  # TOMLDecodeError, and numbers that Python does not convert
        raise UserError(f"not TOML: {error}", name, "see `ftbench presets show demo-lora` for a whole one") from error
    except RecursionError as error:
        raise UserError("not a preset: nested too deeply", name, "a preset has one level of tables") from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", str(path), "check the path") from error
    preset = Preset(name, _flat(table, name, text), text)
    _check_keys(preset)
    _check_unread(preset)
    resolve(preset)
    return preset


def resolve(preset: Preset, method: str | None = None, overrides: Flat | None = None) -> Effective:
    """Lay defaults, the method's defaults, the preset and the command line over each other, in that order.

    A key that the chosen method does not read is an error when the command line sets it, and left out with a note when
    the preset set it for another method. A preset's single learning rate is for its own method: another one has its
    default, with a note.
    """
    overrides = dict(overrides or {})
    command_line = Preset("command line", overrides)
    _check_keys(command_line)
    own = preset.values.get("method", Config().method)
    if method:
        _add(overrides, "method", method, "method", "command line")
    chosen = method or overrides.get("method") or own
    if chosen not in method_names():
        what = f"unknown method {chosen!r}{_suggest(str(chosen), method_names())}"
        do = f"use one of {', '.join(method_names())}"
        raise UserError(what, preset.where("method"), do, code="method.unknown")
    overrides["method"] = chosen

    values: Flat = {}
    origins: dict[str, str] = {}
    notes: list[str] = []
    layers: list[tuple[str, Preset]] = [
        (f"default for {chosen}", Preset("defaults", dict(method_spec(chosen).defaults))),
        (f"preset {preset.name}", preset),
        ("command line", Preset("command line", overrides)),
    ]
    for origin, layer in layers:
        for key, value in layer.values.items():
            if key == "train.learning_rate" and isinstance(value, dict):
                if chosen not in value:
                    continue
                value = value[chosen]
            elif key == "train.learning_rate" and layer is preset and chosen != own:
                notes.append(f"{key} = {value} was set for {own}: {chosen}'s default is used")
                continue
            if not reads(chosen, key):
                if layer is preset:
                    notes.append(f"{key} is not read by {chosen}: left out")
                    continue
                raise UserError(f"{key} is not read by {chosen}", origin, "drop it or choose another method")
            if key == "method" and layer is not preset and method is None and value == own:
                continue
            values[key] = value
            origins[key] = origin
    config = _converted(values, layers)
    _check_blank(values, layers)
    _check_together(values, layers, config)
    return Effective(config, {**dict.fromkeys(_keys(), "default"), **origins}, notes)


def parse_overrides(pairs: Iterable[str], where: str = "--set") -> Flat:
    """`train.batch=8` -> {"train.batch": 8}; a value is TOML, or else the bare string. `where`: the option's name.

    Raises UserError for what is not KEY=VALUE, and for a key with two values.
    """
    result: Flat = {}
    for pair in pairs:
        key, equals, raw = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UserError(f"{pair!r} is not KEY=VALUE", where, "for example train.batch=8")
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
    """Set a value. Raises UserError where another one was given before: the last must not win in silence."""
    if table.setdefault(name, value) != value:
        what = f"different values for {key}: {table[name]!r} and {value!r}"
        raise UserError(what, where, "keep one of them", "config.conflicting_values")


def flatten(config: Config) -> Flat:
    """Every value of a configuration under its dotted key."""
    table = msgspec.to_builtins(config)
    flat: Flat = {}
    for key in TOP_KEYS:
        flat[key] = table[key]
    for section in SECTIONS:
        for key, value in table[section].items():
            flat[f"{section}.{key}"] = value
    return flat


def nested(values: Flat) -> dict[str, Any]:
    """The inverse of flattening: {"train.batch": 8} -> {"train": {"batch": 8}}."""
    table: dict[str, Any] = {}
    for key, value in values.items():
        section, dot, name = key.partition(".")
        if dot:
            table.setdefault(section, {})[name] = value
        else:
            table[key] = value
    return table


def _flat(table: dict[str, Any], name: str, text: str) -> Flat:
    flat: Flat = {}
    for key, value in table.items():
        if key in SECTIONS and not isinstance(value, dict):
            raise UserError(
                f"{key} is a table", f"{name} line {_line_of(text, key)} ({key})", f"write [{key}] above its keys"
            )
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items()} or {key: {}}
        else:
            flat[key] = value
    return flat


def _keys() -> list[str]:
    return [*TOP_KEYS, *(f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.__struct_fields__)]


def _check_keys(preset: Preset) -> None:
    known = [*_keys(), *SECTIONS]
    for key in preset.values:
        if key not in known:
            last = key.rsplit(".", 1)[-1]
            close = [name for name in known if name.rsplit(".", 1)[-1] == last]
            raise UserError(
                f"nothing reads the key {key}{_suggest(key, known, close)}",
                preset.where(key),
                "`ftbench presets show demo-lora` prints every key",
            )


def _check_unread(preset: Preset) -> None:
    method = preset.values.get("method", Config().method)
    for key in preset.values:
        if method in method_names() and not reads(method, key):
            raise UserError(
                f"{key} is read by {' and '.join(readers(key))} only, and the method is {method}",
                preset.where(key),
                "remove it or change the method",
            )


def _check_blank(values: Flat, layers: list[tuple[str, Preset]]) -> None:
    """Refuse names and paths without a character: an empty path would mean the current folder."""
    for key, value in values.items():
        blank = isinstance(value, str) and (not value.strip() if key != "data.separator" else not value)
        if blank and key not in ("title", "about"):
            where = next(layer.where(key) for _, layer in reversed(layers) if key in layer.values)
            raise UserError(f"empty value for {key}", where, "give a value or leave the key out", "config.empty_value")


def _check_together(values: Flat, layers: list[tuple[str, Preset]], config: Config) -> None:
    if "train.steps" in values and "train.epochs" in values:
        by = {
            key: max(i for i, (_, layer) in enumerate(layers) if key in layer.values)
            for key in ("train.steps", "train.epochs")
        }
        if by["train.steps"] == by["train.epochs"]:
            raise UserError(
                "both train.steps and train.epochs are set",
                layers[by["train.steps"]][1].where("train.steps"),
                "keep one",
            )
    if config.data.separator is not None and config.data.format not in ("auto", "text"):
        raise UserError(
            f"data.separator is read for format text only, and the format is {config.data.format}",
            next(layer.where("data.separator") for _, layer in reversed(layers) if "data.separator" in layer.values),
            'remove it or set data.format = "text"',
        )
    metric = config.evaluation.metric
    if metric not in metric_names():
        layer = next(layer for _, layer in reversed(layers) if "evaluation.metric" in layer.values)
        what = f"unknown metric {metric!r}{_suggest(metric, metric_names())}"
        where, do = layer.where("evaluation.metric"), f"use one of {', '.join(metric_names())}"
        raise UserError(what, where, do, code="metric.unknown")
    micro = config.train.micro_batch
    if isinstance(micro, int) and micro > config.train.batch:
        raise UserError(
            f"train.micro_batch = {micro} is larger than train.batch = {config.train.batch}",
            next(
                layer.where("train.micro_batch") for _, layer in reversed(layers) if "train.micro_batch" in layer.values
            ),
            "micro_batch is a part of the effective batch",
        )


def _converted(values: Flat, layers: list[tuple[str, Preset]]) -> Config:
    try:
        return msgspec.convert(nested(values), Config)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        key = re.sub(r"\[.*", "", path.rstrip("`"))
        layer = next((layer for _, layer in reversed(layers) if key in layer.values), layers[1][1])
        value = values.get(key)
        shown = f"{key} = {value!r}: " if key else ""
        raise UserError(f"{shown}{message[:1].lower()}{message[1:]}", layer.where(key), _allowed(key)) from error


def _allowed(key: str) -> str:
    """The choices of a key that has a fixed list of them."""
    section, _, name = key.partition(".")
    hint = SECTIONS[section].__annotations__.get(name, "") if section in SECTIONS else ""
    choices = re.findall(r"['\"]([^'\"]+)['\"]", str(hint))
    if key == "method":
        choices = list(method_names())
    if key == "data.format":
        choices = list(DATA_FORMATS)
    return "one of " + ", ".join(choices) if choices else "see `ftbench presets show demo-lora`"


def _suggest(wrong: str, known: Iterable[str], better: list[str] | None = None) -> str:
    close = better or difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _line_of(text: str, key: str) -> int:
    """The line that sets a dotted key, 0 where it is not written out."""
    section, _, name = key.partition(".")
    wanted, current = (section, name) if name else ("", section)
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if match := re.match(r"\[\s*([^\]]+?)\s*\]", stripped):
            table = match.group(1)
            if not name and table == key:
                return number
        left = stripped.partition("=")[0].strip().strip("\"'")
        if (table == wanted and left == current) or (not table and left == key):
            return number
    return 0
