"""What a plan says of one method: what it takes, whether that fits, how far it could go, what would make it fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, field

from engine.config import gpu_prices
from engine.config.errors import UserError
from engine.config.method_specs import QLORA
from engine.config.schema import Config
from engine.memory.formula.estimate import MemoryEstimate, StepShape
from engine.memory.formula.fit import (
    FitQuery,
    FormulaCorrection,
    LargestFit,
    Verdict,
    classify_fit,
    largest_answer_batch,
    largest_micro_batch,
    longest_rows,
    margin,
)
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.remedies import Remedy, changes

RowsFrom = Literal["data", "max_length", "asked"]


class MethodPlan(Struct, kw_only=True):
    """One method on one device."""

    method: str
    automatic: bool
    """Whether the micro batch was left to us: then it is the largest that fits, with the margin where one does."""
    optimizer: str
    formula: MemoryEstimate
    dry_run: MemoryEstimate | None = None
    refused: str = ""
    """Why there is no dry run, where one was wanted."""
    verdict: Verdict
    margin: int
    """Bytes that should stay free beside the peak; less is `tight`."""
    micro_batch: LargestFit
    """The largest that fits."""
    answers: LargestFit
    """Rows answered at a time; on a card scoring comes down to it by itself."""
    longest: LargestFit
    """Tokens of the longest rows that fit with the planned micro batch."""
    longest_alone: LargestFit
    """The same, a row at a time."""
    changes: list[Remedy] = field(default_factory=list)
    card: str = ""
    """Where it does not fit on a card: the cheapest listed one on which it would, '' where none is listed."""

    @property
    def best(self) -> MemoryEstimate:
        """The better of the two tiers."""
        return self.dry_run or self.formula


class TrainingWork(Struct, frozen=True, kw_only=True):
    """What the data makes of a run."""

    rows: int
    """Of training."""
    steps: int
    tokens: int
    """Of all steps."""


class PlanQuery(Struct, frozen=True, kw_only=True):
    """What is asked: the same preset by the methods to show, and where it is to fit."""

    configs: list[Config]
    qlora: Config | None = None
    """The same by QLoRA, proposed where another method does not fit."""
    room: MemoryBudget
    length: int | None = None
    """Tokens of a row; None: the data's own, or what the preset lets through."""
    data_given: bool = True
    """Whether somebody named the data: then what is wrong with it is an error."""


class MemoryPlan(Struct, kw_only=True):
    """The whole answer."""

    room: MemoryBudget
    rows: StepShape
    rows_from: RowsFrom
    why: str = ""
    """Why rows are not the data's own."""
    work: TrainingWork | None = None
    """None where the data was not read."""
    outlooks: list[MethodPlan]
    notes: list[str] = field(default_factory=list)


def planned_rows(config: Config, positions: int | None, length: int | None = None) -> StepShape:
    """A step of rows of `length` tokens, else of the longest that preset and model let through; all of it answer.

    Raises UserError for rows that are longer than the model was made for.
    """
    if length and positions and length > positions:
        raise UserError(f"the model was made for {positions:,} positions", f"--length {length}", "ask for fewer")
    length = length or min(config.train.max_length, positions or config.train.max_length)
    return StepShape(count=config.train.batch, length=length, answer=max(1, length - 1))


def with_micro_batch(asked: FitQuery) -> FitQuery:
    """Where the preset leaves the micro batch open: the largest that fits with the margin, else at all, else 1."""
    if asked.config.train.micro_batch != "auto":
        return asked
    most = largest_micro_batch(asked, safely=True)
    most = most if most.value else largest_micro_batch(asked)
    # Where memory is no bound it is left to the passes, which hold more rows where some are shorter.
    return asked.with_micro_batch(max(1, most.value) if most.bound == "memory" else asked.config.train.batch)


def plan_method(
    asked: FitQuery,
    automatic: bool,
    exact: MemoryEstimate | None,
    positions: int | None,
    qlora: tuple[Config, FormulaCorrection] | None = None,
    refused: str = "",
) -> MethodPlan:
    """`asked` has a micro batch; `exact` is its dry run, where one was made; `qlora` as `changes` wants it."""
    light = asked.light()
    scaled = FitQuery(asked.config, asked.table, asked.rows, asked.room, FormulaCorrection.of(light, exact))
    best = exact or light
    verdict = classify_fit(best.peak, asked.room, best.tier)
    return MethodPlan(
        method=asked.config.method,
        automatic=automatic,
        optimizer=asked.config.optimizer.name,
        formula=light,
        dry_run=exact,
        refused=refused,
        verdict=verdict,
        margin=margin(best.peak, asked.room, best.tier),
        micro_batch=_at_least(largest_micro_batch(scaled), best.micro_batch),
        answers=largest_answer_batch(scaled),
        longest=longest_rows(scaled, positions),
        longest_alone=longest_rows(scaled.with_micro_batch(1), positions),
        changes=changes(scaled, qlora, positions),
        card=_card_for(best) if verdict == "does not fit" and asked.room.device == "cuda" else "",
    )


def quick_plan(question: PlanQuery, table: Mapping[str, Any]) -> MemoryPlan:
    """By the formula alone: milliseconds, and no data is read.

    Raises UserError where the table is not a decoder's.
    """
    positions = positions_of(table)
    rows = planned_rows(question.configs[0], positions, question.length)
    looks = []
    for config in question.configs:
        asked = with_micro_batch(FitQuery(config, table, rows, question.room))
        qlora = (question.qlora, FormulaCorrection()) if question.qlora and config.method != QLORA.name else None
        looks.append(plan_method(asked, config.train.micro_batch == "auto", None, positions, qlora))
    chosen: RowsFrom = "asked" if question.length else "max_length"
    unseen = (
        f"not looked at: whether transformers builds {table.get('model_type') or 'this architecture'}, and the data"
    )
    return MemoryPlan(room=question.room, rows=rows, rows_from=chosen, outlooks=looks, notes=[unseen])


def positions_of(table: Mapping[str, Any]) -> int | None:
    """How many positions a model was made for, None where its configuration does not say."""
    table = {**table, **(table.get("text_config") or {})}
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"):
        value = table.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            return value
    return None


def _at_least(most: LargestFit, planned: int) -> LargestFit:
    """A pass of the data's own rows may hold more of them than one of the longest alone."""
    return LargestFit(value=max(most.value, planned), bound=most.bound) if most.bound == "pass" else most


def _card_for(estimate: MemoryEstimate) -> str:
    card = gpu_prices.cheapest_for(estimate.peak, gpu_prices.list_cards())
    return card.name if card else ""
