"""Whether a method fits on a device, the largest sizes that fit, and changes that make it fit.

Searches need hundreds of estimates, so they use the formula, scaled to agree with the dry run at the one point where a
dry run was made. Imports no torch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
from msgspec import Struct

from engine.config.device_defaults import (
    HELD_OUT_ROWS,
    MAX_MASKED_TOKENS,
    MAX_TOKENS,
    PACKED_MEAN_LENGTH,
    answers_together,
)
from engine.config.method_specs import QLORA, steps_in_backward
from engine.config.schema import Config
from engine.config.settings import with_settings
from engine.memory.formula.estimate import MemoryEstimate, PeakMemory, StepShape, Tier, error_of, with_pool
from engine.memory.formula.formula import formula
from engine.memory.formula.memory_budget import MemoryBudget

Fit = Literal["fits", "tight", "does not fit"]
MAX_LENGTH = 1_000_000
"""Maximum of `train.max_length` (`schema.Train.max_length`)."""


class LargestFit(Struct, frozen=True, kw_only=True):
    """The largest value that fits."""

    value: int
    """0 if nothing fits."""
    limited_by: Literal["memory", "token_limit", "nothing"]
    """What limits the value: memory, the token limit of a forward pass (`config.device_defaults`), or nothing: all rows
    of a step fit, or all positions of the model."""


def required_headroom(peak: int, budget: MemoryBudget, tier: Tier) -> int:
    """Bytes that should stay free in addition to a predicted peak: the tier's largest measured underestimate, plus the
    size of what is guessed instead of predicted (the CUDA context on a GPU, the process itself on a CPU).
    """
    return error_of(tier, budget.device).required_headroom(peak) + budget.guessed


def classify_fit(peak: int, budget: MemoryBudget, tier: Tier) -> Fit:
    """`fits` with the required headroom, `tight` only without it. `peak`: bytes of an estimate."""
    if not budget.has_room_for(peak):
        return "does not fit"
    return "fits" if budget.has_room_for(peak + required_headroom(peak, budget, tier)) else "tight"


@dataclass(frozen=True)
class FormulaCorrection:
    """Ratios of dry run to formula at one point: of static memory, and of what training and evaluation add to it."""

    static: float = 1.0
    training: float = 1.0
    evaluation: float = 1.0

    @classmethod
    def of(cls, estimate: MemoryEstimate, dry_run: MemoryEstimate | None) -> FormulaCorrection:
        if dry_run is None:
            return cls()
        return cls(
            _ratio(dry_run.static, estimate.static),
            _ratio(_tensors(dry_run.training) - dry_run.static, _tensors(estimate.training) - estimate.static),
            _ratio(_tensors(dry_run.evaluation) - dry_run.static, _tensors(estimate.evaluation) - estimate.static),
        )

    def evaluation_peak(self, estimate: MemoryEstimate) -> int:
        """Corrected peak of evaluation in bytes."""
        return self._scaled(estimate.evaluation, estimate, self.evaluation)

    def peak(self, estimate: MemoryEstimate) -> int:
        """Corrected `MemoryEstimate.peak`."""
        training = self._scaled(estimate.training, estimate, self.training)
        return training if estimate.device == "cuda" else max(training, self.evaluation_peak(estimate))

    def _scaled(self, peak: PeakMemory, estimate: MemoryEstimate, factor: float) -> int:
        tensors = estimate.static * self.static + (_tensors(peak) - estimate.static) * factor
        return with_pool(PeakMemory(total=round(tensors)), estimate.device).total


def _ratio(dry_run: int, estimate: int) -> float:
    return dry_run / estimate if estimate > 0 and dry_run > 0 else 1.0


def _tensors(peak: PeakMemory) -> int:
    return peak.total - peak.parts.get("pool", 0)


@dataclass(frozen=True)
class FitQuery:
    """One configuration, its rows and the memory in which it should fit."""

    config: Config
    model_config: Mapping[str, Any]
    """The model's parsed config.json."""
    rows: StepShape
    budget: MemoryBudget
    scale: FormulaCorrection = FormulaCorrection()

    def formula_estimate(self) -> MemoryEstimate:
        """The estimate of the formula, not corrected."""
        return formula(self.config, self.model_config, self.budget.device, self.rows, self.budget.bf16)

    def peak(self) -> int:
        """Corrected peak in bytes."""
        return self.scale.peak(self.formula_estimate())

    def fits_without_headroom(self) -> bool:
        """Whether it fits, without the required headroom."""
        return self.budget.has_room_for(self.peak())

    def fits(self) -> bool:
        """Whether it fits with the headroom that the formula requires, also after a correction by a dry run."""
        return classify_fit(self.peak(), self.budget, "formula") == "fits"

    def with_settings(self, settings: Mapping[str, Any]) -> FitQuery:
        """A copy with some keys of the preset changed: {"train.micro_batch": 2}."""
        return replace(self, config=with_settings(self.config, settings))

    def with_length(self, length: int) -> FitQuery:
        """A copy with rows of another length and the same fraction of answer and prompt tokens."""
        share = length / self.rows.length
        answer = max(1, min(length - 1, round(self.rows.answer * share)))
        prompt = self.rows.prompt and max(1, round(self.rows.prompt * share))
        return replace(self, rows=StepShape(count=self.rows.count, length=length, answer=answer, prompt=prompt))

    def with_micro_batch(self, rows: int) -> FitQuery:
        return self.with_settings({"train.micro_batch": rows})


def largest_micro_batch(query: FitQuery, with_headroom: bool = False) -> LargestFit:
    """The largest micro-batch size that fits; the effective batch size is unchanged.

    `with_headroom`: with the required headroom.
    """

    def fits(rows: int) -> bool:
        changed = query.with_micro_batch(rows)
        return changed.fits() if with_headroom else changed.fits_without_headroom()

    count = query.rows.count
    if fits(count):  # a special case: a step with one micro-batch has no gradients of an earlier one
        cut = query.with_micro_batch(count).formula_estimate().micro_batch
        return LargestFit(value=cut, limited_by="nothing" if cut == count else "token_limit")
    return LargestFit(value=_last(range(1, count), fits), limited_by="memory")


def largest_evaluation_batch(query: FitQuery) -> LargestFit:
    """The largest `evaluation.batch` that fits; the held-out loss is included."""

    def fits(rows: int) -> bool:
        estimate = query.with_settings({"evaluation.batch": rows}).formula_estimate()
        return query.budget.has_room_for(query.scale.evaluation_peak(estimate))

    batch = answers_together(query.config.evaluation.batch, query.budget.device)
    if fits(batch):
        return LargestFit(value=batch, limited_by="nothing")
    return LargestFit(value=_last(range(1, batch), fits), limited_by="memory")


def longest_rows(query: FitQuery, positions: int | None) -> LargestFit:
    """The longest row in tokens that fits, with the same fraction of answer tokens.

    All shorter rows fit too, with one exception: the requested length counts if it fits, even if a shorter one, with
    more rows per micro-batch, does not. Memory grows with length except where a micro-batch then has fewer rows;
    between two such lengths it only grows. `positions`: maximum of the model, None if unknown.
    """
    limit, device = min(positions or MAX_LENGTH, MAX_LENGTH), query.budget.device

    def fits(length: int) -> bool:
        return query.with_length(length).fits_without_headroom()

    # Lengths after which a micro-batch has fewer rows or another packing, and the limit.
    most_tokens, rows = (MAX_MASKED_TOKENS[device], MAX_TOKENS[device]), range(1, HELD_OUT_ROWS + 1)
    lengths = {limit, PACKED_MEAN_LENGTH, *(tokens // count for tokens in most_tokens for count in rows)}
    places = sorted(place for place in lengths if 1 < place <= limit)
    good = next((number for number, place in enumerate(places) if not fits(place)), len(places))
    if good == len(places):
        return LargestFit(value=limit, limited_by="nothing")
    below = places[good - 1] if good else 1
    most = max(below if good else 0, _last(range(below + 1, places[good]), fits))
    if most < query.rows.length <= limit and query.fits_without_headroom():
        most = query.rows.length
    return LargestFit(value=most, limited_by="memory")


def _last(values: range, good: Callable[[int], bool]) -> int:
    """The last of increasing values for which `good` is true, given that it is true for all before it; 0 if none."""
    first_bad = bisect_left(values, True, key=lambda value: not good(value))
    return values[first_bad - 1] if first_bad else 0


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


def find_remedies(
    query: FitQuery, qlora: tuple[Config, FormulaCorrection] | None = None, positions: int | None = None
) -> list[Remedy]:
    """Changes that make `query` fit, smallest first; empty if it already fits or nothing helps.

    Smaller means less effect on the result: none for micro-batch size, evaluation batch size and gradient
    checkpointing, little for 8-bit optimizer state, more for shorter rows, most for QLoRA. `qlora`: the preset with
    that method, None if it is already used.
    """
    if query.fits_without_headroom():
        return []
    by_qlora = replace(query, config=qlora[0], scale=qlora[1]) if qlora else None
    if by_qlora and by_qlora.config.train.micro_batch == "auto":
        by_qlora = by_qlora.with_micro_batch(query.formula_estimate().micro_batch)
    changes = [change for change in _alone(query, positions) if change]
    if not changes and (together := _fewest(query, positions)):
        changes = [together]
    if by_qlora and (change := _change(by_qlora, {})):
        changes.append(_named(change))
    elif by_qlora and not changes:
        smaller = [*_alone(by_qlora, positions), _fewest(by_qlora, positions)]
        changes = [_named(change) for change in smaller if change][:1]
    return changes


def _alone(query: FitQuery, positions: int | None) -> Iterator[Remedy | None]:
    """Single changes with the same method."""
    batch = answers_together(query.config.evaluation.batch, query.budget.device)
    if 0 < (largest := largest_evaluation_batch(query).value) < batch:
        yield _change(query, {"evaluation.batch": largest})
    if steps_in_backward(query.config):
        yield _fewer_rows(query)
    elif 0 < (largest := largest_micro_batch(query).value) < query.formula_estimate().micro_batch:
        yield _change(query, {"train.micro_batch": largest})
    for settings in (_checkpointing(query), _small_state(query)):
        yield _change(query, settings) if settings else None
    yield _shorter(query, {}, positions)


def _fewest(query: FitQuery, positions: int | None) -> Remedy | None:
    """All changes that keep rows and method, minus those not needed; plus shorter rows if they do not suffice."""
    smaller = query.formula_estimate().micro_batch > 1 and not steps_in_backward(query.config)
    settings: Settings = {"train.micro_batch": 1} if smaller else {}
    settings |= {} if largest_evaluation_batch(query).limited_by == "nothing" else {"evaluation.batch": 1}
    settings |= {**_checkpointing(query), **_small_state(query)}
    if not query.with_settings(settings).fits_without_headroom():
        return _shorter(query, settings, positions)
    for key in reversed(list(settings)):
        fewer = {name: value for name, value in settings.items() if name != key}
        settings = fewer if query.with_settings(fewer).fits_without_headroom() else settings
    if "train.micro_batch" in settings:
        settings["train.micro_batch"] = largest_micro_batch(query.with_settings(settings)).value
    return _change(query, settings)


def _named(change: Remedy) -> Remedy:
    """The change of a query with QLoRA, with the method."""
    return msgspec.structs.replace(change, settings={"method": QLORA.name, **change.settings})


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


def _fewer_rows(query: FitQuery) -> Remedy | None:
    """A smaller batch, where a step is one micro-batch."""

    def with_batch(rows: int) -> FitQuery:
        changed = query.with_settings({"train.batch": rows, "train.micro_batch": rows})
        return replace(changed, rows=msgspec.structs.replace(query.rows, count=rows))

    most = _last(range(1, query.rows.count), lambda rows: with_batch(rows).fits_without_headroom())
    change = _change(with_batch(most), {}) if most else None
    return change and msgspec.structs.replace(change, settings={"train.batch": most})


def _shorter(query: FitQuery, settings: Settings, positions: int | None) -> Remedy | None:
    changed = query.with_settings(settings)
    longest = longest_rows(changed, positions).value
    if longest < max(MIN_LENGTH, query.rows.length // 8) or longest >= query.rows.length:
        return None
    shorter = _change(changed.with_length(longest), {})
    return shorter and msgspec.structs.replace(shorter, settings={**settings, "train.max_length": longest})


def _change(query: FitQuery, settings: Settings) -> Remedy | None:
    """The change with its predicted memory, None if it does not fit."""
    changed = query.with_settings(settings)
    if not changed.fits_without_headroom():
        return None
    peak = changed.peak()
    return Remedy(settings=settings, peak=peak, fit=classify_fit(peak, changed.budget, "formula"))
