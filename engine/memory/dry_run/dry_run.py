"""Predict the peak memory of training, held-out loss and generation from shapes: needs no weights and no GPU.

The real model class, adapters, batches, loss, optimizer and gradient clipping run on fake tensors, which have a shape,
a dtype and a storage size but no values, while `memory_tracker` counts live tensors. Only a few of many identical
decoder layers run (`layer_extrapolation`). Batches are padded to a multiple of 64 as on the CPU, also for a GPU: up to
63 tokens more than there.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from engine.config import schema
from engine.config.activation_checkpointing import ActivationCheckpointing, resolve_checkpointing
from engine.config.batch_limits import mixing_reason
from engine.config.errors import UserError
from engine.config.method_specs import uses_autocast
from engine.memory.dry_run.activation_checkpointing import checkpoint_layers
from engine.memory.dry_run.fake_model import bare_model, trainable, without_flash_attention
from engine.memory.dry_run.layer_extrapolation import (
    DEEPER_PERIODS,
    SHALLOW_PERIODS,
    DryRunPeaks,
    LayerPattern,
    extrapolate,
    layer_pattern,
    shallow,
    tracking_layers,
)
from engine.memory.dry_run.memory_tracker import MemoryTracker
from engine.memory.dry_run.stages import (
    ANSWERING,
    HELD_OUT,
    TRAINING,
    allocate_weights,
    create_optimizer,
    enable_autocast,
    generate,
    held_out_loss,
    training_step,
)
from engine.memory.dry_run.step_tensors import StepTensors, synthetic_tensors
from engine.memory.formula.allocator import with_pool
from engine.memory.formula.checkpoint_size import with_copy
from engine.memory.formula.estimate import PARTS, MemoryEstimate, PeakMemory, StepShape
from engine.methods.machine import Machine, kernels_of
from engine.methods.weights import weights_of
from engine.training import varlen_attention
from engine.training.varlen_attention import unsupported_reason

NO_DRY_RUN = "plan.no_dry_run"
"""Code of the error for a model whose memory a dry run cannot predict, but which can be trained."""
DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)


def dry_run(
    config: schema.Config, model_config: Any, machine: Machine, rows: StepShape, work: StepTensors | None = None
) -> MemoryEstimate:
    """Predict the memory of `config` on `machine`, which need not be this one, for steps of `rows`, or for the batches
    of `work` if known.

    `model_config`: transformers' configuration of the model. Raises UserError if the model cannot be built, or if its
    memory depends on values of tensors.
    """
    without = without_flash_attention(config)
    model = bare_model(without, model_config, replace(machine, flash_attention=False))
    vocabulary = model_config.get_text_config().vocab_size
    segments = not unsupported_reason(model, rows.length)
    mixed = bool(mixing_reason(model_config.to_dict()))
    work = work or synthetic_tensors(config, machine, rows, vocabulary, segments, mixed)
    if work.packing.segments:
        varlen_attention.enable(model)
    pattern = layer_pattern(model, _checkpointing(config, machine))
    try:
        peaks = _peaks(model, pattern, work, without, machine, vocabulary)
    except DATA_DEPENDENT as error:
        what = f"no dry run: the memory of {type(model).__name__} depends on tensor values ({error})"
        do = "use the formula (--quick), or run a few steps on the machine itself"
        raise UserError(what, config.model.id, do, code=NO_DRY_RUN) from error
    return with_copy(_estimate(peaks, config, machine, rows, work), config)


def _peaks(
    model: Any,
    pattern: LayerPattern | None,
    work: StepTensors,
    config: schema.Config,
    machine: Machine,
    vocabulary: int,
) -> DryRunPeaks:
    """Peaks of the complete model, extrapolated from two shallow models if its layers are identical."""

    def peaks_of(bare: Any) -> DryRunPeaks:
        return _run(trainable(bare, config, machine), pattern, work, config, machine, vocabulary)

    if pattern is not None:
        few, more = (peaks_of(shallow(model, pattern, periods)) for periods in (SHALLOW_PERIODS, DEEPER_PERIODS))
        found = extrapolate(few, more, pattern.periods)
        if found is not None:
            return found
    return peaks_of(model)


def _run(
    model: torch.nn.Module,
    pattern: LayerPattern | None,
    work: StepTensors,
    config: schema.Config,
    machine: Machine,
    vocabulary: int,
) -> DryRunPeaks:
    """One dry run of a model on the meta device, whose tensors are replaced by fake ones."""
    checkpoint_layers(model, _checkpointing(config, machine))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parameters = sum(weight.shape.numel() for weight in weights_of(model))
    if uses_autocast(config.method, config.train.precision):
        enable_autocast(model)
    tracker = MemoryTracker(machine.device, vocabulary, machine.bf16)
    work = copy.deepcopy(work)  # segments keep index tensors that the first run creates: every run has to count them
    with (
        tracking_layers(model, pattern, tracker),
        FakeTensorMode(allow_non_fake_inputs=True),
        tracker,
        kernels_of(machine.device),
    ):
        allocate_weights(model, tracker)
        optimizer = create_optimizer(model, config, machine, tracker)
        static = tracker.total
        training_step(model, optimizer, work.batches, config, tracker)
        held_out_loss(model, work.held_out, tracker)
        if work.answers:
            generate(model, work.answers, tracker)
    return DryRunPeaks(static, tracker.moments, parameters, trained)


def _estimate(
    seen: DryRunPeaks, config: schema.Config, machine: Machine, rows: StepShape, work: StepTensors
) -> MemoryEstimate:
    held_out, answering = _peak(seen, machine, HELD_OUT), _peak(seen, machine, ANSWERING)
    return MemoryEstimate(
        tier="dry run",
        devices=config.train.devices,
        method=config.method,
        device=machine.device,
        rows=rows,
        micro_batch=work.micro_batch,
        packing=work.packing.mode,
        gradient_checkpointing=_checkpointing(config, machine).setting,
        static=seen.static,
        training=_peak(seen, machine, TRAINING),
        evaluation=max(held_out, answering, key=lambda peak: peak.total),
        held_out=held_out,
        answering=answering if answering.total else None,
        parameters=seen.parameters,
        trainable=seen.trainable,
        paged=machine.paging and config.optimizer.name.startswith("paged"),
    )


def _peak(seen: DryRunPeaks, machine: Machine, stage: str) -> PeakMemory:
    found = seen.peak(stage)
    parts = {part: found[part] for part in PARTS if found.get(part)}
    return (
        with_pool(PeakMemory(total=sum(parts.values()), parts=parts), machine.device) if parts else PeakMemory(total=0)
    )


def _checkpointing(config: schema.Config, machine: Machine) -> ActivationCheckpointing:
    return resolve_checkpointing(config.train.gradient_checkpointing, machine.device)
