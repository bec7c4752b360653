"""Find setting changes that make a method fit: each single change that suffices, else a combination."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from msgspec import Struct

from engine.config.method_specs import QLORA
from engine.config.schema import Config
from engine.memory.formula.fit import (
    Fit,
    FitQuery,
    FormulaCorrection,
    classify_fit,
    largest_evaluation_batch,
    largest_micro_batch,
    longest_rows,
)

Settings = dict[str, Any]
MIN_LENGTH = 64
"""Tokens; shorter rows than this, or than an eighth of the planned length, are not proposed."""


class Remedy(Struct, frozen=True, kw_only=True):
    """Settings to change, and the predicted memory with them."""

    settings: dict[str, Any]
    """Dotted keys of the preset and their values; includes `method` if it changes."""
    peak: int
    """Bytes by the formula, corrected by the dry run if there is one."""
    fit: Fit


def changes(
    asked: FitQuery, qlora: tuple[Config, FormulaCorrection] | None = None, positions: int | None = None
) -> list[Remedy]:
    """Changes that make `asked` fit, smallest first; empty if it already fits or nothing helps.

    Smaller means less effect on the result: none for micro-batch size, evaluation batch size and gradient
    checkpointing, little for 8-bit optimizer state, more for shorter rows, most for QLoRA. `qlora`: the preset with
    that method, None if it is already used.
    """
    if asked.fits():
        return []
    alone = [change for change in _alone(asked, qlora, positions) if change]
    return alone or [change for change in _together(asked, qlora, positions) if change][:1]


def _alone(
    asked: FitQuery, qlora: tuple[Config, FormulaCorrection] | None, positions: int | None
) -> Iterator[Remedy | None]:
    if 0 < (largest := largest_evaluation_batch(asked).value) < asked.config.evaluation.batch:
        yield _change(asked, {"evaluation.batch": largest})
    if 0 < (largest := largest_micro_batch(asked).value) < asked.light().micro_batch:
        yield _change(asked, {"train.micro_batch": largest})
    for settings in (_checkpointing(asked), _small_state(asked)):
        yield _change(asked, settings) if settings else None
    yield _shorter(asked, {}, positions)
    if qlora:
        yield _change(_by_qlora(asked, qlora), {}, {"method": QLORA.name})


def _together(
    asked: FitQuery, qlora: tuple[Config, FormulaCorrection] | None, positions: int | None
) -> Iterator[Remedy | None]:
    """Combinations with as few changes as possible: first with the same method, then with QLoRA."""
    yield _fewest(asked, {}, positions)
    if qlora:
        start, method = _by_qlora(asked, qlora), {"method": QLORA.name}
        yield from (_on_top(change, method) for change in _alone(start, None, positions) if change)
        yield _fewest(start, method, positions)


def _fewest(start: FitQuery, before: Settings, positions: int | None) -> Remedy | None:
    """All changes that keep rows and method, minus those not needed; plus shorter rows if they do not suffice."""
    settings: Settings = {"train.micro_batch": 1} if start.light().micro_batch > 1 else {}
    settings |= {} if largest_evaluation_batch(start).bound == "all" else {"evaluation.batch": 1}
    settings |= {**_checkpointing(start), **_small_state(start)}
    if not start.with_settings(settings).fits():
        return _shorter(start, settings, positions, before)
    for key in reversed(list(settings)):
        fewer = {name: value for name, value in settings.items() if name != key}
        settings = fewer if start.with_settings(fewer).fits() else settings
    if "train.micro_batch" in settings:
        settings["train.micro_batch"] = largest_micro_batch(start.with_settings(settings)).value
    return _change(start, settings, before)


def _on_top(change: Remedy, before: Settings) -> Remedy:
    return Remedy(settings={**before, **change.settings}, peak=change.peak, fit=change.fit)


def _checkpointing(asked: FitQuery) -> Settings:
    return {} if asked.light().gradient_checkpointing else {"train.gradient_checkpointing": True}


def _small_state(asked: FitQuery) -> Settings:
    """8-bit optimizer state, paged on a GPU."""
    if asked.config.optimizer.name != "adamw":
        return {}
    return {"optimizer.name": "paged_adamw_8bit" if asked.budget.device == "cuda" else "adamw_8bit"}


def _shorter(
    asked: FitQuery, settings: Settings, positions: int | None, before: Settings | None = None
) -> Remedy | None:
    changed = asked.with_settings(settings)
    longest = longest_rows(changed, positions).value
    if longest < max(MIN_LENGTH, asked.rows.length // 8) or longest >= asked.rows.length:
        return None
    return _change(changed.with_length(longest), {}, {**(before or {}), **settings, "train.max_length": longest})


def _by_qlora(asked: FitQuery, qlora: tuple[Config, FormulaCorrection]) -> FitQuery:
    """The query with QLoRA and the same micro-batch size."""
    config, scale = qlora
    return replace(asked, config=config, scale=scale).with_micro_batch(asked.light().micro_batch)


def _change(asked: FitQuery, settings: Settings, before: Settings | None = None) -> Remedy | None:
    """The change with its predicted memory, None if it does not fit. `before`: settings already applied to `asked`."""
    changed = asked.with_settings(settings)
    if not changed.fits():
        return None
    peak = changed.peak()
    fit = classify_fit(peak, changed.budget, "formula")
    return Remedy(settings={**(before or {}), **settings}, peak=peak, fit=fit)
