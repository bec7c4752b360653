"""The training phase of a run: resume point, optimizer, trainer, memory probe."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from engine.config import schema
from engine.config.automatic_optimizer import automatic_on_resume
from engine.config.checkpointing import Checkpointing, checkpointing_of, memory_saved, stronger_than
from engine.config.method_specs import method_spec
from engine.config.preset import with_settings
from engine.data.items import sampled_rows
from engine.evaluation.score import vocabulary_of
from engine.memory.dry_run.run_forecast import RunForecast, forecast_run
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_held_out, longest_step
from engine.memory.formula.checkpoint_size import copies_checkpoints
from engine.memory.probe import Probe, Probed, available_for_copy, available_memory
from engine.methods.model_config import config_of
from engine.methods.optimizers import make_optimizer, paged_bytes
from engine.runs import events
from engine.runs.stop_request import StopRequested
from engine.training import checkpoints
from engine.training.batches import Schedule
from engine.training.callback import Callback
from engine.training.checkpoint_content import unloadable
from engine.training.checkpoint_writer import HostCopy
from engine.training.checkpointing import enable_checkpointing
from engine.training.compilation import remove_compiled, uncompiled
from engine.training.loss import supports_logits_to_keep
from engine.training.sharding import LocalShards
from engine.training.trainer import AnswerTrainer, Hooks, StepFacts, training_arguments
from engine.worker.compiled_layers import compile_by_training
from engine.worker.evaluator import Evaluator
from engine.worker.run_context import RunContext
from engine.worker.slots import refuse_small_slot

VALIDATION_ROWS = 128
"""Maximum number of validation rows for the loss during training: enough for a curve without slowing training down."""


def train(run: RunContext, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, evaluator: Evaluator) -> None:
    """Train from step 0 or from the latest complete checkpoint. Raises StopRequested after a stop request."""
    settings = run.config.train
    schedule = Schedule.of(len(evaluator.rows.train), settings.batch, settings.epochs, settings.steps, settings.seed)
    resume = run.ranks.from_first(lambda: _resume_point(run))
    start = resume.step if resume else 0
    forecast, batches = _forecast(run, model, evaluator, schedule, start, resume)
    if run.machine.device == "cuda" and run.meters.slots > 1:
        refuse_small_slot(forecast, available_memory(run.meters), run.config.hardware.device)
    shards = LocalShards(model)
    optimizer, optimizer_name = make_optimizer(shards, forecast.config, run.machine, run.warn)
    shards.attach(optimizer)
    run.log_model(model, optimizer_name)
    micro_batch = forecast.micro_batch
    checkpointing = checkpointing_of(forecast.config.train.gradient_checkpointing, run.machine.device)
    hooks = Hooks(halved=run.log_micro_batch, saved=run.log_checkpoint)
    trainer = _trainer(run, model, tokenizer, evaluator, schedule, micro_batch, checkpointing, hooks, optimizer, shards)
    plan = run.log_plan(
        events.Plan(
            steps=schedule.steps,
            start_step=start,
            batch=settings.batch,
            micro_batch=micro_batch,
            packing=evaluator.packing.mode,
            **_sharing(run, evaluator),
            gradient_checkpointing=checkpointing.setting,
            devices=run.ranks.size,
            sharded=run.is_sharded,
        ),
        forecast,
    )
    callback = _callback(run, trainer, evaluator, schedule)
    trainer.add_callback(callback)

    def prepared() -> None:
        if settings.compile:
            run.log.write(compile_by_training(trainer, batches.step))
        if settings.probe:
            probed = _probe(run, trainer, optimizer, batches, evaluator, forecast)
            probed = _agreed(run, trainer, probed)
            run.log_probe(plan, probed, trainer.micro_batch)
        run.meters.training_begins()

    hooks.prepared = prepared
    if resume and resume.step >= schedule.steps:
        trainer._load_from_checkpoint(str(resume.folder))  # killed after the last step: evaluation and saving remain
    else:
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
    run.meters.training_ends(paged_bytes(optimizer) or None)
    trainer.end_autocast()
    if settings.compile:
        remove_compiled(trainer.model)
    if callback.stopped:
        raise StopRequested


def _sharing(run: RunContext, evaluator: Evaluator) -> dict[str, Any]:
    """Fields of the plan about shared prefixes."""
    if evaluator.packing.mode != "shared_prefix":
        return {}
    sharing = run.sharing
    return {"shared_prefix": sharing.prefix, "shared_rows": sharing.rows, "token_ratio": round(sharing.ratio, 3)}


def _trainer(
    run: RunContext,
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    evaluator: Evaluator,
    schedule: Schedule,
    micro_batch: int,
    checkpointing: Checkpointing,
    hooks: Hooks,
    optimizer: torch.optim.Optimizer,
    shards: LocalShards,
) -> AnswerTrainer:
    config, device = run.config, run.machine.device
    return AnswerTrainer(
        rows=evaluator.rows.train,
        schedule=schedule,
        packing=evaluator.packing,
        micro_batch=micro_batch,
        checkpoint_folder=run.dir.checkpoints,
        keep_checkpoints=config.train.keep_checkpoints,
        host_copy=HostCopy(available_for_copy, run.warn) if _copies(run) else None,
        tokenizer=tokenizer,
        hooks=hooks,
        ranks=run.ranks,
        shards=shards,
        model=model,
        args=training_arguments(config, schedule, run.dir.path, device, checkpointing),
        optimizers=(optimizer, None),
    )


def _copies(run: RunContext) -> bool:
    """Whether this rank copies checkpoints to host memory, to write them while training continues."""
    return run.ranks.is_first and copies_checkpoints(run.config, run.machine.device)


def _callback(run: RunContext, trainer: AnswerTrainer, evaluator: Evaluator, schedule: Schedule) -> Callback:
    """Log steps, save checkpoints and measure the validation loss."""
    settings = run.config.train
    validation = sampled_rows(evaluator.validation, VALIDATION_ROWS)

    def on_step(step: int, facts: StepFacts, rate: float) -> None:
        run.log_step(step, facts, rate, schedule)

    def evaluate(step: int) -> None:
        with uncompiled(trainer.model):
            run.log_validation(step, len(validation), evaluator.loss(trainer.model, validation))
            run.log_answers(step, evaluator.learning_answers(trainer.model))

    return Callback(
        trainer.hooks,
        trainer,
        on_step,
        should_stop=lambda: run.stopping.requested,
        evaluate=evaluate,
        evaluate_every=(settings.evaluate_every or max(1, schedule.steps // 4)) if validation else 0,
        due=checkpoints.SaveSchedule(settings.checkpoint_every, schedule.steps),
        evaluated=run.earlier.evaluated,
    )


def _micro_batch(run: RunContext, resume: checkpoints.SavedCheckpoint | None) -> int:
    """The initial micro-batch size: the setting, else the size the resumed run ended with, else the batch size."""
    setting, batch = run.config.train.micro_batch, run.config.train.batch
    if setting != "auto":
        return min(setting, run.earlier.reduced_to or setting)
    return (run.earlier.micro_batch if resume else run.earlier.reduced_to) or batch


def _forecast(
    run: RunContext,
    model: torch.nn.Module,
    evaluator: Evaluator,
    schedule: Schedule,
    start: int,
    resume: checkpoints.SavedCheckpoint | None,
) -> tuple[RunForecast, WorstCaseBatches]:
    """Predicted memory of the run's largest batches, with the settings that `auto` means for it."""
    config = _with_saved_state(_dividable(run), run, resume)
    micro_batch = _micro_batch(run, resume)
    batches = _worst_case_batches(run, model, evaluator, schedule, start, micro_batch)
    limit = min(run.ranks.gathered(available_memory(run.meters))) if run.machine.device == "cuda" else None
    if micro_batch != config.train.batch:  # configured, or found by the process that is resumed
        config = with_settings(config, {"train.micro_batch": micro_batch})
    architecture = config_of(config.model)
    return forecast_run(config, architecture, run.machine, batches, micro_batch, run.warn, limit), batches


def _with_saved_state(
    config: schema.Config, run: RunContext, resume: checkpoints.SavedCheckpoint | None
) -> schema.Config:
    """The configuration with the automatic optimizer whose state the checkpoint has."""
    if config.optimizer.name != "auto" or not resume:
        return config
    name = automatic_on_resume(run.machine.device, run.earlier.optimizer)
    return with_settings(config, {"optimizer.name": name})


def _dividable(run: RunContext) -> schema.Config:
    """The configuration with an optimizer whose state can be divided among the ranks of a sharded model."""
    config = run.config
    if not run.is_sharded:
        return config
    config = with_settings(config, {"train.parallelism": "fsdp"})
    if method_spec(config.method).trains_weights and config.optimizer.name != "adamw":
        if config.optimizer.name != "auto":
            text = f"optimizer.name = {config.optimizer.name}: 8-bit state cannot be divided among devices: using adamw"
            run.warn("optimizer.not_divided", text)
        config = with_settings(config, {"optimizer.name": "adamw"})
    return config


def _worst_case_batches(
    run: RunContext, model: torch.nn.Module, evaluator: Evaluator, schedule: Schedule, start: int, micro_batch: int
) -> WorstCaseBatches:
    """The longest training step, held-out batch and prompts of this run."""
    rows, packing, device = evaluator.rows.train, evaluator.packing, run.machine.device
    first = min(start, schedule.steps - 1)
    return WorstCaseBatches(
        packing=packing,
        step=longest_step(rows, schedule, first, micro_batch, packing, run.ranks.size),
        held_out=longest_held_out(
            evaluator.loss_rows, packing, device, vocabulary_of(model), supports_logits_to_keep(model)
        ),
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
        limit = min(run.ranks.gathered(available_memory(run.meters)))
        evaluator.scorer.shrink(lambda batch: forecast.answering_fits(batch, limit))

    def evaluate() -> None:
        with uncompiled(trainer.model):
            evaluator.run_worst_case(trainer.model, batches.held_out)

    return Probe(
        trainer=trainer,
        optimizer=optimizer,
        batches=batches,
        meters=run.meters,
        automatic=run.config.train.micro_batch == "auto",
        evaluate=evaluate if on_gpu else None,
        fits=None if on_gpu else forecast.training_fits,
        warn=run.warn,
        stronger=_stronger(run, forecast),
    ).run()


def _agreed(run: RunContext, trainer: AnswerTrainer, probed: Probed) -> Probed:
    """What fits on every rank: the smallest micro-batch size, the strongest checkpointing; the peaks are the highest.

    All ranks probe the same batches, but their GPUs may differ, or others may use one of them.
    """
    found = run.ranks.gathered((trainer.micro_batch, probed))
    trainer.micro_batch = min(micro_batch for micro_batch, _ in found)
    enabled = [one.checkpointing for _, one in found if one.checkpointing]
    strongest = max(enabled, key=memory_saved, default=None)
    if strongest is not None and strongest != probed.checkpointing:
        enable_checkpointing(trainer.model, strongest)
    evaluation = max((one.evaluation for _, one in found if one.evaluation is not None), default=None)
    return Probed(max(one.training for _, one in found), evaluation, probed.seconds, strongest)


def _plan_chooses(run: RunContext) -> bool:
    """Whether activation checkpointing is chosen by what fits."""
    return run.machine.device == "cuda" and run.config.train.gradient_checkpointing == "auto"


def _stronger(run: RunContext, forecast: RunForecast) -> list[Checkpointing]:
    """What the probe may enable if the choice of the plan does not fit."""
    if not _plan_chooses(run):
        return []
    return stronger_than(checkpointing_of(forecast.config.train.gradient_checkpointing, "cuda"))


def _resume_point(run: RunContext) -> checkpoints.SavedCheckpoint | None:
    if not run.dir.checkpoints.exists():
        return None
    checkpoints.clear_unfinished(run.dir.checkpoints)
    latest, problems = checkpoints.latest_complete(run.dir.checkpoints, unloadable)
    for problem in problems:
        start = f"training resumes from {latest.folder.name}" if latest else "training starts from step 0"
        run.warn("checkpoint.incomplete", f"{problem}; {start}")
    run.last_checkpoint = f"checkpoints/{latest.folder.name}" if latest else ""
    return latest
