"""Choose how several devices train one run: each with the whole model (DDP), or with a part of its weights (FSDP)."""

from __future__ import annotations

from typing import Any

from engine.config.errors import UserError
from engine.config.parallelism import FSDP, KEY, refuse_whole_weights
from engine.config.preset import with_settings
from engine.memory.formula.allocator import CONTEXT
from engine.memory.formula.automatic import resolve_automatic
from engine.memory.formula.fit import FitQuery
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import planned_rows
from engine.memory.probe import available_memory
from engine.methods.model_config import maximum_positions
from engine.worker.run_context import RunContext


def decide_sharding(run: RunContext, model_config: Any) -> bool:
    """Whether the weights are sharded across the ranks: as configured, else if the plan says that they do not fit.

    `model_config`: transformers' configuration. Raises UserError where the run has settings that need whole weights.
    """
    config, ranks = run.config, run.ranks
    if ranks.size == 1:
        return False
    setting = config.train.parallelism
    sharded = setting == FSDP or (setting == "auto" and not ranks.broadcast(lambda: _fits(run, model_config)))
    if sharded:
        refuse_whole_weights(config)
        ranks.splits_evaluation = False  # all ranks compute a layer together, for the same items
    return sharded


def _fits(run: RunContext, model_config: Any) -> bool:
    """Whether a GPU has memory for the whole model; true without a formula, and on a CPU, whose slots share memory."""
    if run.machine.device == "cpu":
        return True
    config = with_settings(run.config, {KEY: "ddp"})
    limit = available_memory(run.meters)
    budget = MemoryBudget(
        name=run.machine.name, device="cuda", source="gpu", total=limit + CONTEXT, bf16=run.machine.bf16
    )
    rows = planned_rows(config, maximum_positions(model_config))
    try:
        return resolve_automatic(FitQuery(config, model_config.to_dict(), rows, budget)).fits()
    except UserError:
        return True
