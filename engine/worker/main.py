"""Run a worker from start to end: data, model, baseline, training, evaluation, saving.

Every run ends with an `end` event and a result, also after an error; `outcome_of` maps errors to outcomes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings

import torch
from transformers import PreTrainedTokenizerBase, set_seed
from transformers.utils import logging as transformers_logging

from engine.data.changed_rows import refuse_other_than_first, refuse_unchecked
from engine.data.items import sampled_rows
from engine.data.prepare import Prepared, prepare
from engine.evaluation.preflight import refuse_rows
from engine.evaluation.score import vocabulary_of
from engine.hardware.nvml import Nvml
from engine.memory.dry_run.dry_run import wants_checkpointing
from engine.memory.dry_run.run_forecast import RunForecast, forecast_run
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_held_out, longest_step
from engine.memory.formula.memory_budget import first_visible
from engine.memory.probe import Probe, Probed, most_here
from engine.methods import method
from engine.methods.machine import this_machine
from engine.methods.model_config import config_of
from engine.methods.optimizers import make_optimizer, paged_bytes
from engine.methods.tokenizer import load_tokenizer
from engine.runs import events
from engine.runs.run_dir import Frozen, RunDir
from engine.runs.stop_request import StopRequest, StopRequested
from engine.training import checkpoints
from engine.training.batches import Packing, Schedule, choose_packing
from engine.training.checkpoint_content import unloadable
from engine.training.loss import flattening_agreement, keeps_logits
from engine.training.meters import Meters, training_card
from engine.training.trainer import AnswerTrainer, Callback, Hooks, StepFacts, training_arguments
from engine.worker.earlier_workers import earlier_workers
from engine.worker.evaluator import Evaluator
from engine.worker.exit_status import RunOutcome, outcome_of
from engine.worker.provenance import folder_bytes
from engine.worker.run_context import RunContext

VALIDATION_ROWS = 128
"""Maximum number of validation rows for the loss during training: enough for a curve without slowing training down."""


def work(run_dir: RunDir, frozen: Frozen, log: events.EventLog, stopping: StopRequest) -> int:
    """Execute the run and return the exit status of the process."""
    _silence_libraries()
    machine = this_machine()
    meters = Meters(log.write, training_card() if machine.device == "cuda" else None)
    run = RunContext(run_dir, frozen, log, stopping, machine, meters)
    try:
        outcome = _execute(run)
    finally:
        meters.stop()
    if outcome.status in ("failed", "out_of_memory", "diverged"):
        with contextlib.suppress(OSError):  # a full disk, which `finish` handles
            log.write(events.Error(text=outcome.reason, user=outcome.user, code=outcome.code))
    run.finish(outcome.status, outcome.reason)
    return 0 if outcome.status in ("finished", "stopped") else 2 if outcome.user else 1


def _execute(run: RunContext) -> RunOutcome:
    try:
        run.meters.start()
        _run_phases(run)
    except Exception as error:  # noqa: BLE001 - top level of the worker: every error becomes an outcome
        return outcome_of(run, error)
    return RunOutcome("finished")


def _run_phases(run: RunContext) -> None:
    config, machine = run.config, run.machine
    run.earlier = earlier_workers(run.dir)
    for problem in run.earlier.problems:
        run.warn("run.events_incomplete", problem)
    run.log_environment()
    for note in run.frozen.notes:
        run.warn("run.configuration", note)
    _warn_about_other_processes(run)
    _warn_about_unused_gpu(run)

    run.phase("data")
    tokenizer = load_tokenizer(config.model)
    progress, version = run.progress, run.frozen.split_version
    rows = prepare(config.data, config.train.max_length, tokenizer, progress, version)
    refuse_unchecked(rows, run.frozen.data_fingerprint)
    refuse_other_than_first(rows, run.earlier.data)
    refuse_rows(config, rows)
    evaluator = Evaluator(run, tokenizer, rows)
    run.log_data(rows, evaluator.test)

    run.phase("model")
    set_seed(config.train.seed)
    training_method = method(config.method)
    run.meters.model_begins()
    base = training_method.load(config, machine)
    packing = _packing(run, base, rows, tokenizer.pad_token_id)
    evaluator.prepare(base, packing)

    evaluator.before(base)

    run.phase("training")
    set_seed(config.train.seed)  # adapter initialization must not depend on what ran before it
    model = training_method.make_trainable(base, config)
    _train(run, model, tokenizer, evaluator)

    evaluator.after(model)

    run.phase("saving")
    with checkpoints.folder_atomically(run.dir.path / ".model.tmp", run.dir.model) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    run.log_model_saved(folder_bytes(run.dir.model, "*.safetensors"))


def _train(run: RunContext, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, evaluator: Evaluator) -> None:
    """Train from step 0 or from the latest complete checkpoint. Raises StopRequested after a stop request."""
    config, device = run.config, run.machine.device
    train, rows, packing = config.train, evaluator.rows, evaluator.packing
    schedule = Schedule.of(len(rows.train), train.batch, train.epochs, train.steps, train.seed)
    checkpointing = wants_checkpointing(config, run.machine)
    optimizer, optimizer_name = make_optimizer(model.parameters(), config, run.machine, run.warn)
    run.log_model(model, optimizer_name)
    resume = _resume_point(run)
    start = resume.step if resume else 0
    micro_batch = _micro_batch(run, resume)
    batches = _worst_case_batches(run, model, evaluator, schedule, start, micro_batch)
    forecast = forecast_run(config, config_of(config.model), run.machine, batches, micro_batch, run.warn)
    hooks = Hooks(halved=run.log_micro_batch, saved=run.log_checkpoint)
    trainer = AnswerTrainer(
        rows=rows.train,
        schedule=schedule,
        layout=packing,
        micro_batch=micro_batch,
        checkpoint_folder=run.dir.checkpoints,
        keep_checkpoints=train.keep_checkpoints,
        tokenizer=tokenizer,
        hooks=hooks,
        model=model,
        args=training_arguments(config, schedule, run.dir.path, device, checkpointing),
        optimizers=(optimizer, None),
    )
    plan = run.log_plan(
        events.Plan(
            steps=schedule.steps,
            start_step=start,
            batch=train.batch,
            micro_batch=micro_batch,
            packing=packing.packing,
            gradient_checkpointing=checkpointing,
        ),
        forecast,
    )

    def on_step(step: int, facts: StepFacts, rate: float) -> None:
        run.log_step(step, facts, rate, schedule)

    validation = sampled_rows(evaluator.validation, VALIDATION_ROWS)

    def evaluate(step: int) -> None:
        run.log_validation(step, len(validation), evaluator.loss(model, validation))

    callback = Callback(
        hooks,
        trainer,
        on_step,
        should_stop=lambda: run.stopping.asked,
        evaluate=evaluate,
        evaluate_every=(train.evaluate_every or max(1, schedule.steps // 4)) if validation else 0,
        due=checkpoints.Due(train.checkpoint_every, schedule.steps),
    )
    trainer.add_callback(callback)

    def prepared() -> None:
        if train.probe:
            probed = _probe(run, trainer, optimizer, batches, evaluator, forecast)
            run.log_probe(plan, probed, trainer.micro_batch)
        run.meters.training_begins()

    hooks.prepared = prepared
    if resume and resume.step >= schedule.steps:
        trainer._load_from_checkpoint(str(resume.folder))  # killed after the last step: evaluation and saving remain
    else:
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
    run.meters.training_ends(paged_bytes(optimizer) or None)
    trainer.end_autocast()
    if callback.stopped:
        raise StopRequested


def _micro_batch(run: RunContext, resume: checkpoints.Saved | None) -> int:
    """The initial micro-batch size: the setting, else the size the resumed run ended with, else the batch size."""
    setting, batch = run.config.train.micro_batch, run.config.train.batch
    if setting != "auto":
        return setting
    return (run.earlier.micro_batch if resume else None) or batch


def _worst_case_batches(
    run: RunContext, model: torch.nn.Module, evaluator: Evaluator, schedule: Schedule, start: int, micro_batch: int
) -> WorstCaseBatches:
    """The longest training step, held-out batch and prompts of this run."""
    rows, packing, device = evaluator.rows.train, evaluator.packing, run.machine.device
    first = min(start, schedule.steps - 1)
    return WorstCaseBatches(
        layout=packing,
        step=longest_step(rows, schedule, first, micro_batch, packing),
        held_out=longest_held_out(evaluator.loss_rows, packing, device, vocabulary_of(model), keeps_logits(model)),
        prompts=[item.row.prompt for item in evaluator.test] if evaluator.scores_test else [],
        choice=int(rows.answer_tokens.max()),
        pad=evaluator.tokenizer.pad_token_id,
    )


def _probe(
    run: RunContext,
    trainer: AnswerTrainer,
    optimizer: torch.optim.Optimizer,
    batches: WorstCaseBatches,
    evaluator: Evaluator,
    forecast: RunForecast,
) -> Probed:
    """Run the longest training batch; on a GPU also the largest evaluation batch, which on a CPU is only predicted."""
    on_gpu = run.machine.device == "cuda"
    if not on_gpu and evaluator.scores_test:
        limit = most_here(run.meters)
        evaluator.scorer.shrink(lambda batch: forecast.answering_fits(batch, limit))
    return Probe(
        trainer=trainer,
        optimizer=optimizer,
        own=batches,
        meters=run.meters,
        automatic=run.config.train.micro_batch == "auto",
        evaluate=(lambda: evaluator.run_worst_case(trainer.model, batches.held_out)) if on_gpu else None,
        fits=None if on_gpu else forecast.training_fits,
        warn=run.warn,
    ).run()


def _resume_point(run: RunContext) -> checkpoints.Saved | None:
    if not run.dir.checkpoints.exists():
        return None
    checkpoints.clear_unfinished(run.dir.checkpoints)
    latest, problems = checkpoints.newest_complete(run.dir.checkpoints, unloadable)
    for problem in problems:
        start = f"training resumes from {latest.folder.name}" if latest else "training starts from step 0"
        run.warn("checkpoint.incomplete", f"{problem}; {start}")
    run.last_checkpoint = f"checkpoints/{latest.folder.name}" if latest else ""
    return latest


def _packing(run: RunContext, model: torch.nn.Module, rows: Prepared, pad: int) -> Packing:
    """The configured or automatic packing; padded batches if this architecture attends across packed rows."""
    train, device, kind = run.config.train, run.machine.device, type(model).__name__
    keep = keeps_logits(model)
    if not keep:
        text = f"{kind} does not support logits_to_keep: the LM head runs at every position, which is slower"
        run.warn("model.no_logits_to_keep", text)
    varlen = model.config.get_text_config()._attn_implementation == "flash_attention_2"
    packing = choose_packing(rows.train, train.packing, device, varlen)
    if packing.packing == "padded":
        return packing
    shortest = list(rows.train.take(rows.train.lengths.argsort(kind="stable")[:2]))
    agreement = flattening_agreement(model, shortest, pad, device, keep)
    if agreement.same:
        return packing
    losses = f"loss {agreement.flat:.4f} packed, {agreement.single:.4f} separate"
    text = f"{kind} does not keep packed rows separate ({losses}): using padded batches"
    run.warn("model.packing_unsupported", text)
    return choose_packing(rows.train, "padded", device, varlen)


def _warn_about_other_processes(run: RunContext) -> None:
    gpu = run.meters.card
    for pid, name, used in gpu.others(run.meters.gpu_pid) if gpu else []:
        size = f" ({used / 2**30:.1f} GiB)" if used else ""
        text = f"process {pid} {name}{size} also uses this GPU: timings and memory include its load"
        run.warn("gpu.shared", text)


def _warn_about_unused_gpu(run: RunContext) -> None:
    """Without this warning, a GPU that torch's build or the driver does not support shows only in the timings."""
    if run.machine.device == "cpu" and (gpu := first_visible(Nvml())):
        name = gpu.name() or "a GPU"
        text = f"torch cannot use {name}: this run uses the CPU; run `ftbench doctor` for the reason"
        run.warn("gpu.unusable", text)


def _silence_libraries() -> None:
    """Keep progress bars and advice of libraries out of engine.log."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
