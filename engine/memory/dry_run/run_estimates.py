"""Predicted memory of a run by formula and dry run, defined like the measured values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from engine.config import schema
from engine.config.errors import UserError
from engine.memory.dry_run.dry_run import dry_run
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches
from engine.memory.formula.allocator import CONTEXT
from engine.memory.formula.automatic import resolve_automatic, resolve_optimizer, settle_optimizer
from engine.memory.formula.estimate import MemoryEstimate, PeakMemory, StepShape
from engine.memory.formula.fit import FitQuery, FormulaCorrection
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.sharding import shard_count
from engine.methods.machine import Machine
from engine.runs.run.result import Predicted


@dataclass(frozen=True)
class RunEstimates:
    """Memory estimates of one run, and the settings they lead to."""

    tiers: list[MemoryEstimate]
    """By formula and dry run, least accurate first; empty if there are none."""
    again: Callable[[dict[str, Any]], MemoryEstimate] | None
    """The formula with other settings, such as {"train.micro_batch": 2}."""
    config: schema.Config
    """The configuration with micro-batch size and optimizer; activation checkpointing is chosen if it was for a GPU."""

    def training_fits(self, micro_batch: int, limit: int) -> bool:
        """Whether training with this micro-batch size is predicted to fit in `limit` bytes."""
        return self._fits("training", {"train.micro_batch": micro_batch}, limit)

    def answering_fits(self, batch: int, limit: int) -> bool:
        """Whether generation with this batch size is predicted to fit in `limit` bytes."""
        return self._fits("answering", {"evaluation.batch": batch}, limit)

    def _fits(self, what: str, settings: dict[str, Any], limit: int) -> bool:
        """By the formula, corrected by the dry run with the current settings; true without a prediction."""
        if self.best is None or self.again is None:
            return True
        changed = self.again(settings)
        new, old, right = (getattr(estimate, what) for estimate in (changed, self.tiers[0], self.best))
        if new is None or old is None or right is None:
            return True
        return as_measured(changed, new) * as_measured(self.best, right) / as_measured(self.tiers[0], old) <= limit

    @property
    def micro_batch(self) -> int:
        assert isinstance(self.config.train.micro_batch, int)
        return self.config.train.micro_batch

    @property
    def best(self) -> MemoryEstimate | None:
        return self.tiers[-1] if self.tiers else None

    def predicted(self) -> list[Predicted]:
        """The predictions for `result.json`."""
        return [
            Predicted(
                tier=estimate.tier,
                training=as_measured(estimate, estimate.training),
                evaluation=as_measured(estimate, estimate.evaluation),
            )
            for estimate in self.tiers
        ]


def as_measured(estimate: MemoryEstimate, peak: PeakMemory) -> int:
    """Bytes of a peak that torch's pool on a GPU will show: without CUDA context and paged state."""
    context = CONTEXT if "pool" in peak.parts else 0
    return peak.total - context - min(estimate.pageable, peak.parts.get("optimizer", 0))


def estimate_run(
    config: schema.Config,
    model_config: Any,
    machine: Machine,
    batches: WorstCaseBatches,
    micro_batch: int,
    warn: Callable[[str, str], None],
    limit: int | None = None,
) -> RunEstimates:
    """Formula and dry run for the run's largest batches; the dry run only with `train.probe`: it takes 1 s, and 5 s for
    8 billion parameters. A failed prediction is a warning and never ends the run.

    `limit`: bytes available to tensors on a GPU, for which `auto` settings are chosen. `micro_batch` is used where it
    is None or activation checkpointing is configured.
    """
    query = _query(config, model_config.to_dict(), machine, batches.rows(), limit)
    chooses = limit is not None and config.train.gradient_checkpointing == "auto"
    chosen = query.with_micro_batch(micro_batch)
    if machine.device == "cpu":
        chosen = resolve_optimizer(chosen)
    found: list[MemoryEstimate] = []
    try:
        chosen = resolve_automatic(query) if chooses else chosen
        found.append(chosen.formula_estimate())
    except UserError as error:
        warn("plan.no_formula", f"no memory formula for this model: {error.problem}")
    light = bool(found)
    try:
        if config.train.probe and shard_count(chosen.config) == 1:  # a dry run has the whole model
            exact = _dry_run(chosen, model_config, machine, batches)
            if light and chooses and exact.peak > query.budget.free:
                scale = FormulaCorrection.of(found[0], exact)
                chosen = replace(resolve_automatic(replace(query, scale=scale)), scale=FormulaCorrection())
                found, exact = [chosen.formula_estimate()], _dry_run(chosen, model_config, machine, batches)
            found.append(exact)
    except Exception as error:  # noqa: BLE001 - unusual architectures fail in many ways, and the run does not need it
        warn("plan.no_dry_run", f"no dry run for this model: {' '.join(str(error).split())[:200]}")
    if config.optimizer.name == "auto":
        chosen, found = settle_optimizer(chosen, found)
    again = (lambda settings: chosen.with_settings(settings).formula_estimate()) if light else None
    return RunEstimates(found, again, chosen.config)


def _query(
    config: schema.Config, model_config: dict[str, Any], machine: Machine, rows: StepShape, limit: int | None
) -> FitQuery:
    """The run as a question to the plan; estimates include the CUDA context, which `limit` does not."""
    budget = MemoryBudget(
        name=machine.name, device=machine.device, source="gpu", total=(limit or 0) + CONTEXT, bf16=machine.bf16
    )
    return FitQuery(config, model_config, rows, budget)


def _dry_run(chosen: FitQuery, model_config: Any, machine: Machine, batches: WorstCaseBatches) -> MemoryEstimate:
    micro_batch = chosen.config.train.micro_batch
    assert isinstance(micro_batch, int)
    return dry_run(chosen.config, model_config, machine, chosen.rows, batches.work(chosen.config, micro_batch))
