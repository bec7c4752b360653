"""A whole run: data, model, score of the base, training, score of the trained model, saving.

`_execute_phases` reads from top to bottom. What each call needs is passed to it; events go through the `RunLog`. Every
run ends with an `end` event and a result, also after an error: `outcome_of_error` maps errors to outcomes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from transformers import PreTrainedTokenizerBase, set_seed

from engine.config.files import folder_bytes
from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.config.settings import with_settings
from engine.config.text import amount
from engine.data.items import EvaluationItem, all_rows, items_fingerprint
from engine.data.prepare import prepare
from engine.data.prepared import Prepared
from engine.evaluation.preflight import MetricChoice, decide_metric, refuse_rows
from engine.export.merged import merge_obstacle
from engine.hardware.nvml import NvmlGpu
from engine.methods import method
from engine.methods.adapters import changes_base_weights, save, save_initial_adapter
from engine.methods.machine import (
    Machine,
    compute_deterministically,
    machine_facts,
    refuse_unused_gpu,
    this_machine,
    versions,
)
from engine.methods.model_source import config_of, load_tokenizer
from engine.runs.run import events
from engine.runs.run.event_log import EventLog
from engine.runs.run.run_dir import FrozenRun, RunDir
from engine.runs.run.usage import SplitOverlap
from engine.runs.stopping import StopRequest
from engine.training import checkpoints
from engine.training.compilation import refuse_compilation
from engine.training.guards import free_memory
from engine.training.meters import Meters, training_gpu
from engine.training.ranks import SINGLE_RANK, Ranks
from engine.training.sharding import whole_weights
from engine.worker.checks import (
    check_moved_model,
    check_rows_unchanged_since_check,
    check_rows_unchanged_since_start,
    refuse_model,
    refuse_small_disk,
)
from engine.worker.evaluator import Evaluator
from engine.worker.model_loading import (
    add_continued_adapter,
    copy_initial_weights,
    decide_sharding,
    limit_memory,
    load_model,
)
from engine.worker.outcome import RunOutcome, outcome_of_error, write_outcome
from engine.worker.planning import decide_packing, with_answer_batch
from engine.worker.run_log import EarlierWorkers, RunLog, earlier_workers
from engine.worker.training_phase import train


def execute_run(run_dir: RunDir, frozen: FrozenRun, event_log: EventLog, stopping: StopRequest) -> int:
    """Execute the run as a single rank, write its end, and return the exit status of the process."""
    outcome = execute(run_dir, frozen, event_log, stopping, SINGLE_RANK)
    return write_outcome(run_dir, frozen, event_log, outcome)


def execute(
    run_dir: RunDir,
    frozen: FrozenRun,
    event_log: EventLog,
    stopping: StopRequest,
    ranks: Ranks,
    others: Sequence[NvmlGpu] = (),
) -> RunOutcome:
    """Execute the run as a single rank or as one of several. The end of the run is not written.

    `others`: the other ranks' GPUs.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config, machine = frozen.config, this_machine()
    gpu = training_gpu() if machine.device == "cuda" else None
    meters = Meters(event_log.write, gpu, others, slots=limit_memory(config, machine))
    log = RunLog(event_log, stopping, ranks, meters)
    try:
        meters.start()
        _execute_phases(run_dir, frozen, machine, ranks, meters, log)
        outcome = RunOutcome("finished")
    except Exception as error:  # noqa: BLE001 - top level of the worker: every error becomes an outcome
        outcome = outcome_of_error(error, config, run_dir, machine.device, log.last_checkpoint)
    finally:
        meters.stop()
    with contextlib.suppress(OSError):  # a full disk, which `write_outcome` handles
        if outcome.is_failure and (outcome.is_expected or ranks.size == 1) and not outcome.needs_restart:
            log.write(events.Error(text=outcome.reason, user=outcome.user, code=outcome.code))
        if ranks.size == 1:
            meters.sample()
    return outcome


def _execute_phases(
    run_dir: RunDir, frozen: FrozenRun, machine: Machine, ranks: Ranks, meters: Meters, log: RunLog
) -> None:
    config = frozen.config
    if machine.device == "cuda" and config.train.precision != "fp32":
        torch.set_float32_matmul_precision("high")  # TF32 for the products that are not in bf16
    if config.train.deterministic:
        compute_deterministically(machine)
    earlier = ranks.broadcast(lambda: earlier_workers(run_dir))
    log.last_checkpoint = earlier.checkpoint  # for a stop before training resumes from it
    _describe_start(frozen, earlier, machine, ranks, meters, log)
    refuse_unused_gpu(config, machine)
    if config.train.compile:
        refuse_compilation(machine.device)

    log.phase("data")
    tokenizer = load_tokenizer(config.model)
    rows = _prepare_rows(frozen, tokenizer, earlier, ranks, log)
    metric = _decide_metric(config, rows, earlier, log)
    config = with_settings(config, {"evaluation.metric": metric.metric})
    refuse_rows(config, rows)
    model_config = config_of(config.model)
    check_moved_model(config, model_config, earlier)
    refuse_model(config, model_config, machine)
    config = with_answer_batch(config, model_config, machine, rows, ranks, meters)
    if ranks.is_first:
        refuse_small_disk(run_dir, config, model_config, machine)
    ranks.broadcast(lambda: copy_initial_weights(config, run_dir, model_config, rows, log))
    evaluator = Evaluator(config, tokenizer, rows, run_dir, machine.device, ranks, log)
    _log_data(rows, evaluator.test, metric, log)

    log.phase("model")
    set_seed(config.train.seed)
    decide_sharding(config, model_config, machine, ranks, meters)
    meters.model_begins()
    base = load_model(config, run_dir, machine, ranks)
    pad, loss_rows = tokenizer.pad_token_id, evaluator.loss_rows
    packing, sharing = decide_packing(config, base, rows.train, loss_rows, pad, machine, ranks, log.warn)
    evaluator.create_scorer(base, packing)
    continued = add_continued_adapter(config, run_dir, base)

    if config.evaluation.when == "both":
        log.phase("baseline")
        evaluator.score_before_training(continued or base, earlier.before)

    log.phase("training")
    set_seed(config.train.seed)  # adapter initialization must not depend on what ran before it
    model = continued or method(config.method).make_trainable(base, config)
    if ranks.is_first and (obstacle := merge_obstacle(config.model, model)):
        log.warn("export.cannot_merge", f"{obstacle}: this run can be exported as an adapter only")
    initial = run_dir.initial_adapter if changes_base_weights(config) else None
    if initial is not None:
        ranks.broadcast(lambda: save_initial_adapter(model, initial))
    train(config, model, evaluator, sharing, earlier, run_dir, machine, ranks, meters, log)
    free_memory()  # the trainer and its optimizer are in reference cycles

    log.phase("evaluation")
    evaluator.score_after_training(model)

    log.phase("saving")
    _save_model(config, run_dir, model, tokenizer, initial, ranks, log)


def _describe_start(
    frozen: FrozenRun, earlier: EarlierWorkers, machine: Machine, ranks: Ranks, meters: Meters, log: RunLog
) -> None:
    """Log where the run executes, what is missing of its earlier workers, and who else uses the GPU."""
    for problem in earlier.problems:
        log.warn("run.events_incomplete", problem)
    before, now = earlier.devices, frozen.config.train.devices
    if before not in (None, now):
        text = f"resumed on {amount(now, 'device')} after {amount(before or 1, 'device')}: its timings combine both"
        log.warn("run.devices_changed", text)
    log.write(events.Environment(versions=versions(), machine=machine_facts(machine)))
    for note in frozen.notes:
        log.warn("run.configuration", note)
    processes = meters.gpu.others(meters.gpu_pid) if meters.gpu else []
    for rank, others in enumerate(ranks.all_gather(processes)):
        which = "this GPU" if ranks.size == 1 else f"the GPU of rank {rank}"
        for pid, name, used in others:
            size = f" ({used / 2**30:.1f} GiB)" if used else ""
            text = f"process {pid} {name}{size} also uses {which}: timings and memory include its load"
            log.warn("gpu.shared", text)


def _prepare_rows(
    frozen: FrozenRun, tokenizer: PreTrainedTokenizerBase, earlier: EarlierWorkers, ranks: Ranks, log: RunLog
) -> Prepared:
    """The tokenized rows of each split. Raises UserError if they changed, or cannot be trained on."""
    config = frozen.config
    rows = ranks.first_before_others(lambda: prepare(config.data, config.train.max_length, tokenizer, log.progress))
    check_rows_unchanged_since_check(rows, frozen.data_fingerprint)
    check_rows_unchanged_since_start(rows, earlier.data)
    return rows


def _decide_metric(config: Config, rows: Prepared, earlier: EarlierWorkers, log: RunLog) -> MetricChoice:
    """The metric that is set, or decided from the training answers; a resumed run keeps that of its first start."""
    chosen, notices = decide_metric(config.evaluation, rows.train)
    for notice in notices:
        log.warn(notice.code, notice.text)
    if earlier.data is not None and earlier.data.metric:
        return MetricChoice(earlier.data.metric, earlier.data.metric_reason)
    return chosen


def _log_data(rows: Prepared, test: Sequence[EvaluationItem], metric: MetricChoice, log: RunLog) -> None:
    for warning in rows.warnings:
        log.warn(warning.code, warning.text)
    log.write(
        events.DataPrepared(
            train=len(rows.train),
            validation=len(rows.validation),
            test=len(all_rows(test)),
            format=rows.about["format"],
            format_reason=rows.about["why"],
            fingerprint=rows.fingerprint,
            test_fingerprint=items_fingerprint(test),
            tokens=int(rows.train.lengths.sum()),
            answer_tokens=int(rows.train.answer_tokens.sum()),
            columns=rows.about["columns"],
            data_usage=rows.about["data_usage"],
            test_items=len(test),
            overlap=msgspec.convert(rows.about["overlap"], dict[str, SplitOverlap]),
            metric=metric.metric,
            metric_reason=metric.reason,
        )
    )


def _save_model(
    config: Config,
    run_dir: RunDir,
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    initial: Path | None,
    ranks: Ranks,
    log: RunLog,
) -> None:
    """Save the trained weights or adapter; `initial`: the adapter before training, if it changed the base's weights."""
    whole = whole_weights(model) if ranks.shards_model and method_spec(config.method).trains_weights else None
    if not ranks.is_first:
        return
    with checkpoints.folder_atomically(run_dir.path / ".model.tmp", run_dir.model) as folder:
        save(model, folder, initial, whole)
        tokenizer.save_pretrained(folder)
    log.write(events.ModelSaved(path=run_dir.model.name, bytes=folder_bytes(run_dir.model, "*.safetensors")))
