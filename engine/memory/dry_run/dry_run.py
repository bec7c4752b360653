"""Predict the peak memory of training, held-out loss and generation from shapes: needs no weights and no GPU.

The real model class, adapters, batches, loss, optimizer and gradient clipping run on fake tensors, which have a shape,
a dtype and a storage size but no values, while `memory_tracker` counts live tensors. Only a few of many identical
decoder layers run (`layer_extrapolation`). Batches are padded to a multiple of 64 as on the CPU, also for a GPU: up to
63 tokens more than there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils.checkpoint import checkpoint

from engine.config import schema
from engine.config.device_defaults import ActivationCheckpointing, resolve_checkpointing
from engine.config.errors import UserError
from engine.config.method_specs import uses_autocast
from engine.config.model_config import mixing_reason
from engine.evaluation.worst_case import WorstCaseAnswers, run_worst_case
from engine.memory.dry_run.fake_model import allocate, bare_model, trainable, without_flash_attention
from engine.memory.dry_run.layer_extrapolation import (
    DEEPER_PERIODS,
    SHALLOW_PERIODS,
    DryRunPeaks,
    LayerPattern,
    blocks_of,
    extrapolate,
    layer_pattern,
    shallow,
    tracking_layers,
)
from engine.memory.dry_run.memory_tracker import MemoryTracker
from engine.memory.dry_run.worst_case_batches import StepTensors, WorstCaseBatches, synthetic_batches
from engine.memory.formula.estimate import PARTS, MemoryEstimate, PeakMemory, StepShape, with_pool
from engine.memory.formula.weights_and_state import with_copy
from engine.methods.machine import Machine, compute_dtype, kernels_of
from engine.methods.optimizers import make_unpaged
from engine.methods.weights import adapter_parameters, weights_of
from engine.training import loss as loss_module
from engine.training import varlen_attention
from engine.training.batches import MicroBatch
from engine.training.loss import answer_nll, summed_loss, supports_logits_to_keep
from engine.training.trainer import enable_checkpointing
from engine.training.varlen_attention import unsupported_reason

NO_DRY_RUN = "plan.no_dry_run"
"""Code of the error for a model whose memory a dry run cannot predict, but which can be trained."""
NO_DRY_RUN_HINT = "use the formula (--quick), or run a few steps on the machine itself"
MAX_OPERATIONS = 100_000
"""Operations on fake tensors that a dry run may take, each about 0.4 ms of CPU time: gpt-oss-20b takes 12,000, Gemma 4
E4B 66,000, as its layers do not repeat. Layers that mix tokens in a loop, as linear attention in PyTorch, take more.
"""
LAYER_PASSES = 6
"""Forward passes that a layer takes in all: training with recomputation and backward pass, held-out loss, prompts."""
DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)


def dry_run(
    config: schema.Config,
    model_config: Any,
    machine: Machine,
    rows: StepShape,
    batches: WorstCaseBatches | None = None,
) -> MemoryEstimate:
    """Predict the memory of `config` on `machine`, which need not be this one, for steps of `rows`, or for `batches`
    if they are known.

    `model_config`: transformers' configuration of the model. Raises UserError if the model cannot be built, if its
    memory depends on values of tensors, or if its layers would take more than MAX_OPERATIONS.
    """
    without = without_flash_attention(config)
    model = bare_model(without, model_config, replace(machine, flash_attention=False))
    vocabulary = model_config.get_text_config().vocab_size
    segments = not unsupported_reason(model, rows.length, machine, compute_dtype(config, machine))
    mixed = bool(mixing_reason(model_config.to_dict()))
    batches = batches or synthetic_batches(config, machine, rows, vocabulary, segments, mixed)
    setting = config.train.micro_batch
    work = batches.work(config, rows.count if setting == "auto" else setting, machine.device)
    if work.packing.segments:
        varlen_attention.enable(model)
    pattern = layer_pattern(model, _checkpointing(config, machine))
    try:
        peaks = _peaks(model, pattern, work, without, machine, vocabulary)
    except DATA_DEPENDENT as error:
        problem = f"no dry run: the memory of {type(model).__name__} depends on tensor values ({error})"
        raise UserError(problem, config.model.id, NO_DRY_RUN_HINT, code=NO_DRY_RUN) from error
    except TooSlowError as error:
        problem = f"no dry run: {type(model).__name__} would take more than {MAX_OPERATIONS:,} small operations"
        raise UserError(problem, config.model.id, NO_DRY_RUN_HINT, code=NO_DRY_RUN) from error
    return with_copy(_estimate(peaks, config, machine, rows, work), config)


class TooSlowError(Exception):
    """A dry run would take more than MAX_OPERATIONS."""


@contextmanager
def _limited(model: torch.nn.Module, pattern: LayerPattern | None, tracker: MemoryTracker) -> Iterator[None]:
    """Context that raises TooSlowError once the operations of some layers show that all of them take too many."""
    blocks = blocks_of(model)
    if blocks is None:
        yield
        return
    both = (SHALLOW_PERIODS, DEEPER_PERIODS)
    count = len(blocks) if pattern is None else sum(map(pattern.with_periods, both))
    before: list[int] = []
    """Operations before each layer that ran."""

    def entered(block: torch.nn.Module, inputs: Any) -> None:
        before.append(tracker.operations)
        done = len(before) - 1
        if 0 < done < len(blocks):
            expected = (before[-1] - before[0]) * count * LAYER_PASSES // done
            if expected > MAX_OPERATIONS:
                raise TooSlowError

    handles = [block.register_forward_pre_hook(entered) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
        peaks = extrapolate(few, more, pattern.periods)
        if peaks is not None:
            return peaks
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
        _limited(model, pattern, tracker),
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
    bytes_by_part = seen.peak(stage)
    parts = {part: bytes_by_part[part] for part in PARTS if bytes_by_part.get(part)}
    return (
        with_pool(PeakMemory(total=sum(parts.values()), parts=parts), machine.device) if parts else PeakMemory(total=0)
    )


def _checkpointing(config: schema.Config, machine: Machine) -> ActivationCheckpointing:
    return resolve_checkpointing(config.train.gradient_checkpointing, machine.device)


TRAINING, HELD_OUT, ANSWERING = "training", "held out", "answering"
"""Prefixes of the names of stages."""


def allocate_weights(model: torch.nn.Module, tracker: MemoryTracker) -> None:
    """Allocate the weights, and attribute trained parameters and gradients to their parts."""
    with tracker.attributing("weights"):
        allocate(model)
    adapters = adapter_parameters(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        if id(parameter) in adapters:
            tracker.attribute(parameter, "adapters")
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(lambda parameter: tracker.attribute(parameter.grad, "gradients"))


def create_optimizer(
    model: torch.nn.Module, config: schema.Config, machine: Machine, tracker: MemoryTracker
) -> torch.optim.Optimizer:
    """The run's optimizer after a first step, which creates its state."""
    optimizer = make_unpaged(model.parameters(), config, machine)
    _give_gradients(model, tracker)
    with tracker.attributing("optimizer"):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def _give_gradients(model: torch.nn.Module, tracker: MemoryTracker) -> None:
    """Allocate the gradients of an earlier micro-batch of the same step."""
    with tracker.attributing("gradients"):
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)


def training_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[MicroBatch],
    config: schema.Config,
    tracker: MemoryTracker,
) -> None:
    """A training step in the middle of a run. Of identical micro-batches only one runs, with gradients allocated."""
    model.train()
    answers_only = supports_logits_to_keep(model)
    sizes = [(batch.tokens, batch.targets.shape) for batch in batches]
    equal = len(batches) > 1 and sizes[0] == sizes[1]
    for number, batch in enumerate(batches[:1] if equal else batches):
        tracker.stage = f"{TRAINING} {number}"
        tracker.begin("embedding")
        if equal or number:
            _give_gradients(model, tracker)
        with _few_portions():
            loss = summed_loss(model, batch, answers_only)
            tracker.begin("loss")
            tracker.in_backward = True
            loss.backward()
            tracker.in_backward = False
        del loss
    tracker.stage = TRAINING
    tracker.begin("update")
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.max_grad_norm or float("inf"))
    with tracker.attributing("optimizer"):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    tracker.end()


@contextmanager
def _few_portions() -> Iterator[None]:
    """Context in which the loss computes only 3 chunks of logits: later chunks need the same memory as the third."""
    original = loss_module.logit_chunks

    def few(rows: int, vocabulary: int, device: str) -> list[slice]:
        return original(rows, vocabulary, device)[:3]

    with mock.patch.object(loss_module, "logit_chunks", few):
        yield


@torch.inference_mode()
def held_out_loss(model: torch.nn.Module, batch: MicroBatch, tracker: MemoryTracker) -> None:
    """The held-out loss of one batch as in `evaluation.score`, with only the first three of its equal logit chunks."""
    model.eval()
    tracker.stage = HELD_OUT
    tracker.begin("embedding")
    with _few_portions():
        answer_nll(model, batch, supports_logits_to_keep(model))
    tracker.end()


def generate(model: torch.nn.Module, answers: WorstCaseAnswers, tracker: MemoryTracker) -> None:
    """Generation at its peak; tensors are on the CPU, decoder and prefill batches are those of the planned device."""

    def begin(moment: str) -> None:
        tracker.stage = f"{ANSWERING}, {moment}"
        tracker.begin("cache")

    run_worst_case(model, answers, 0, "cpu", planned=tracker.device, begin=begin)
    tracker.end()


def enable_autocast(model: torch.nn.Module) -> None:
    """Mixed precision as accelerate sets it up: bf16 autocast over float32 weights, with float32 outputs."""
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))


class _OnHost(NamedTuple):
    """Shape of a tensor that was copied to host memory."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


def checkpoint_layers(model: Any, checkpointing: ActivationCheckpointing) -> None:
    """Let layers recompute their activations as in training; offloaded tensors need no memory until the backward pass.

    transformers' offloading copies from the GPU, but fake tensors are on the CPU, where a copy is no saving.
    """
    enable_checkpointing(model, checkpointing._replace(offload=False))
    if checkpointing.offload:
        for module in model.modules():
            if hasattr(module, "_gradient_checkpointing_func"):
                module._gradient_checkpointing_func = partial(_offloading, use_reentrant=False)


def _offloading(function: Any, *args: Any, **kwargs: Any) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(_to_host, _from_host):
        return checkpoint(function, *args, **kwargs)


def _to_host(tensor: torch.Tensor) -> _OnHost:
    return _OnHost(tensor.size(), tensor.stride(), tensor.dtype)


def _from_host(shape: _OnHost) -> torch.Tensor:
    return torch.empty_strided(shape.size, shape.stride, dtype=shape.dtype)
