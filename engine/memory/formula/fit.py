"""Whether a method fits where it is to run, the largest micro batch and the longest rows that do.

Searches want hundreds of answers, so they ask the formula, scaled such that at the one point where a dry run was made
it says what the dry run said. Imports no torch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from msgspec import Struct

from engine.config.batch_limits import FLAT_MEAN_LENGTH, FLAT_TOKENS, HELD_OUT_ROWS, PADDED_TOKENS
from engine.config.preset import with_settings
from engine.config.schema import Config
from engine.memory.formula.allocator import with_pool
from engine.memory.formula.estimate import Device, MemoryEstimate, PeakMemory, StepShape
from engine.memory.formula.formula import formula
from engine.memory.formula.measured_error import Tier, error_of
from engine.memory.formula.memory_budget import MemoryBudget

Verdict = Literal["fits", "tight", "does not fit"]
LONGEST = 1_000_000
"""Tokens that a preset may ask for (`schema.Train.max_length`)."""


class LargestFit(Struct, frozen=True, kw_only=True):
    """The largest that fits."""

    value: int
    """0 where not even one does."""
    bound: Literal["memory", "all", "pass"]
    """What stops it there: memory; that there is no more (all rows of a step, all positions of the model); or that a
    pass takes no more tokens (`training.batches`)."""


def margin(peak: int, room: MemoryBudget, tier: Tier) -> int:
    """Bytes that should stay free beside a predicted peak: the tier's worst measured error, and once more what is
    guessed and not predicted (a card's context, a process without a card).
    """
    return error_of(tier, room.device).room_for(peak) + room.guessed


def classify_fit(peak: int, room: MemoryBudget, tier: Tier) -> Verdict:
    """`fits` with the margin, `tight` where only without it. `peak`: bytes of an estimate."""
    need = peak + room.beside
    if need > room.free:
        return "does not fit"
    return "fits" if need + margin(peak, room, tier) <= room.free else "tight"


@dataclass(frozen=True)
class FormulaCorrection:
    """Dry run over formula at one point: of what lies between two steps, and of what the two passes add to it."""

    static: float = 1.0
    training: float = 1.0
    evaluation: float = 1.0

    @classmethod
    def of(cls, light: MemoryEstimate, exact: MemoryEstimate | None) -> FormulaCorrection:
        if exact is None:
            return cls()
        return cls(
            _ratio(exact.static, light.static),
            _ratio(_tensors(exact.training) - exact.static, _tensors(light.training) - light.static),
            _ratio(_tensors(exact.evaluation) - exact.static, _tensors(light.evaluation) - light.static),
        )

    def training_peak(self, light: MemoryEstimate) -> int:
        """Bytes: what the formula says elsewhere, scaled."""
        return self._scaled(light.training, light, self.training)

    def evaluation_peak(self, light: MemoryEstimate) -> int:
        return self._scaled(light.evaluation, light, self.evaluation)

    def peak(self, light: MemoryEstimate) -> int:
        """Of `MemoryEstimate.peak`."""
        if light.device == "cuda":
            return self.training_peak(light)
        return max(self.training_peak(light), self.evaluation_peak(light))

    def _scaled(self, peak: PeakMemory, light: MemoryEstimate, factor: float) -> int:
        tensors = light.static * self.static + (_tensors(peak) - light.static) * factor
        return with_pool(PeakMemory(total=round(tensors)), light.device).total


def _ratio(exact: int, light: int) -> float:
    return exact / light if light > 0 and exact > 0 else 1.0


def _tensors(peak: PeakMemory) -> int:
    return peak.total - peak.parts.get("pool", 0)


@dataclass(frozen=True)
class FitQuery:
    """One configuration, its rows, and where it is to fit."""

    config: Config
    table: Mapping[str, Any]
    """The model's parsed config.json."""
    rows: StepShape
    room: MemoryBudget
    scale: FormulaCorrection = FormulaCorrection()

    def light(self) -> MemoryEstimate:
        """By the formula, not scaled."""
        return formula(self.config, self.table, self.room.device, self.rows, self.room.bf16)

    def peak(self) -> int:
        """Bytes, scaled."""
        return self.scale.peak(self.light())

    def fits(self) -> bool:
        """Tight counts: the question is what can run."""
        return self.peak() + self.room.beside <= self.room.free

    def fits_safely(self) -> bool:
        """With the margin."""
        return classify_fit(self.peak(), self.room, "formula") == "fits"

    def with_settings(self, settings: Mapping[str, Any]) -> FitQuery:
        """The same with some keys of the preset changed: {"train.micro_batch": 2}."""
        return replace(self, config=with_settings(self.config, settings))

    def with_length(self, length: int) -> FitQuery:
        """The same with rows of another length and the same share of it answer."""
        share = length / self.rows.length
        answer = max(1, min(length - 1, round(self.rows.answer * share)))
        prompt = self.rows.prompt and max(1, round(self.rows.prompt * share))
        return replace(self, rows=StepShape(count=self.rows.count, length=length, answer=answer, prompt=prompt))

    def with_micro_batch(self, rows: int) -> FitQuery:
        return self.with_settings({"train.micro_batch": rows})


def largest_micro_batch(asked: FitQuery, safely: bool = False) -> LargestFit:
    """Rows of a forward pass; the effective batch stays. `safely`: with the margin."""

    def fits(rows: int) -> bool:
        changed = asked.with_micro_batch(rows)
        return changed.fits_safely() if safely else changed.fits()

    count = asked.rows.count
    whole = asked.with_micro_batch(count)
    if fits(count):  # apart: a step in one pass keeps no gradients of an earlier one
        cut = whole.light().micro_batch
        return LargestFit(value=cut, bound="all" if cut == count else "pass")
    return LargestFit(value=_last(range(1, count), fits), bound="memory")


def largest_answer_batch(asked: FitQuery) -> LargestFit:
    """Rows answered at a time (`evaluation.batch`) such that scoring fits; held-out losses are within it too."""

    def fits(rows: int) -> bool:
        light = asked.with_settings({"evaluation.batch": rows}).light()
        return asked.scale.evaluation_peak(light) + asked.room.beside <= asked.room.free

    batch = asked.config.evaluation.batch
    return (
        LargestFit(value=batch, bound="all")
        if fits(batch)
        else LargestFit(value=_last(range(1, batch), fits), bound="memory")
    )


def longest_rows(asked: FitQuery, positions: int | None) -> LargestFit:
    """Tokens of a row, such that all shorter rows fit too, with the same share of each answer. `positions`: of the
    model, None where it does not say.

    Memory grows with length but where a pass then holds fewer rows; between two such places it only grows. The asked
    length counts where it fits although a shorter one, of which a pass holds more, does not.
    """
    limit = min(positions or LONGEST, LONGEST)
    places = [place for place in _places(asked, limit) if place > 1]
    good = _first_bad(places, lambda length: asked.with_length(length).fits())
    if good == len(places):
        return LargestFit(value=limit, bound="all")
    below = places[good - 1] if good else 1
    between = range(below + 1, places[good])
    most = max(below if good else 0, _last(between, lambda length: asked.with_length(length).fits()))
    if most < asked.rows.length <= limit and asked.fits():
        most = asked.rows.length
    return LargestFit(value=most, bound="memory")


def _places(asked: FitQuery, limit: int) -> list[int]:
    """Lengths just before a pass holds fewer rows or is laid out otherwise, and the end."""
    device: Device = asked.room.device
    places = {limit, FLAT_MEAN_LENGTH}
    for tokens in (FLAT_TOKENS[device], PADDED_TOKENS[device]):
        places |= {tokens // rows for rows in range(1, HELD_OUT_ROWS + 1)}
    return sorted(place for place in places if place <= limit)


def _first_bad(values: list[int], good: Callable[[int], bool]) -> int:
    return next((number for number, value in enumerate(values) if not good(value)), len(values))


def _last(values: range, good: Callable[[int], bool]) -> int:
    """The last of rising values that is good, where all before it are; 0 where none is."""
    found = bisect_left(values, True, key=lambda value: not good(value))
    return values[found - 1] if found else 0
