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
    """With these settings."""


def changes(
    query: FitQuery, qlora: tuple[Config, FormulaCorrection] | None = None, positions: int | None = None
) -> list[Remedy]:
    """Changes that make `query` fit, smallest first; empty if it already fits or nothing helps.

    Smaller means less effect on the result: none for micro-batch size, evaluation batch size and gradient
    checkpointing, little for 8-bit optimizer state, more for shorter rows, most for QLoRA. `qlora`: the preset with
    that method, None if it is already used.
    """
    if query.fits():
        return []
    alone = [change for change in _alone(query, qlora, positions) if change]
    return alone or [change for change in _together(query, qlora, positions) if change][:1]


def _alone(
    query: FitQuery, qlora: tuple[Config, FormulaCorrection] | None, positions: int | None
) -> Iterator[Remedy | None]:
    if 0 < (largest := largest_evaluation_batch(query).value) < query.config.evaluation.batch:
        yield _change(query, {"evaluation.batch": largest})
    if 0 < (largest := largest_micro_batch(query).value) < query.formula_estimate().micro_batch:
        yield _change(query, {"train.micro_batch": largest})
    for settings in (_checkpointing(query), _small_state(query)):
        yield _change(query, settings) if settings else None
    yield _shorter(query, {}, positions)
    if qlora:
        yield _change(_by_qlora(query, qlora), {}, {"method": QLORA.name})


def _together(
    query: FitQuery, qlora: tuple[Config, FormulaCorrection] | None, positions: int | None
) -> Iterator[Remedy | None]:
    """Combinations with as few changes as possible: first with the same method, then with QLoRA."""
    yield _fewest(query, {}, positions)
    if qlora:
        start, method = _by_qlora(query, qlora), {"method": QLORA.name}
        yield from (_on_top(change, method) for change in _alone(start, None, positions) if change)
        yield _fewest(start, method, positions)


def _fewest(start: FitQuery, before: Settings, positions: int | None) -> Remedy | None:
    """All changes that keep rows and method, minus those not needed; plus shorter rows if they do not suffice."""
    settings: Settings = {"train.micro_batch": 1} if start.formula_estimate().micro_batch > 1 else {}
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


def _checkpointing(query: FitQuery) -> Settings:
    """The next stronger activation checkpointing; only a GPU can offload."""
    current = query.formula_estimate().gradient_checkpointing
    if current is True:
        return {"train.gradient_checkpointing": "offload"} if query.budget.device == "cuda" else {}
    return {} if current == "offload" else {"train.gradient_checkpointing": True}


def _small_state(query: FitQuery) -> Settings:
    """8-bit optimizer state, paged on a GPU."""
    if query.config.optimizer.name != "adamw":
        return {}
    return {"optimizer.name": "paged_adamw_8bit" if query.budget.device == "cuda" else "adamw_8bit"}


def _shorter(
    query: FitQuery, settings: Settings, positions: int | None, before: Settings | None = None
) -> Remedy | None:
    changed = query.with_settings(settings)
    longest = longest_rows(changed, positions).value
    if longest < max(MIN_LENGTH, query.rows.length // 8) or longest >= query.rows.length:
        return None
    return _change(changed.with_length(longest), {}, {**(before or {}), **settings, "train.max_length": longest})


def _by_qlora(query: FitQuery, qlora: tuple[Config, FormulaCorrection]) -> FitQuery:
    """The query with QLoRA and the same micro-batch size."""
    config, scale = qlora
    return replace(query, config=config, scale=scale).with_micro_batch(query.formula_estimate().micro_batch)


def _change(query: FitQuery, settings: Settings, before: Settings | None = None) -> Remedy | None:
    """The change with its predicted memory, None if it does not fit. `before`: settings already applied to `query`."""
    changed = query.with_settings(settings)
    if not changed.fits():
        return None
    peak = changed.peak()
    fit = classify_fit(peak, changed.budget, "formula")
    return Remedy(settings={**(before or {}), **settings}, peak=peak, fit=fit)
