"""Memory of a run's training: predicted before the optimizer is made, then measured with the longest batch."""

from __future__ import annotations

import torch

from engine.config import schema
from engine.config.activation_checkpointing import (
    ActivationCheckpointing,
    memory_saved_order,
    resolve_checkpointing,
    stronger_than,
)
from engine.config.automatic_optimizer import automatic_on_resume
from engine.config.method_specs import method_spec
from engine.config.preset import with_settings
from engine.evaluation.score import vocabulary_of
from engine.memory.dry_run.data_rows import with_packing
from engine.memory.dry_run.run_estimates import RunEstimates, estimate_run
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_held_out, longest_step
from engine.memory.probe import Probe, ProbeResult, available_memory
from engine.methods.model_source import config_of
from engine.training import checkpoints
from engine.training.batches import BatchSampler
from engine.training.compilation import uncompiled
from engine.training.loss import supports_logits_to_keep
from engine.training.trainer import AnswerTrainer, enable_checkpointing
from engine.worker.evaluator import Evaluator
from engine.worker.run_context import RunContext


def estimate_training(
    run: RunContext,
    model: torch.nn.Module,
    evaluator: Evaluator,
    sampler: BatchSampler,
    start: int,
    resume: checkpoints.SavedCheckpoint | None,
) -> tuple[RunEstimates, WorstCaseBatches]:
    """Predicted memory of the run's largest batches, with the settings that `auto` means for it."""
    config = _with_saved_state(_with_shardable_optimizer(run), run, resume)
    micro_batch = _micro_batch(run, resume)
    batches = _worst_case_batches(run, model, evaluator, sampler, start, micro_batch)
    limit = min(run.ranks.all_gather(available_memory(run.meters))) if run.machine.device == "cuda" else None
    if micro_batch != config.train.batch:  # configured, or found by the process that is resumed
        config = with_settings(config, {"train.micro_batch": micro_batch})
    config = with_packing(config, run.machine, evaluator.packing)
    model_config = config_of(config.model)
    return estimate_run(config, model_config, run.machine, batches, micro_batch, run.warn, limit), batches


def _micro_batch(run: RunContext, resume: checkpoints.SavedCheckpoint | None) -> int:
    """The initial micro-batch size: the setting, else the size the resumed run ended with, else the batch size."""
    setting, batch = run.config.train.micro_batch, run.config.train.batch
    if setting != "auto":
        return min(setting, run.earlier.reduced_to or setting)
    return (run.earlier.micro_batch if resume else run.earlier.reduced_to) or batch


def _with_saved_state(
    config: schema.Config, run: RunContext, resume: checkpoints.SavedCheckpoint | None
) -> schema.Config:
    """The configuration with the automatic optimizer whose state the checkpoint has."""
    if config.optimizer.name != "auto" or not resume:
        return config
    name = automatic_on_resume(run.machine.device, run.earlier.optimizer)
    return with_settings(config, {"optimizer.name": name})


def _with_shardable_optimizer(run: RunContext) -> schema.Config:
    """The configuration with an optimizer whose state can be sharded across the ranks of a sharded model."""
    config = run.config
    if not run.is_sharded:
        return config
    config = with_settings(config, {"train.parallelism": "fsdp"})
    if method_spec(config.method).trains_weights and config.optimizer.name != "adamw":
        if config.optimizer.name != "auto":
            text = (
                f"optimizer.name = {config.optimizer.name}: 8-bit state cannot be sharded across devices: using adamw"
            )
            run.warn("optimizer.not_sharded", text)
        config = with_settings(config, {"optimizer.name": "adamw"})
    return config


def _worst_case_batches(
    run: RunContext, model: torch.nn.Module, evaluator: Evaluator, sampler: BatchSampler, start: int, micro_batch: int
) -> WorstCaseBatches:
    """The longest training step, held-out batch and prompts of this run."""
    rows, packing, device = evaluator.rows.train, evaluator.packing, run.machine.device
    first = min(start, sampler.steps - 1)
    return WorstCaseBatches(
        packing=packing,
        step=longest_step(rows, sampler, first, micro_batch, packing, run.ranks.size),
        held_out=longest_held_out(
            evaluator.loss_rows, packing, device, vocabulary_of(model), supports_logits_to_keep(model)
        ),
        prompts=[item.row.prompt for item in evaluator.test] if evaluator.scores_test else [],
        choice=int(rows.answer_tokens.max()),
        pad=evaluator.tokenizer.pad_token_id,
    )


def probe(
    run: RunContext,
    trainer: AnswerTrainer,
    optimizer: torch.optim.Optimizer,
    batches: WorstCaseBatches,
    evaluator: Evaluator,
    estimates: RunEstimates,
) -> ProbeResult:
    """Run the longest training batch; on a GPU also the largest evaluation batch, which on a CPU is only predicted."""
    on_gpu = run.machine.device == "cuda"
    if not on_gpu and evaluator.scores_test:
        limit = min(run.ranks.all_gather(available_memory(run.meters)))
        evaluator.scorer.shrink(lambda batch: estimates.answering_fits(batch, limit))

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
        fits=None if on_gpu else estimates.training_fits,
        warn=run.warn,
        stronger=_stronger(run, estimates),
    ).run()


def reconcile_probes(run: RunContext, trainer: AnswerTrainer, probed: ProbeResult) -> ProbeResult:
    """What fits on every rank: the smallest micro-batch size, the strongest checkpointing; the peaks are the highest.

    All ranks probe the same batches, but their GPUs may differ, or others may use one of them.
    """
    found = run.ranks.all_gather((trainer.micro_batch, probed))
    trainer.micro_batch = min(micro_batch for micro_batch, _ in found)
    enabled = [one.checkpointing for _, one in found if one.checkpointing]
    strongest = max(enabled, key=memory_saved_order, default=None)
    if strongest is not None and strongest != probed.checkpointing:
        enable_checkpointing(trainer.model, strongest)
    evaluation = max((one.evaluation for _, one in found if one.evaluation is not None), default=None)
    return ProbeResult(max(one.training for _, one in found), evaluation, probed.seconds, strongest)


def _plan_chooses(run: RunContext) -> bool:
    """Whether activation checkpointing is chosen by what fits."""
    return run.machine.device == "cuda" and run.config.train.gradient_checkpointing == "auto"


def _stronger(run: RunContext, estimates: RunEstimates) -> list[ActivationCheckpointing]:
    """What the memory probe may enable if the choice of the plan does not fit."""
    if not _plan_chooses(run):
        return []
    return stronger_than(resolve_checkpointing(estimates.config.train.gradient_checkpointing, "cuda"))
