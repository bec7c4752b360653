"""What a run is expected to take, by both estimates, in the meaning in which it is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.config import schema
from engine.config.errors import UserError
from engine.config.preset import with_settings
from engine.memory.dry_run.dry_run import dry_run
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches
from engine.memory.formula.allocator import CONTEXT
from engine.memory.formula.estimate import MemoryEstimate, PeakMemory
from engine.memory.formula.formula import formula
from engine.methods.machine import Machine
from engine.runs.result import Predicted


@dataclass(frozen=True)
class RunForecast:
    """Estimates of one run, the rougher first; empty where neither can be made."""

    estimates: list[MemoryEstimate]
    again: Callable[[dict[str, Any]], MemoryEstimate] | None
    """The formula once more with other settings, {"train.micro_batch": 2}."""
    seconds: float
    """What making them took."""

    def training_fits(self, micro_batch: int, limit: int) -> bool:
        """Whether training so many rows a pass is expected to stay within so many bytes."""
        return self._fits("training", {"train.micro_batch": micro_batch}, limit)

    def answering_fits(self, batch: int, limit: int) -> bool:
        """Whether answering so many prompts at a time is."""
        return self._fits("answering", {"evaluation.batch": batch}, limit)

    def _fits(self, what: str, settings: dict[str, Any], limit: int) -> bool:
        """By the formula, corrected by what the dry run says of the run as it is; yes where nothing is foreseen."""
        if self.best is None or self.again is None:
            return True
        changed = self.again(settings)
        new, old, right = (getattr(estimate, what) for estimate in (changed, self.estimates[0], self.best))
        if new is None or old is None or right is None:
            return True
        return as_measured(changed, new) * as_measured(self.best, right) / as_measured(self.estimates[0], old) <= limit

    @property
    def best(self) -> MemoryEstimate | None:
        return self.estimates[-1] if self.estimates else None

    def predicted(self) -> list[Predicted]:
        """For `result.json`."""
        return [
            Predicted(
                tier=estimate.tier,
                training=as_measured(estimate, estimate.training),
                evaluation=as_measured(estimate, estimate.evaluation),
            )
            for estimate in self.estimates
        ]


def as_measured(estimate: MemoryEstimate, peak: PeakMemory) -> int:
    """Bytes of a peak that torch's pool on a card will show: the context is not in it, nor is what is paged."""
    beside = CONTEXT if "pool" in peak.parts else 0
    return peak.total - beside - min(estimate.pageable, peak.parts.get("optimizer", 0))


def forecast_run(
    config: schema.Config,
    architecture: Any,
    machine: Machine,
    own: WorstCaseBatches,
    micro_batch: int,
    warn: Callable[[str, str], None],
) -> RunForecast:
    """Formula and dry run of a run's own rows, the latter where the run looks ahead (`train.probe`): it takes a second,
    and five for 8 billion parameters. What cannot be foreseen is said, and never ends the run.
    """
    started = time.monotonic()
    rows, table = own.rows(), architecture.to_dict()
    found: list[MemoryEstimate] = []

    def again(settings: dict[str, Any]) -> MemoryEstimate:
        return formula(with_settings(config, settings), table, machine.device, rows, machine.bf16)

    light = True
    try:
        found.append(again({}))
    except UserError as error:
        light = False
        warn("plan", f"no formula for this model: {error.what}")
    try:
        if config.train.probe:
            found.append(dry_run(config, architecture, machine, rows, own.work(config, micro_batch)))
    except Exception as error:  # noqa: BLE001 - strange architectures fail in many ways, and the run needs none of this
        warn("plan", f"no dry run for this model: {' '.join(str(error).split())[:200]}")
    return RunForecast(found, again if light else None, time.monotonic() - started)
