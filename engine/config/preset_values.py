"""The values of a preset by dotted key, and where each of them is set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from engine.config.errors import Notice
from engine.config.schema import SECTIONS, TOP_KEYS, Config

Flat = dict[str, Any]
"""Dotted key -> value: {"train.batch": 16}."""


@dataclass(frozen=True)
class Preset:
    """A preset as it was read: its name, its values, and its text, in which errors point at lines."""

    name: str
    values: Flat
    text: str = ""
    notices: list[Notice] = field(default_factory=list)
    """Warnings of reading it."""

    def where(self, key: str) -> str:
        """`name line 7 (train.batch)`; without the line where the text does not set the key."""
        if not key:
            return self.name
        line = line_of(self.text, key)
        return f"{self.name} line {line} ({key})" if line else f"{self.name} ({key})"


def known_keys() -> list[str]:
    """Every dotted key of the schema."""
    return [*TOP_KEYS, *(f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.__struct_fields__)]


def flatten(config: Config) -> Flat:
    """Every value of a configuration by dotted key."""
    table = msgspec.to_builtins(config)
    flat: Flat = {}
    for key in TOP_KEYS:
        flat[key] = table[key]
    for section in SECTIONS:
        for key, value in table[section].items():
            flat[f"{section}.{key}"] = value
    return flat


def nested(values: Flat) -> dict[str, Any]:
    """The inverse of `flatten`: {"train.batch": 8} -> {"train": {"batch": 8}}."""
    table: dict[str, Any] = {}
    for key, value in values.items():
        section, dot, name = key.partition(".")
        if dot:
            table.setdefault(section, {})[name] = value
        else:
            table[key] = value
    return table


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The configuration with other values for some dotted keys. The values are not checked."""
    for key, value in settings.items():
        section, _, name = key.partition(".")
        changed = msgspec.structs.replace(getattr(config, section), **{name: value}) if name else value
        config = msgspec.structs.replace(config, **{section: changed})
    return config


def line_of(text: str, key: str) -> int:
    """The line of a preset's text that sets a dotted key, from 1; 0 where none does."""
    section, _, name = key.partition(".")
    wanted_table, wanted_name = (section, name) if name else ("", section)
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if match := re.match(r"\[\s*([^\]]+?)\s*\]", stripped):
            table = match.group(1)
            if not name and table == key:
                return number
        left = stripped.partition("=")[0].strip().strip("\"'")
        if (table == wanted_table and left == wanted_name) or (not table and left == key):
            return number
    return 0
