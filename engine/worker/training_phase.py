"""The training phase of a run: resume point, optimizer, trainer, compilation, validation during training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from engine.config.activation_checkpointing import ActivationCheckpointing, resolve_checkpointing
from engine.config.errors import UserError
from engine.data.items import sampled_by_rows
from engine.data.rows import Row
from engine.memory.dry_run.run_estimates import RunEstimates
from engine.memory.formula.checkpoint_size import copies_checkpoints
from engine.memory.probe import available_for_copy, available_memory, preserved_random_state
from engine.methods.optimizers import make_optimizer, paged_bytes
from engine.runs.run import events
from engine.runs.run.events import Compiled
from engine.runs.stopping import StopRequested
from engine.training import checkpoints
from engine.training.batches import BatchSampler, loss_weight
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
from engine.training.sharding import LocalShards
from engine.training.trainer import AnswerTrainer, Callback, Hooks, StepFacts, training_arguments
from engine.worker.evaluator import Evaluator
from engine.worker.memory_planning import estimate_training, probe, reconcile_probes
from engine.worker.model_loading import refuse_small_slot
from engine.worker.run_context import RunContext

ROWS_DURING_TRAINING = 128
"""Maximum number of validation rows for the loss during training: enough for a curve without slowing training down."""


def train(run: RunContext, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, evaluator: Evaluator) -> None:
    """Train from step 0 or from the latest complete checkpoint. Raises StopRequested after a stop request."""
    settings = run.config.train
    sampler = BatchSampler.of(len(evaluator.rows.train), settings.batch, settings.epochs, settings.steps, settings.seed)
    selection = WeightSelection.of(settings)
    resume = run.ranks.broadcast(lambda: _resume_point(run, selection))
    start = resume.step if resume else 0
    losses = losses_of_checkpoint(resume.folder) if resume else []
    estimates, batches = estimate_training(run, model, evaluator, sampler, start, resume)
    if run.machine.device == "cuda" and run.meters.slots > 1:
        refuse_small_slot(estimates, available_memory(run.meters), run.config.hardware.device)
    shards = LocalShards(model)
    optimizer, optimizer_name = make_optimizer(shards, estimates.config, run.machine, run.warn)
    shards.attach(optimizer)
    run.log_model(model, optimizer_name)
    checkpointing = resolve_checkpointing(estimates.config.train.gradient_checkpointing, run.machine.device)
    hooks = Hooks(halved=run.log_micro_batch, saved=run.log_checkpoint)
    trainer = _trainer(run, model, tokenizer, evaluator, sampler, estimates, checkpointing, hooks, optimizer, shards)
    plan = run.log_plan(_plan(run, evaluator, sampler, start, estimates, checkpointing), estimates)
    callback = _callback(run, trainer, evaluator, sampler)
    trainer.add_callback(callback)

    def prepared() -> None:
        if settings.compile:
            run.log.write(compile_by_training(trainer, batches.step))
        if settings.probe:
            probed = probe(run, trainer, optimizer, batches, evaluator, estimates)
            probed = reconcile_probes(run, trainer, probed)
            run.log_probe(plan, probed, trainer.micro_batch)
        run.meters.training_begins()

    hooks.prepared = prepared
    if resume and (resume.step >= sampler.steps or selection.ends(losses)):
        trainer._load_from_checkpoint(str(resume.folder))  # killed after the last step: evaluation and saving remain
    else:
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
        losses = validation_losses(trainer.state.log_history)
    run.meters.training_ends(paged_bytes(optimizer) or None)
    trainer.end_autocast()
    if settings.compile:
        remove_compiled(trainer.model)
    if callback.stopped:
        raise StopRequested
    _select(run, trainer, losses, sampler.steps)


def _select(run: RunContext, trainer: AnswerTrainer, losses: Losses, steps: int) -> None:
    """Load the selected weights, and log which they are. `losses`: of all validations; `steps`: of the plan."""
    selection = trainer.selection
    if selection == LAST_WEIGHTS:
        return
    step = trainer.load_best(losses)
    if selection.best and step is None:
        run.warn("train.no_finite_validation", "no validation loss is finite: the weights of the last step are kept")
    kept = run.step if step is None else step
    loss = dict(losses).get(kept)
    run.log.write(events.Selected(step=kept, loss=loss, steps=run.step, early=run.step < steps))


def _plan(
    run: RunContext,
    evaluator: Evaluator,
    sampler: BatchSampler,
    start: int,
    estimates: RunEstimates,
    checkpointing: ActivationCheckpointing,
) -> events.Plan:
    return events.Plan(
        steps=sampler.steps,
        start_step=start,
        batch=run.config.train.batch,
        micro_batch=estimates.micro_batch,
        packing=evaluator.packing.mode,
        **_sharing(run, evaluator),
        gradient_checkpointing=checkpointing.setting,
        devices=run.ranks.size,
        sharded=run.is_sharded,
    )


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
    sampler: BatchSampler,
    estimates: RunEstimates,
    checkpointing: ActivationCheckpointing,
    hooks: Hooks,
    optimizer: torch.optim.Optimizer,
    shards: LocalShards,
) -> AnswerTrainer:
    config, device = run.config, run.machine.device
    return AnswerTrainer(
        rows=evaluator.rows.train,
        sampler=sampler,
        packing=evaluator.packing,
        micro_batch=estimates.micro_batch,
        checkpoint_folder=run.dir.checkpoints,
        keep_checkpoints=config.train.keep_checkpoints,
        host_copy=HostCopy(available_for_copy, run.warn) if _copies(run) else None,
        tokenizer=tokenizer,
        hooks=hooks,
        ranks=run.ranks,
        shards=shards,
        model=model,
        selection=WeightSelection.of(config.train),
        args=training_arguments(config, sampler, run.dir.path, device, checkpointing),
        optimizers=(optimizer, None),
    )


def _copies(run: RunContext) -> bool:
    """Whether this rank copies checkpoints to host memory, to write them while training continues."""
    return run.ranks.is_first and copies_checkpoints(run.config, run.machine.device)


def _callback(run: RunContext, trainer: AnswerTrainer, evaluator: Evaluator, sampler: BatchSampler) -> Callback:
    """Log steps, save checkpoints and measure the validation loss."""
    settings = run.config.train
    validation = sampled_by_rows(evaluator.validation, ROWS_DURING_TRAINING)
    if not validation and trainer.selection != LAST_WEIGHTS:
        key = "train.select" if trainer.selection.best else "train.patience"
        what, do = "no validation rows", f"give some with data.validation, or remove {key}"
        raise UserError(what, run.config.data.id, do, code="run.no_validation_rows")

    def on_step(step: int, facts: StepFacts, rate: float) -> None:
        run.log_step(step, facts, rate, sampler)

    def evaluate(step: int) -> float:
        with uncompiled(trainer.model):
            started = time.monotonic()
            loss = evaluator.loss(trainer.model, validation)
            run.log_validation(step, len(validation), loss, time.monotonic() - started)
            run.log_answers(step, evaluator.learning_answers(trainer.model))
        return loss

    return Callback(
        trainer.hooks,
        trainer,
        on_step,
        should_stop=lambda: run.stopping.requested,
        evaluate=evaluate,
        evaluate_every=(settings.evaluate_every or max(1, sampler.steps // 4)) if validation else 0,
        due=checkpoints.SaveTimer(settings.checkpoint_every, sampler.steps),
    )


def _resume_point(run: RunContext, selection: WeightSelection) -> checkpoints.SavedCheckpoint | None:
    """The latest complete checkpoint, None for a new run; warns of each incomplete one, which is skipped.

    One without the checkpoint of the best weights so far is incomplete.
    """
    if not run.dir.checkpoints.exists():
        return None
    checkpoints.clear_unfinished(run.dir.checkpoints)
    latest, problems = checkpoints.latest_complete(
        run.dir.checkpoints, lambda folder: unloadable(folder) or _missing_best(folder, selection)
    )
    for problem in problems:
        start = f"training resumes from {latest.folder.name}" if latest else "training starts from step 0"
        run.warn("checkpoint.incomplete", f"{problem}; {start}")
    run.last_checkpoint = f"checkpoints/{latest.folder.name}" if latest else ""
    return latest


def _missing_best(checkpoint: Path, selection: WeightSelection) -> str | None:
    """What is wrong with the checkpoint of the best weights until another checkpoint, None if nothing is."""
    step = selection.best_step(losses_of_checkpoint(checkpoint))
    best = checkpoint if step is None else checkpoint.with_name(f"{checkpoints.PREFIX}{step}")
    problem = None if best == checkpoint else checkpoints.problem_with(best) or unloadable(best)
    return f"{best.name}, which has the best weights until then: {problem}" if problem else None


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
