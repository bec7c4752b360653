"""Reads `--vary` and `--budget`, and makes the plans of the ladders of a sweep."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import tomli

from engine.config.errors import UserError
from engine.config.preset import Flat, parse_overrides
from engine.config.preset_values import known_keys
from engine.config.text import amount
from engine.runs.ladder_plan import LADDER_KEYS
from engine.runs.rungs import LadderPlan
from engine.runs.sweep import Axis, cell_text

MAX_AXES = 2
MAX_CELLS = 100
NOT_VARIED = (*LADDER_KEYS, "train.seed", "title", "about", "slot")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])", re.ASCII)


def parse_axes(words: Sequence[str], overrides: Flat) -> list[Axis]:
    """The axes of `--vary KEY=V1,V2,V3`, at most two.

    Raises UserError for an unknown key, fewer than two values, equal values, and a key that --set sets too.
    """
    if len(words) > MAX_AXES:
        raise UserError(
            f"too many settings to vary ({len(words)})", "--vary", f"use at most {MAX_AXES}", code="sweep.axes"
        )
    axes = [_axis(word) for word in words]
    if len({axis.key for axis in axes}) < len(axes):
        raise UserError(f"{axes[0].key} is varied twice", "--vary", "give all values at once", code="sweep.axes")
    for axis in axes:
        if axis.key in overrides:
            what = f"{axis.key} is set and varied"
            raise UserError(what, "--vary", f"remove --set {axis.key}", code="sweep.key_set")
    return axes


def _axis(word: str) -> Axis:
    key, equals, text = word.partition("=")
    example = "for example --vary adapter.rank=4,16,64"
    if not equals or not key.strip():
        raise UserError(f"{word!r} is not KEY=V1,V2", "--vary", example, code="sweep.axes")
    key = key.strip()
    if key not in known_keys() or key in NOT_VARIED:
        what = "cannot be varied" if key in NOT_VARIED else "unknown setting"
        raise UserError(f"{what}: {key}", "--vary", "see docs/configuration.md", code="sweep.key")
    values = [next(iter(parse_overrides([f"{key}={value}"], "--vary").values())) for value in _values(text)]
    if len(values) < 2 or any(values.count(value) > 1 for value in values):
        what = f"{key} needs two or more different values"
        raise UserError(what, "--vary", example, code="sweep.values")
    return Axis(key=key, values=values)


def _values(text: str) -> list[str]:
    """The values between commas; brackets and quotes protect commas."""
    try:
        parts: list[Any] = tomli.loads(f"values = [{text}]")["values"]
    except tomli.TOMLDecodeError:
        return [part.strip() for part in text.split(",") if part.strip()]
    return [part if isinstance(part, str) else _toml(part) for part in parts]


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_quoted(part) for part in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else _toml(value)


def parse_budget(text: str | None) -> float | None:
    """Seconds of `8h`, `90m` or `1h 30m`; None without a budget. Raises UserError for another text."""
    if text is None:
        return None
    parts = _BUDGET.findall(text.lower())
    if not parts or _BUDGET.sub("", text.lower()).strip():
        raise UserError(f"invalid duration {text!r}", "--budget", "for example 8h, 90m or 1h 30m", code="sweep.budget")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def make_cells(
    axes: Sequence[Axis], overrides: Flat, plan: Callable[[Flat], LadderPlan]
) -> list[tuple[dict[str, Any], LadderPlan]]:
    """(values, plan of the ladder) of each combination of the axes' values, the first axis outermost.

    `plan` makes the plan of a ladder with these settings. Raises UserError for a combination that is invalid.
    """
    combinations = list(itertools.product(*(axis.values for axis in axes)))
    if len(combinations) > MAX_CELLS:
        what = f"too many ladders ({len(combinations)})"
        raise UserError(what, "--vary", f"use fewer values: at most {MAX_CELLS} ladders", code="sweep.cells")
    keys = [axis.key for axis in axes]
    cells = [dict(zip(keys, values, strict=True)) for values in combinations]
    return [(values, plan({**overrides, **values})) for values in cells]


def describe_sweep(axes: Sequence[Axis], cells: Sequence[tuple[dict[str, Any], LadderPlan]]) -> str:
    """`3 ladders: adapter.rank=4; adapter.rank=16; adapter.rank=64`."""
    return f"{amount(len(cells), 'ladder')}: {'; '.join(cell_text(values) for values, _ in cells)}"
