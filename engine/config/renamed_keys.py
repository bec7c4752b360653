"""Old names of settings, which stay readable: in presets, on the command line, and in stored runs and ladders.

Values are given by dotted key: `{"train.batch": 16}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.config.errors import Notice, UserError

RENAMED_KEYS = {
    "train.warmup": "train.warmup_ratio",
    "adapter.targets": "adapter.target_modules",
    "evaluation.general": "evaluation.forgetting_text",
}
"""Old key -> current key."""
RENAMED_VALUES = {("train.packing", "flat"): "packed"}
"""(current key, old value) -> current value."""

EARLIER_VALUES: dict[str, Any] = {"model.enable_thinking": True}
"""What runs and ladders did before a setting existed, where that is not the setting's default."""


def current_key(key: str) -> str:
    """The current name of a key."""
    return RENAMED_KEYS.get(key, key)


def current_values(values: Mapping[str, Any], where: Callable[[str], str] = str) -> tuple[dict[str, Any], list[Notice]]:
    """The values under their current names, and a notice for each old name. `where` gives the place of a key.

    Raises UserError where a key is set to different values under its old and its current name.
    """
    current: dict[str, Any] = {}
    notices: list[Notice] = []
    for old, value in values.items():
        key = current_key(old)
        if key != old:
            notices.append(_renamed("preset.renamed_key", old, key, where(old)))
        if isinstance(value, str) and (key, value) in RENAMED_VALUES:
            new = RENAMED_VALUES[key, value]
            notices.append(_renamed("preset.renamed_value", f'{key} = "{value}"', f'{key} = "{new}"', where(old)))
            value = new
        if (known := current.setdefault(key, value)) is not value and known != value:  # NaN differs from itself
            what = f"different values for {key} and its old name: {current[key]!r} and {value!r}"
            raise UserError(what, where(old), "keep one of them", code="preset.conflicting_values")
    return current, notices


def _renamed(code: str, old: str, new: str, where: str) -> Notice:
    place = "" if where == old else f": {where}"
    return Notice(code, f"{old} was renamed to {new}{place}; use the new name")


def current_table(table: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Notice]]:
    """`current_values` for nested sections, as `run.toml` and `ladder.toml` store a configuration, with the values of
    EARLIER_VALUES where a setting is missing.
    """
    current: dict[str, Any] = {}
    notices: list[Notice] = []
    for section, content in table.items():
        if not isinstance(content, dict):
            current[section] = content
            continue
        values, found = current_values({f"{section}.{key}": value for key, value in content.items()}, lambda key: where)
        current[section] = {key.removeprefix(f"{section}."): value for key, value in values.items()}
        notices += found
    for key, value in EARLIER_VALUES.items():
        section, _, name = key.partition(".")
        current.setdefault(section, {}).setdefault(name, value)
    return current, notices


def original_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under the names they had first: fingerprints over them do not change when a setting is renamed."""
    old_keys = {new: old for old, new in RENAMED_KEYS.items()}
    old_values = {(key, new): old for (key, old), new in RENAMED_VALUES.items()}
    return {
        old_keys.get(key, key): old_values.get((key, value), value) if isinstance(value, str) else value
        for key, value in values.items()
    }
