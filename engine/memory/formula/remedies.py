"""The smallest change that makes a method fit: each that does it alone, or else the first few together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from msgspec import Struct

from engine.config.method_specs import QLORA
from engine.config.schema import Config
from engine.memory.formula.fit import (
    FitQuery,
    FormulaCorrection,
    Verdict,
    classify_fit,
    largest_answer_batch,
    largest_micro_batch,
    longest_rows,
)

Settings = dict[str, Any]
SHORTEST = 64
"""Tokens: rows cut to less than this, or to less than an eighth, are no longer the same work."""


class Remedy(Struct, frozen=True, kw_only=True):
    """What to set, and what it would then take."""

    settings: dict[str, Any]
    """Dotted keys of the preset and their values; `method` where it changes."""
    peak: int
    """Bytes, by the formula, scaled where a dry run was made."""
    verdict: Verdict


def changes(
    asked: FitQuery, qlora: tuple[Config, FormulaCorrection] | None = None, positions: int | None = None
) -> list[Remedy]:
    """Those that make `asked` fit, the smallest first; none where it fits as it is, or where nothing helps.

    Smaller is what changes less of the outcome: fewer rows at a time and checkpointing nothing, 8-bit state little,
    shorter rows the data, QLoRA the method. `qlora` is the same preset by that method, None where it is it already.
    """
    if asked.fits():
        return []
    alone = [change for change in _alone(asked, qlora, positions) if change]
    return alone or [change for change in _together(asked, qlora, positions) if change][:1]


def _alone(
    asked: FitQuery, qlora: tuple[Config, FormulaCorrection] | None, positions: int | None
) -> Iterator[Remedy | None]:
    if 0 < (most := largest_answer_batch(asked).value) < asked.config.evaluation.batch:
        yield _change(asked, {"evaluation.batch": most})
    if 0 < (most := largest_micro_batch(asked).value) < asked.light().micro_batch:
        yield _change(asked, {"train.micro_batch": most})
    for settings in (_checkpointing(asked), _small_state(asked)):
        yield _change(asked, settings) if settings else None
    yield _shorter(asked, {}, positions)
    if qlora:
        yield _change(_by_qlora(asked, qlora), {}, {"method": QLORA.name})


def _together(
    asked: FitQuery, qlora: tuple[Config, FormulaCorrection] | None, positions: int | None
) -> Iterator[Remedy | None]:
    """As few as do it: first without another method, then from QLoRA on."""
    yield _fewest(asked, {}, positions)
    if qlora:
        start, method = _by_qlora(asked, qlora), {"method": QLORA.name}
        yield from (_on_top(change, method) for change in _alone(start, None, positions) if change)
        yield _fewest(start, method, positions)


def _fewest(start: FitQuery, before: Settings, positions: int | None) -> Remedy | None:
    """All that leaves rows and method alone, less what is not needed; shorter rows too where it is not enough."""
    settings: Settings = {"train.micro_batch": 1} if start.light().micro_batch > 1 else {}
    settings |= {} if largest_answer_batch(start).bound == "all" else {"evaluation.batch": 1}
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
    return Remedy(settings={**before, **change.settings}, peak=change.peak, verdict=change.verdict)


def _checkpointing(asked: FitQuery) -> Settings:
    return {} if asked.light().gradient_checkpointing else {"train.gradient_checkpointing": True}


def _small_state(asked: FitQuery) -> Settings:
    """Paged where there is a card: the same state, and it may give way."""
    if asked.config.optimizer.name != "adamw":
        return {}
    return {"optimizer.name": "paged_adamw_8bit" if asked.room.device == "cuda" else "adamw_8bit"}


def _shorter(
    asked: FitQuery, settings: Settings, positions: int | None, before: Settings | None = None
) -> Remedy | None:
    changed = asked.with_settings(settings)
    most = longest_rows(changed, positions).value
    if most < max(SHORTEST, asked.rows.length // 8) or most >= asked.rows.length:
        return None
    return _change(changed.with_length(most), {}, {**(before or {}), **settings, "train.max_length": most})


def _by_qlora(asked: FitQuery, qlora: tuple[Config, FormulaCorrection]) -> FitQuery:
    """With the passes that were asked for: what the micro batch is does not depend on the method."""
    config, scale = qlora
    return replace(asked, config=config, scale=scale).with_micro_batch(asked.light().micro_batch)


def _change(asked: FitQuery, settings: Settings, before: Settings | None = None) -> Remedy | None:
    """None where it does not make it fit. `before`: settings that `asked` has already."""
    changed = asked.with_settings(settings)
    if not changed.fits():
        return None
    peak = changed.peak()
    verdict = classify_fit(peak, changed.room, "formula")
    return Remedy(settings={**(before or {}), **settings}, peak=peak, verdict=verdict)
