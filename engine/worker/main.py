"""Run a worker from start to end: data, model, baseline, training, evaluation, saving.

Every run ends with an `end` event and a result, also after an error; `outcome_of_error` maps errors to outcomes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PretrainedConfig, set_seed
from transformers.utils import logging as transformers_logging

from engine.config.method_specs import method_spec
from engine.config.text import amount
from engine.data.prepare import check_rows_unchanged_since_check, check_rows_unchanged_since_start, prepare
from engine.evaluation.preflight import refuse_rows
from engine.export.merged import merge_obstacle
from engine.hardware.nvml import NvmlGpu
from engine.methods import method
from engine.methods.adapters import changes_base_weights, save, save_initial_adapter
from engine.methods.machine import refuse_unused_gpu, this_machine
from engine.methods.model_source import config_of, load_tokenizer
from engine.methods.provenance import folder_bytes
from engine.runs.run import events
from engine.runs.run.event_log import EventLog
from engine.runs.run.frozen_config import FrozenRun
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import StopRequest
from engine.training import checkpoints
from engine.training.compilation import refuse_compilation
from engine.training.guards import free_memory
from engine.training.meters import Meters, training_gpu
from engine.training.ranks import SINGLE_RANK, Ranks
from engine.training.sharding import whole_weights
from engine.worker.earlier_workers import earlier_workers
from engine.worker.early_checks import refuse_model, refuse_small_disk
from engine.worker.evaluator import Evaluator
from engine.worker.model_loading import (
    add_continued_adapter,
    copy_initial_weights,
    decide_sharding,
    limit_memory,
    load_model,
)
from engine.worker.outcome import RunOutcome, outcome_of_error
from engine.worker.packing import decide_packing
from engine.worker.run_context import RunContext
from engine.worker.training_phase import train


def execute_run(run_dir: RunDir, frozen: FrozenRun, log: EventLog, stopping: StopRequest) -> int:
    """Execute the run as a single rank, write its end, and return the exit status of the process."""
    run = _context(run_dir, frozen, log, stopping, SINGLE_RANK)
    outcome = _execute(run)
    run.finish(outcome.status, outcome.reason)
    return 0 if outcome.status in ("finished", "stopped") else 2 if outcome.user else 1


def execute(
    run_dir: RunDir,
    frozen: FrozenRun,
    log: EventLog,
    stopping: StopRequest,
    ranks: Ranks,
    others: Sequence[NvmlGpu] = (),
) -> RunOutcome:
    """Execute the run as one of several ranks; the end of the run is not written. `others`: the other ranks' GPUs."""
    run = _context(run_dir, frozen, log, stopping, ranks)
    run.meters.others = others
    return _execute(run)


def _context(run_dir: RunDir, frozen: FrozenRun, log: EventLog, stopping: StopRequest, ranks: Ranks) -> RunContext:
    _silence_libraries()
    machine = this_machine()
    if machine.device == "cuda" and frozen.config.train.precision != "fp32":
        torch.set_float32_matmul_precision("high")  # TF32 for the products that are not in bf16
    slots = limit_memory(frozen.config, machine)
    meters = Meters(log.write, training_gpu() if machine.device == "cuda" else None, slots=slots)
    return RunContext(run_dir, frozen, log, stopping, machine, meters, ranks)


def _execute(run: RunContext) -> RunOutcome:
    try:
        run.meters.start()
        _run_phases(run)
        outcome = RunOutcome("finished")
    except Exception as error:  # noqa: BLE001 - top level of the worker: every error becomes an outcome
        outcome = outcome_of_error(run, error)
    finally:
        run.meters.stop()
    if (
        outcome.status in ("failed", "out_of_memory", "diverged")
        and (outcome.is_expected or run.ranks.size == 1)
        and not outcome.needs_restart
    ):
        with contextlib.suppress(OSError):  # a full disk, which `finish` handles
            run.log.write(events.Error(text=outcome.reason, user=outcome.user, code=outcome.code))
    return outcome


def _run_phases(run: RunContext) -> None:
    _begin(run)
    run.phase("data")
    evaluator, model_config = _prepare_data(run)
    run.phase("model")
    base, started = _load(run, evaluator, model_config)
    evaluator.score_before_training(started or base)
    run.phase("training")
    model, initial = _train(run, evaluator, base, started)
    evaluator.score_after_training(model)
    run.phase("saving")
    _save(run, evaluator, model, initial)


def _begin(run: RunContext) -> None:
    """Log where the run executes; refuse what this machine cannot do."""
    run.earlier = run.ranks.broadcast(lambda: earlier_workers(run.dir))
    run.last_checkpoint = run.earlier.checkpoint  # for a stop before training resumes from it
    for problem in run.earlier.problems:
        run.warn("run.events_incomplete", problem)
    before, now = run.earlier.devices, run.config.train.devices
    if before not in (None, now):
        text = f"resumed on {amount(now, 'device')} after {amount(before or 1, 'device')}: its timings combine both"
        run.warn("run.devices_changed", text)
    run.log_environment()
    for note in run.frozen.notes:
        run.warn("run.configuration", note)
    _warn_about_other_processes(run)
    refuse_unused_gpu(run.config, run.machine)
    if run.config.train.compile:
        refuse_compilation(run.machine.device)


def _prepare_data(run: RunContext) -> tuple[Evaluator, PretrainedConfig]:
    """Prepare the rows; returns the evaluator, which has them, and the configuration of the model."""
    config = run.config
    tokenizer = load_tokenizer(config.model)
    rows = run.ranks.first_before_others(lambda: prepare(config.data, config.train.max_length, tokenizer, run.progress))
    check_rows_unchanged_since_check(rows, run.frozen.data_fingerprint)
    check_rows_unchanged_since_start(rows, run.earlier.data)
    refuse_rows(config, rows)
    model_config = config_of(config.model)
    refuse_model(config, model_config, run.machine)
    if run.ranks.is_first:
        refuse_small_disk(run.dir, config, model_config, run.machine)
    run.ranks.broadcast(lambda: copy_initial_weights(run, model_config, rows))
    evaluator = Evaluator(run, tokenizer, rows)
    run.log_data(rows, evaluator.test)
    return evaluator, model_config


def _load(
    run: RunContext, evaluator: Evaluator, model_config: PretrainedConfig
) -> tuple[torch.nn.Module, torch.nn.Module | None]:
    """The base model, and that with the adapter that the run starts from, if it starts from one."""
    set_seed(run.config.train.seed)
    run.is_sharded = decide_sharding(run, model_config)
    run.meters.model_begins()
    base = load_model(run)
    packing = decide_packing(run, base, evaluator, evaluator.tokenizer.pad_token_id)
    evaluator.prepare(base, packing)
    return base, add_continued_adapter(run, base)


def _train(
    run: RunContext, evaluator: Evaluator, base: torch.nn.Module, started: torch.nn.Module | None
) -> tuple[torch.nn.Module, Path | None]:
    """The trained model, and the initial adapter if the method also changes the base's weights."""
    config = run.config
    set_seed(config.train.seed)  # adapter initialization must not depend on what ran before it
    model = started or method(config.method).make_trainable(base, config)
    if run.ranks.is_first and (obstacle := merge_obstacle(config.model, model)):
        run.warn("export.cannot_merge", f"{obstacle}: this run can be exported as an adapter only")
    initial = run.dir.initial_adapter if changes_base_weights(config) else None
    if initial is not None:
        run.ranks.broadcast(lambda: save_initial_adapter(model, initial))
    train(run, model, evaluator.tokenizer, evaluator)
    free_memory()  # the trainer and its optimizer are in reference cycles
    return model, initial


def _save(run: RunContext, evaluator: Evaluator, model: torch.nn.Module, initial: Path | None) -> None:
    whole = whole_weights(model) if run.is_sharded and method_spec(run.config.method).trains_weights else None
    if not run.ranks.is_first:
        return
    with checkpoints.folder_atomically(run.dir.path / ".model.tmp", run.dir.model) as folder:
        save(model, folder, initial, whole)
        evaluator.tokenizer.save_pretrained(folder)
    run.log_model_saved(folder_bytes(run.dir.model, "*.safetensors"))


def _warn_about_other_processes(run: RunContext) -> None:
    gpu = run.meters.gpu
    found = gpu.others(run.meters.gpu_pid) if gpu else []
    for rank, others in enumerate(run.ranks.all_gather(found)):
        which = "this GPU" if run.ranks.size == 1 else f"the GPU of rank {rank}"
        for pid, name, used in others:
            size = f" ({used / 2**30:.1f} GiB)" if used else ""
            text = f"process {pid} {name}{size} also uses {which}: timings and memory include its load"
            run.warn("gpu.shared", text)


def _silence_libraries() -> None:
    """Keep progress bars and advice of libraries out of engine.log."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
