"""Rungs, p-values and ranges over seeds as text, for the verdict and the report's tables.

Functions of numbers take None and NaN too and return `–`; `seed_range_text` returns ''. Sizes, durations and counts:
`engine.config.quantities`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from engine.config.lora_variants import VARIANT_TITLES
from engine.config.method_specs import method_specs
from engine.config.metric_specs import metric_spec
from engine.config.quantities import Number, decimal, integer
from engine.runs.rung_results import SeedRange
from engine.runs.rungs import artifact_of, shots_of

BASE_TITLES = {"base": "base", "base-4bit": "4-bit base"}


def rung_title(name: str) -> str:
    """The name of a rung in text: methods in their usual spelling, other rungs as they are named; `LoRA Q4_K_M`."""
    if artifact := artifact_of(name):
        return f"{rung_title(artifact[0])} {artifact[1].title}"
    if shots := shots_of(name):
        return f"{shots}-shot base"
    if name in VARIANT_TITLES:
        return VARIANT_TITLES[name]
    return method_specs()[name].in_text if name in method_specs() else BASE_TITLES.get(name, name)


def metric_title(metric: str) -> str:
    """The name of a metric in text: `exact match`."""
    return metric_spec(metric).title


def rounded_up(number: int | None) -> str:
    """An estimated number, rounded up to two digits: `1,900` for 1,853."""
    if not number:
        return integer(number)
    step = 10 ** max(0, len(str(number)) - 2)
    return integer(math.ceil(number / step) * step)


def p_value(value: Number) -> str:
    """A p-value: `0.012`, `< 0.001`."""
    return "< 0.001" if value is not None and value < 0.001 else decimal(value, 3)


def seed_range_text(seeds: SeedRange | None, text: Callable[[Number], str]) -> str:
    """Lowest to highest value over the seeds, formatted by `text`; '' if both are written the same."""
    if seeds is None:
        return ""
    low, high = text(seeds.low), text(seeds.high)
    return "" if low == high else f"{low} – {high}"
