"""What each method will take of this machine's memory, by the formula, in milliseconds: the one place the screen asks.

A forecast is of the longest rows that the configuration lets through, all of them answer: shorter ones take less.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.config.errors import UserError
from engine.config.method_specs import method_names
from engine.config.model_files import ModelFiles, find_model
from engine.config.preset import Effective
from engine.config.schema import Config
from engine.hardware.cpu import has_bf16
from engine.memory.formula.estimate import MemoryEstimate, StepShape
from engine.memory.formula.fit import classify_fit
from engine.memory.formula.formula import formula
from engine.memory.formula.measured_error import error_of
from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs import run_dir
from engine.runs.run_dir import RunDir
from tui.choice import Choice
from tui.live.machine import CardSample, MachineSample, OtherProcess

Verdict = Literal["fits", "tight", "does not fit", "unknown"]
STYLES: dict[Verdict, str] = {
    "fits": "$text-success",
    "tight": "$text-warning",
    "does not fit": "$text-error",
    "unknown": "$foreground-muted",
}
STEADY = 32
"""Parts into which a memory is cut, so that what others hold does not change with every look."""


@dataclass(frozen=True)
class MethodForecast:
    """One method with what is chosen."""

    method: str
    verdict: Verdict
    estimate: MemoryEstimate | None = None
    config: Config | None = None
    why: str = ""
    """Why there is no estimate."""


def room_of(sample: MachineSample, own: Collection[int] = (), steady: bool = False) -> MemoryBudget:
    """The first card that CUDA_VISIBLE_DEVICES leaves, else the system's memory.

    `own` are our runs' processes: a run that waits for them will have their memory. `steady` rounds what others hold,
    so that it does not change with every look.
    """
    card = visible_card(sample.cards)
    if card is None or not card.total:
        used = max(0, sample.memory_used - (sample.worker_rss or 0))
        total = sample.memory_total
        return MemoryBudget(
            name="system memory",
            device="cpu",
            source="system",
            total=total,
            used=_steady(used, total) if steady else used,
            bf16=has_bf16(),
        )
    taken = sum(other.bytes or 0 for other in foreign(card, own))
    if card.shared:
        taken = max(0, (card.used or 0) - (card.mine or 0))
    return MemoryBudget(
        name=f"card {card.index}, {card.name}",
        device="cuda",
        source="shared" if card.shared else "card",
        total=card.total,
        used=_steady(taken, card.total) if steady else taken,
        bf16=card.bf16,
    )


def foreign(card: CardSample, own: Collection[int]) -> list[OtherProcess]:
    """Processes on the card that are no runs of ours: they stay."""
    return [other for other in card.others if other.pid not in own]


def visible_card(cards: Sequence[CardSample]) -> CardSample | None:
    """The card that a run started here will use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return cards[0] if cards else None
    first = visible.split(",")[0].strip()
    if first.isdigit():
        return next((card for card in cards if card.index == int(first)), None)
    return cards[0] if cards and first.startswith("GPU-") else None  # which one that is, the sample does not say


def forecasts(choice: Choice, files: ModelFiles, room: MemoryBudget | None) -> list[MethodForecast]:
    """The three methods with the present choice."""
    return [_of_method(choice, method, files, room) for method in method_names()]


def forecast(
    config: Config, files: ModelFiles, room: MemoryBudget | None, longest: int | None = None
) -> MethodForecast:
    """One configuration; `longest` is the longest row's tokens where it is known."""
    if files.table is None:
        return MethodForecast(config.method, "unknown", config=config, why=files.why)
    if room is None:
        return MethodForecast(config.method, "unknown", config=config, why="looking at the machine")
    length = min(config.train.max_length, longest or config.train.max_length)
    rows = StepShape(count=config.train.batch, length=length, answer=max(1, length - 1))
    try:
        estimate = formula(config, files.table, room.device, rows, room.bf16)
    except UserError as error:
        return MethodForecast(config.method, "unknown", config=config, why=error.line)
    return MethodForecast(config.method, classify_fit(estimate.peak, room, "formula"), estimate, config)


def foresee(run: RunDir | None, chosen: Effective | None, room: MemoryBudget | None) -> int | None:
    """Bytes that a run, or else what is chosen, will take at most, the process itself included."""
    if room is None or chosen is None:
        return None
    try:
        config = run_dir.read_frozen(run).config if run else chosen.config
    except UserError:
        return None
    estimate = forecast(config, find_model(config.model), room).estimate
    return estimate.peak + room.beside if estimate else None


def label(found: Sequence[MethodForecast]) -> str:
    """`formula, ±13 %`."""
    estimate = next((one.estimate for one in found if one.estimate), None)
    return f"formula, ±{error_of('formula', estimate.device).worst * 100:.0f} %" if estimate else "formula"


def _of_method(choice: Choice, method: str, files: ModelFiles, room: MemoryBudget | None) -> MethodForecast:
    try:
        config = choice.with_method(method).effective().config
    except UserError as error:
        return MethodForecast(method, "unknown", why=error.line)
    return forecast(config, files, room)


def _steady(used: int, total: int) -> int:
    part = max(1, total // STEADY)
    return round(used / part) * part
