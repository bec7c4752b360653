"""The training phase of a run: resume point, optimizer, trainer, compilation, validation during training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from engine.config.device_defaults import ActivationCheckpointing, resolve_checkpointing
from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.data.items import sampled_by_rows
from engine.data.rows import Row
from engine.memory.dry_run.plan import RunEstimates
from engine.memory.formula.weights_and_state import copies_checkpoints
from engine.memory.probe import ProbeResult, available_for_copy, available_memory, preserved_random_state
from engine.methods.adapters import unwrap_peft
from engine.methods.machine import Machine
from engine.methods.model_source import config_of, fingerprint
from engine.methods.optimizers import make_optimizer, paged_bytes
from engine.methods.weights import account_of
from engine.runs.run import events
from engine.runs.run.events import Compiled
from engine.runs.run.run_dir import RunDir, continued_run_name
from engine.runs.run.usage import LEFT_OUT, left_out_warning
from engine.runs.stopping import StopRequested
from engine.training import checkpoints
from engine.training.batches import BatchSampler, Sharing, loss_weight
from engine.training.checkpoint_writer import HostCopy
from engine.training.checkpoints import (
    LAST_WEIGHTS,
    Losses,
    WeightSelection,
    losses_of_checkpoint,
    unloadable,
    validation_losses,
)
from engine.training.compilation import compile_layers, remove_compiled, uncompiled
from engine.training.meters import Meters
from engine.training.ranks import Ranks
from engine.training.sharding import LocalShards, class_name
from engine.training.trainer import AnswerTrainer, Callback, Hooks, StepFacts, training_arguments
from engine.worker.evaluator import Evaluator, sample_event
from engine.worker.model_loading import refuse_small_slot
from engine.worker.planning import estimate_training, probe
from engine.worker.run_log import DiskWatch, EarlierWorkers, RunLog

ROWS_DURING_TRAINING = 128
"""Maximum number of validation rows for the loss during training: enough for a curve without slowing training down."""


def train(
    config: Config,
    model: torch.nn.Module,
    evaluator: Evaluator,
    sharing: Sharing,
    earlier: EarlierWorkers,
    run_dir: RunDir,
    machine: Machine,
    ranks: Ranks,
    meters: Meters,
    log: RunLog,
) -> None:
    """Train from step 0 or from the latest complete checkpoint. Raises StopRequested after a stop request.

    `sharing`: what sharing prefixes saves. The rows are the evaluator's, so that both losses are computed alike.
    """
    settings = config.train
    sampler = BatchSampler.of(len(evaluator.rows.train), settings.batch, settings.epochs, settings.steps, settings.seed)
    selection = WeightSelection.of(settings)
    resume = ranks.broadcast(lambda: _resume_point(run_dir, selection, log))
    losses = losses_of_checkpoint(resume.folder) if resume else []
    estimates, batches = estimate_training(
        config, model, evaluator, sampler, resume, earlier, machine, ranks, meters, log.warn
    )
    if machine.device == "cuda" and meters.slots > 1:
        refuse_small_slot(estimates, available_memory(meters), config.hardware.device)
    shards = LocalShards(model)
    optimizer, optimizer_name = make_optimizer(shards, estimates.config, machine, log.warn)
    shards.attach(optimizer)
    _log_model(config, model, optimizer_name, earlier.model, machine, meters, log)
    checkpointing = resolve_checkpointing(estimates.config.train.gradient_checkpointing, machine.device)
    log.step = resume.step if resume else 0
    plan = log.write(_plan(config, evaluator, sampler, log.step, estimates, checkpointing, sharing, ranks))
    # The rank that writes checkpoints copies them to host memory, to write them while training continues.
    writes_copies = ranks.is_first and copies_checkpoints(config, machine.device)
    trainer = AnswerTrainer(
        rows=evaluator.rows.train,
        sampler=sampler,
        packing=evaluator.packing,
        micro_batch=estimates.micro_batch,
        checkpoint_folder=run_dir.checkpoints,
        keep_checkpoints=settings.keep_checkpoints,
        host_copy=HostCopy(available_for_copy, log.warn) if writes_copies else None,
        tokenizer=evaluator.tokenizer,
        hooks=Hooks(),
        ranks=ranks,
        shards=shards,
        model=model,
        selection=selection,
        args=training_arguments(config, sampler, run_dir.path, machine.device, checkpointing),
        optimizers=(optimizer, None),
    )
    callback = _callback(trainer, evaluator, sampler, DiskWatch(run_dir.path, log.warn), log)
    trainer.add_callback(callback)

    def prepared() -> None:
        if settings.compile:
            log.write(compile_by_training(trainer, batches.step))
        if settings.probe:
            probed = probe(config, trainer, optimizer, batches, evaluator, estimates, ranks, meters, log.warn)
            log.write(_measured_plan(plan, probed, trainer.micro_batch))
        meters.training_begins()

    trainer.hooks.prepared = prepared
    if resume and (resume.step >= sampler.steps or selection.ends(losses)):
        trainer._load_from_checkpoint(str(resume.folder))  # killed after the last step: evaluation and saving remain
    else:
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
        losses = validation_losses(trainer.state.log_history)
    meters.training_ends(paged_bytes(optimizer) or None)
    trainer.end_autocast()
    if settings.compile:
        remove_compiled(trainer.model)
    if callback.stopped:
        raise StopRequested
    _select(trainer, losses, sampler.steps, log)


def _plan(
    config: Config,
    evaluator: Evaluator,
    sampler: BatchSampler,
    start: int,
    estimates: RunEstimates,
    checkpointing: ActivationCheckpointing,
    sharing: Sharing,
    ranks: Ranks,
) -> events.Plan:
    """What the run will do, with its predicted peak memory; `start`: the step that it resumes from."""
    plan = events.Plan(
        steps=sampler.steps,
        start_step=start,
        batch=config.train.batch,
        micro_batch=estimates.micro_batch,
        packing=evaluator.packing.mode,
        gradient_checkpointing=checkpointing.setting,
        devices=ranks.size,
        sharded=ranks.shards_model,
        predictions=estimates.predicted(),
    )
    if plan.packing == "shared_prefix":
        plan.shared_prefix, plan.shared_rows = sharing.prefix, sharing.rows
        plan.token_ratio = round(sharing.ratio, 3)
    if plan.predictions:
        best = plan.predictions[-1]
        plan.predicted, plan.predicted_evaluation = best.training, best.evaluation
    return plan


def _resume_point(run_dir: RunDir, selection: WeightSelection, log: RunLog) -> checkpoints.SavedCheckpoint | None:
    """The latest complete checkpoint, None for a new run; warns of each incomplete one, which is skipped.

    One without the checkpoint of the best weights so far is incomplete.
    """
    if not run_dir.checkpoints.exists():
        return None
    checkpoints.clear_unfinished(run_dir.checkpoints)
    latest, problems = checkpoints.latest_complete(
        run_dir.checkpoints, lambda folder: unloadable(folder) or _missing_best(folder, selection)
    )
    for problem in problems:
        start = f"training resumes from {latest.folder.name}" if latest else "training starts from step 0"
        log.warn("checkpoint.incomplete", f"{problem}; {start}")
    log.last_checkpoint = f"checkpoints/{latest.folder.name}" if latest else ""
    return latest


def _missing_best(checkpoint: Path, selection: WeightSelection) -> str | None:
    """What is wrong with the checkpoint of the best weights until another checkpoint, None if nothing is."""
    step = selection.best_step(losses_of_checkpoint(checkpoint))
    best = checkpoint if step is None else checkpoint.with_name(f"{checkpoints.PREFIX}{step}")
    problem = None if best == checkpoint else checkpoints.problem_with(best) or unloadable(best)
    return f"{best.name}, which has the best weights until then: {problem}" if problem else None


def _select(trainer: AnswerTrainer, losses: Losses, steps: int, log: RunLog) -> None:
    """Load the selected weights, and log which they are. `losses`: of all validations; `steps`: of the plan."""
    selection = trainer.selection
    if selection == LAST_WEIGHTS:
        return
    step = trainer.load_best(losses)
    if selection.best and step is None:
        log.warn("train.no_finite_validation", "no validation loss is finite: the weights of the last step are kept")
    kept = log.step if step is None else step
    log.write(events.Selected(step=kept, loss=dict(losses).get(kept), steps=log.step, early=log.step < steps))


def _log_model(
    config: Config,
    model: torch.nn.Module,
    optimizer: str,
    earlier_weights: str,
    machine: Machine,
    meters: Meters,
    log: RunLog,
) -> None:
    """Log the model and the use of its weights. `earlier_weights`: their fingerprint before this resume, or ""."""
    base, from_run = unwrap_peft(model), continued_run_name(config)
    account = account_of(model, config, machine.device)
    if warning := left_out_warning(account, method_spec(config.method)):
        log.warn(LEFT_OUT, warning)
    weights = fingerprint(config.model, config_of(config.model) if from_run else base.config)
    if earlier_weights and earlier_weights != weights:
        text = "the model changed since this run started: earlier steps used different model weights"
        log.warn("run.model_changed", text)
    log.write(
        events.ModelLoaded(
            id=config.model.id,
            architecture=class_name(base),
            parameters=account.parameters,
            trainable=account.trained,
            account=account,
            dtype=str(base.dtype).removeprefix("torch."),
            device=machine.name,
            attention=str(base.config._attn_implementation),
            optimizer=optimizer,
            fingerprint=weights,
            from_run=from_run,
            resident_before=meters.before_model,
        )
    )


def _measured_plan(plan: events.Plan, probed: ProbeResult, micro_batch: int) -> events.Plan:
    """The plan with the memory that the memory probe measured."""
    enabled = probed.checkpointing.setting if probed.checkpointing else plan.gradient_checkpointing
    return msgspec.structs.replace(
        plan,
        micro_batch=micro_batch,
        gradient_checkpointing=enabled,
        measured=probed.training,
        measured_evaluation=probed.evaluation,
        probe_seconds=round(probed.seconds, 3),
    )


def _callback(
    trainer: AnswerTrainer,
    evaluator: Evaluator,
    sampler: BatchSampler,
    disk: DiskWatch,
    log: RunLog,
) -> Callback:
    """Log steps and checkpoints, save checkpoints and measure the validation loss."""
    settings = evaluator.config.train
    validation = sampled_by_rows(evaluator.validation, ROWS_DURING_TRAINING)
    if not validation and trainer.selection != LAST_WEIGHTS:
        key = "train.select" if trainer.selection.best else "train.patience"
        problem, hint = "no validation rows", f"give some with data.validation, or remove {key}"
        raise UserError(problem, evaluator.config.data.id, hint, code="run.no_validation_rows")

    def halved(micro_batch: int) -> None:
        unchanged = f"the effective batch size stays {settings.batch}"
        text = f"out of memory: continuing with micro-batch {micro_batch}; {unchanged}"
        log.warn("memory.micro_batch_reduced", text)
        log.write(events.MicroBatchReduced(micro_batch=micro_batch))

    def saved(checkpoint: checkpoints.SavedCheckpoint) -> None:
        log.last_checkpoint = path = f"checkpoints/{checkpoint.folder.name}"
        bytes_, seconds, blocked = checkpoint.bytes, checkpoint.seconds, checkpoint.blocked
        log.write(events.Checkpoint(step=checkpoint.step, path=path, bytes=bytes_, seconds=seconds, blocked=blocked))
        disk.saved(bytes_)

    def on_step(step: int, facts: StepFacts, rate: float) -> None:
        log.step, log.has_trained = step, True
        disk.step()
        log.write(
            events.Step(
                step=step,
                steps=sampler.steps,
                epoch=step / sampler.per_epoch,
                loss=facts.loss,
                learning_rate=rate,
                grad_norm=facts.grad_norm,
                tokens=facts.tokens,
                computed_tokens=facts.computed_tokens,
                answer_tokens=facts.answer_tokens,
                tokens_per_second=facts.tokens / max(facts.seconds, 1e-9),
                seconds=facts.seconds,
            )
        )

    def evaluate(step: int) -> float:
        with uncompiled(trainer.model):
            started, rows = time.monotonic(), len(validation)
            loss = evaluator.loss(trainer.model, validation)
            seconds = time.monotonic() - started
            log.write(events.Eval(when="during", split="validation", step=step, rows=rows, loss=loss, seconds=seconds))
            for item, prompt, answer in evaluator.learning_answers(trainer.model):
                log.write(sample_event("during", item, prompt, answer, step=step))
        return loss

    trainer.hooks.halved, trainer.hooks.saved = halved, saved
    return Callback(
        trainer,
        on_step,
        should_stop=lambda: log.stopping.requested,
        evaluate=evaluate,
        evaluate_every=(settings.evaluate_every or max(1, sampler.steps // 4)) if validation else 0,
        due=checkpoints.SaveTimer(settings.checkpoint_every, sampler.steps),
    )


def compile_by_training(trainer: AnswerTrainer, rows: Sequence[Row]) -> Compiled:
    """Compile by computing the gradients of one or two rows, without a step.

    Raises UserError if the compiler fails.
    """
    started = time.monotonic()
    with preserved_random_state():
        layers = compile_layers(trainer.model)
        trainer.model.train()
        # Two rows if micro-batches have more than one: torch.compile makes another graph for a dimension of size 1.
        used = list(rows[: min(2, trainer.micro_batch)])
        trainer.forward_backward(trainer.model, used, sum(map(loss_weight, used)))
        trainer.model.zero_grad(set_to_none=True)
    return Compiled(layers=layers, seconds=round(time.monotonic() - started, 3))
