"""The model that a run trains: the base model or that of another run, whole or sharded, within its part of a GPU.

A run can start from another run's adapter or weights (`model.from_run`). They are linked or copied into the run's
directory (`start/`) before its first step, so that it can be resumed after the other run was deleted.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import Any

import torch

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.quantities import size
from engine.config.schema import Config
from engine.config.settings import with_settings
from engine.config.start_checks import refuse_whole_weights
from engine.data.prepared import Preparation
from engine.hardware.devices import slots_of
from engine.memory.dry_run.plan import RunEstimates, as_measured, run_query
from engine.memory.formula.automatic import resolve_automatic
from engine.memory.formula.method_plan import planned_rows
from engine.memory.probe import available_memory
from engine.methods import method
from engine.methods.adapters import load_adapter
from engine.methods.machine import Machine
from engine.methods.model_source import fingerprint, maximum_positions
from engine.runs.run.run_dir import RunDir, continued_run_name, find_continued_run
from engine.training.checkpoints import folder_atomically
from engine.training.meters import Meters
from engine.training.ranks import Ranks, shard
from engine.worker.run_log import RunLog


def copy_initial_weights(config: Config, run_dir: RunDir, model_config: Any, rows: Preparation, log: RunLog) -> None:
    """Copy the weights that the run starts from, unless it starts from the base model or an earlier worker did.

    Raises UserError if the other run was deleted, does not match, or was trained on another base model.
    """
    if config.model.from_run is None or run_dir.start_model.is_dir():
        return
    starting = find_continued_run(config)
    assert starting is not None
    run, result = starting
    base = fingerprint(config.model, model_config)
    if result.fingerprints.get("model", base) != base:
        problem = f"the base model has changed since {run.name} was trained"
        raise UserError(problem, config.model.id, "restore the weights that it was trained on", "run.start_base")
    if result.fingerprints.get("data") != rows.facts.fingerprint:
        text = f"{run.name} was trained on other rows: whether test rows of this run are among them was not checked"
        log.warn("run.start_other_data", text)
    with folder_atomically(run_dir.path / ".start.tmp", run_dir.start_model) as folder:
        for file in sorted(run.model.iterdir()):
            if file.is_file():
                try:  # a hard link takes no space; files of finished models are replaced, never changed
                    os.link(file, folder / file.name)
                except OSError:  # another file system, or one without hard links
                    shutil.copyfile(file, folder / file.name)


def load_model(config: Config, run_dir: RunDir, machine: Machine, ranks: Ranks) -> torch.nn.Module:
    """Load the model that is trained, and divide it among the ranks if they shard it.

    Of a run that starts from a fully fine-tuned model, that model.
    """
    if continued_run_name(config) and method_spec(config.method).trains_weights:
        config = with_settings(config, {"model.id": str(run_dir.start_model), "model.revision": None})
    load = method(config.method).load
    if not ranks.shards_model:
        model: torch.nn.Module = load(config, machine)
        return model
    # One rank after the other: each has the whole model in host memory for a moment, 4-bit weights on its GPU.
    loading = replace(machine, loads_to_host=not method_spec(config.method).quantizes_base)
    for rank in range(ranks.size):
        if rank == ranks.rank:
            model = load(config, loading)
            shard(model, machine.device, ranks.size)
        ranks.barrier()
    return model


def add_continued_adapter(config: Config, run_dir: RunDir, model: torch.nn.Module) -> torch.nn.Module | None:
    """The model with the adapter that the run starts from; None if it starts with a new adapter or without any."""
    if not continued_run_name(config) or method_spec(config.method).trains_weights:
        return None
    adapted: torch.nn.Module = method(config.method).make_trainable(model, config)
    load_adapter(adapted, run_dir.start_model)
    return adapted


def decide_sharding(config: Config, model_config: Any, machine: Machine, ranks: Ranks, meters: Meters) -> None:
    """Let the ranks shard the model as configured, else if the plan says that a GPU has no memory for all of it.

    `model_config`: transformers' configuration. Raises UserError where the run has settings that need whole weights.
    """
    if ranks.size == 1:
        return
    setting = config.train.parallelism
    if setting == "fsdp" or (
        setting == "auto" and not ranks.broadcast(lambda: _fits(config, model_config, machine, meters))
    ):
        refuse_whole_weights(config)
        ranks.shards_model = True


def _fits(config: Config, model_config: Any, machine: Machine, meters: Meters) -> bool:
    """Whether a GPU has memory for the whole model; true without a formula, and on a CPU, whose slots share memory."""
    if machine.device == "cpu":
        return True
    config = with_settings(config, {"train.parallelism": "ddp"})
    rows = planned_rows(config, maximum_positions(model_config))
    query = run_query(config, model_config.to_dict(), machine, rows, available_memory(meters))
    try:
        return resolve_automatic(query).fits_without_headroom()
    except UserError:
        return True


def limit_memory(config: Config, machine: Machine) -> int:
    """Limit torch to this run's part of a shared GPU; returns the number of slots of the device."""
    slots = slots_of(config.hardware.device)
    if machine.device == "cuda" and slots > 1:
        torch.cuda.set_per_process_memory_fraction(1 / slots)  # a run that needs more ends, and not its neighbor
    return slots


def refuse_small_slot(estimates: RunEstimates, limit: int, device: int | str) -> None:
    """Raise UserError unless the plan says that the run fits in `limit` bytes; `device` is its `hardware.device`."""
    needed = None if estimates.best is None else as_measured(estimates.best, estimates.best.training)
    if needed is not None and needed <= limit:
        return
    predicted = "unknown" if needed is None else size(needed)
    problem = f"slot too small (predicted peak in training: {predicted}; slot: {size(limit)})"
    hint = "use fewer slots, a smaller micro-batch or shorter rows"
    raise UserError(problem, f"hardware.device={device}", hint, code="device.slot_too_small")
