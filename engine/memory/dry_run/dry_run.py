"""Predict the peak memory of training, held-out loss and generation from shapes: needs no weights and no GPU.

The real model class, adapters, batches, loss, optimizer and gradient clipping run on fake tensors, which have a shape,
a dtype and a storage size but no values, while `memory_tracker` counts live tensors. Batches are padded to a multiple
of 64 as on the CPU, also for a GPU: up to 63 tokens more than there.

Only a few of many identical decoder layers run, in two shallow models from which the deep one is extrapolated. At any
point of a step (the loss, the last layer's backward pass, the optimizer step …) the live bytes are affine in the number
of layers: each adds its weights, optimizer state and saved activations. The peak over all points is not, because
another point may have the peak in a deeper model; so each point is extrapolated separately. The first and last layers
are tracked separately from those between them: through identical layers memory rises or falls by the same amount per
layer, so its peak is at one of the ends.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from torch import inference_mode, no_grad
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
from torch.utils.checkpoint import checkpoint

from engine.config import schema
from engine.config.device_defaults import ActivationCheckpointing, resolve_checkpointing
from engine.config.errors import UserError
from engine.config.method_specs import steps_in_backward, uses_autocast
from engine.config.model_config import mixing_reason
from engine.evaluation.worst_case import WorstCaseAnswers, allocate_worst_case
from engine.memory.dry_run.fake_model import allocate, bare_model, trainable, without_flash_attention
from engine.memory.dry_run.layer_pattern import (
    DEEPER_PERIODS,
    SHALLOW_PERIODS,
    LayerPattern,
    decoder_layers,
    layer_pattern,
    shallow,
)
from engine.memory.dry_run.memory_tracker import DenseFakeTensorMode, MemoryTracker
from engine.memory.dry_run.worst_case_batches import StepTensors, WorstCaseBatches, synthetic_batches
from engine.memory.formula.estimate import (
    PARTS,
    Device,
    MemoryEstimate,
    PeakMemory,
    StepShape,
    with_pool,
    with_state_on_host,
)
from engine.memory.formula.weights_and_state import with_copy
from engine.methods.machine import Machine, compute_dtype, kernels_of
from engine.methods.model_source import vocabulary_size
from engine.methods.optimizers import make_unpaged
from engine.methods.weights import adapter_parameters, weights_of
from engine.training import loss as loss_module
from engine.training import varlen_attention
from engine.training.backward_step import BackwardStep
from engine.training.batches import MicroBatch
from engine.training.fit import enable_checkpointing
from engine.training.loss import answer_nll, summed_loss, supports_logits_to_keep
from engine.training.varlen_attention import unsupported_reason

NO_DRY_RUN = "plan.no_dry_run"
"""Code of the error for a model whose memory a dry run cannot predict, but which can be trained."""
NO_DRY_RUN_HINT = "use the formula (--quick), or run a few steps on the machine itself"
MAX_OPERATIONS = 100_000
"""Operations on fake tensors that a dry run may take, each about 0.25 ms of CPU time: gpt-oss-20b takes 12,000, Gemma 4
E4B 66,000, as its layers do not repeat. Layers that mix tokens in a loop, as linear attention in PyTorch, take more.
"""
LAYER_PASSES = 6
"""Forward passes that a layer takes in all: training with recomputation and backward pass, held-out loss, prompts."""
DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
FIRST, BETWEEN, LAST = "first layers", "layers between", "last layers"
TRAINING, HELD_OUT, ANSWERING = "training", "held out", "answering"
"""Prefixes of the names of stages."""


class TooSlowError(Exception):
    """A dry run would take more than MAX_OPERATIONS."""


@dataclass(frozen=True)
class DryRunPeaks:
    """Result of a dry run, or of two that are extrapolated to all layers: bytes, and numbers of parameters."""

    static: int
    moments: dict[str, dict[str, int]]
    parameters: int
    trainable: int

    def peak(self, stage: str, device: Device) -> PeakMemory:
        """The highest peak of the moments of a stage; of 0 bytes if there is none."""
        moments = (parts for name, parts in self.moments.items() if name.startswith(stage))
        highest = max(moments, key=lambda parts: sum(parts.values()), default={})
        parts = {part: highest[part] for part in PARTS if highest.get(part)}
        tensors = PeakMemory(total=sum(parts.values()), parts=parts)
        return with_pool(tensors, device) if parts else tensors


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
    vocabulary = vocabulary_size(model_config)
    segments = not unsupported_reason(model, rows.length, machine, compute_dtype(config, machine))
    mixed = bool(mixing_reason(model_config.to_dict()))
    batches = batches or synthetic_batches(config, machine, rows, vocabulary, segments, mixed)
    micro_batch = config.train.micro_batch
    work = batches.work(config, rows.count if micro_batch == "auto" else micro_batch, machine.device)
    if work.packing.segments:
        varlen_attention.enable(model)
    checkpointing = resolve_checkpointing(config.train.gradient_checkpointing, machine.device)
    pattern = layer_pattern(model, checkpointing)

    def peaks_of(bare: Any) -> DryRunPeaks:
        return _run(trainable(bare, without, machine), pattern, checkpointing, work, without, machine, vocabulary)

    try:
        peaks = None
        if pattern is not None:
            few, more = (peaks_of(shallow(model, pattern, periods)) for periods in (SHALLOW_PERIODS, DEEPER_PERIODS))
            peaks = _extrapolated(few, more, pattern.periods)
        peaks = peaks or peaks_of(model)
    except DATA_DEPENDENT as error:
        problem = f"no dry run: the memory of {type(model).__name__} depends on tensor values ({error})"
        raise UserError(problem, config.model.id, NO_DRY_RUN_HINT, code=NO_DRY_RUN) from error
    except TooSlowError as error:
        problem = f"no dry run: {type(model).__name__} would take more than {MAX_OPERATIONS:,} small operations"
        raise UserError(problem, config.model.id, NO_DRY_RUN_HINT, code=NO_DRY_RUN) from error
    held_out, answering = peaks.peak(HELD_OUT, machine.device), peaks.peak(ANSWERING, machine.device)
    estimate = MemoryEstimate(
        tier="dry run",
        devices=config.train.devices,
        method=config.method,
        device=machine.device,
        rows=rows,
        micro_batch=work.micro_batch,
        packing=work.packing.mode,
        gradient_checkpointing=checkpointing.setting,
        static=peaks.static,
        training=peaks.peak(TRAINING, machine.device),
        evaluation=max(held_out, answering, key=lambda peak: peak.total),
        held_out=held_out,
        answering=answering if answering.total else None,
        parameters=peaks.parameters,
        trainable=peaks.trainable,
        paged=machine.paging and config.optimizer.name.startswith("paged"),
    )
    estimate = with_state_on_host(estimate, config.optimizer.name, steps_in_backward(config))
    return with_copy(estimate, config)


def _run(
    model: torch.nn.Module,
    pattern: LayerPattern | None,
    checkpointing: ActivationCheckpointing,
    work: StepTensors,
    config: schema.Config,
    machine: Machine,
    vocabulary: int,
) -> DryRunPeaks:
    """One dry run of a model on the meta device, whose tensors are replaced by fake ones."""
    _enable_checkpointing(model, checkpointing)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parameters = sum(weight.shape.numel() for weight in weights_of(model))
    # A run evaluates in inference mode. There, torch decomposes operations on fake tensors in Python, which is slow:
    # `no_grad` is faster and allocates the same memory, except with autocast, which keeps the weights that it casts.
    if autocast := uses_autocast(config.method, config.train.precision):
        enable_autocast(model)
    tracker = MemoryTracker(machine.device, vocabulary, machine.bf16)
    # Segments keep index tensors that the first run creates: every run has to count them. Answers are not copied: they
    # have half a million token ids.
    work = copy.deepcopy(work, {id(work.answers): work.answers})
    with (
        _tracked_layers(model, pattern, tracker),
        DenseFakeTensorMode(),
        tracker,
        kernels_of(machine.device),
    ):
        _allocate_weights(model, tracker)
        optimizer = _optimizer_with_state(model, config, machine, tracker)
        static = tracker.total
        _training_step(model, optimizer, work.batches, config, tracker)
        with inference_mode() if autocast else no_grad():
            _held_out_loss(model, work.held_out, tracker)
            if work.answers:
                _answer_prompts(model, work.answers, tracker)
    return DryRunPeaks(static, tracker.moments, parameters, trained)


def _enable_checkpointing(model: torch.nn.Module, checkpointing: ActivationCheckpointing) -> None:
    # transformers' offloading copies from the GPU, but fake tensors are on the CPU, where a copy is no saving.
    enable_checkpointing(model, checkpointing._replace(offload=False))
    for module in model.modules() if checkpointing.offload else ():
        if hasattr(module, "_gradient_checkpointing_func"):
            module._gradient_checkpointing_func = partial(_offloading, use_reentrant=False)


def _allocate_weights(model: torch.nn.Module, tracker: MemoryTracker) -> None:
    """Give weights a storage; their memory and that of later gradients is attributed to parts."""
    with tracker.attributing("weights"):
        allocate(model)
    adapters = adapter_parameters(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            if id(parameter) in adapters:
                tracker.attribute(parameter, "adapters")
            parameter.register_post_accumulate_grad_hook(
                lambda parameter: tracker.attribute(parameter.grad, "gradients")
            )


def _optimizer_with_state(
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


def _training_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[MicroBatch],
    config: schema.Config,
    tracker: MemoryTracker,
) -> None:
    """A training step in the middle of a run. Of identical micro-batches only one runs, with gradients allocated."""
    model.train()
    answers_only = supports_logits_to_keep(model)

    def update() -> None:
        with tracker.attributing("optimizer"):
            optimizer.step()

    in_backward = steps_in_backward(config)
    updates = BackwardStep(model, update, config.train.max_grad_norm) if in_backward else nullcontext()
    sizes = [(batch.tokens, batch.targets.shape) for batch in batches]
    equal = len(batches) > 1 and sizes[0] == sizes[1]
    for number, batch in enumerate(batches[:1] if equal else batches):
        tracker.stage = f"{TRAINING} {number}"
        tracker.begin("embedding")
        if equal or number:
            _give_gradients(model, tracker)
        with _few_chunks():
            loss = summed_loss(model, batch, answers_only)
            tracker.begin("loss")
            tracker.in_backward = True
            with updates:
                loss.backward()
            tracker.in_backward = False
        del loss
    tracker.stage = TRAINING
    tracker.begin("update")
    if not in_backward:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.max_grad_norm or float("inf"))
        update()
    optimizer.zero_grad(set_to_none=True)
    tracker.end()


def _held_out_loss(model: torch.nn.Module, batch: MicroBatch, tracker: MemoryTracker) -> None:
    """The held-out loss of one batch as in `evaluation.score`."""
    model.eval()
    tracker.stage = HELD_OUT
    tracker.begin("embedding")
    with _few_chunks():
        answer_nll(model, batch, supports_logits_to_keep(model))
    tracker.end()


def _answer_prompts(model: torch.nn.Module, answers: WorstCaseAnswers, tracker: MemoryTracker) -> None:
    """The largest answers. Tensors are on the CPU, decoder and prefill batches are those of the planned device."""

    def begin(moment: str) -> None:
        tracker.stage = f"{ANSWERING}, {moment}"
        tracker.begin("cache")

    allocate_worst_case(model, answers, 0, "cpu", planned=tracker.device, begin=begin)
    tracker.end()


@contextmanager
def _few_chunks() -> Iterator[None]:
    """Context in which the loss computes only 3 chunks of logits: later chunks need the same memory as the third."""
    original = loss_module.logit_chunks

    def few(rows: int, vocabulary: int, device: str) -> list[slice]:
        return original(rows, vocabulary, device)[:3]

    with mock.patch.object(loss_module, "logit_chunks", few):
        yield


def enable_autocast(model: torch.nn.Module) -> None:
    """Mixed precision as accelerate sets it up: bf16 autocast over float32 weights, with float32 outputs."""
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))


class _OnHost(NamedTuple):
    """Shape of a tensor that was copied to host memory."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


def _offloading(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Activation checkpointing whose inputs need no memory until the backward pass."""

    def to_host(tensor: torch.Tensor) -> _OnHost:
        return _OnHost(tensor.size(), tensor.stride(), tensor.dtype)

    def from_host(shape: _OnHost) -> torch.Tensor:
        return torch.empty_strided(shape.size, shape.stride, dtype=shape.dtype)

    with torch.autograd.graph.saved_tensors_hooks(to_host, from_host):
        return checkpoint(function, *args, **kwargs)


@contextmanager
def _tracked_layers(model: torch.nn.Module, pattern: LayerPattern | None, tracker: MemoryTracker) -> Iterator[None]:
    """Context in which forward and backward passes mark where the first, middle and last layers start.

    Raises TooSlowError once the operations of some layers show that all of them take too many.
    """
    layers = decoder_layers(model)
    if layers is None:
        yield
        return
    count = computed = len(layers)
    forward: dict[int, str] = {}
    backward: dict[int, str] = {}
    if pattern is not None:
        computed = pattern.layers_of(SHALLOW_PERIODS) + pattern.layers_of(DEEPER_PERIODS)
        forward = {0: FIRST, pattern.layers_at_start: BETWEEN, count - pattern.layers_at_end: LAST}
        backward = {count - 1: LAST, count - pattern.layers_at_end - 1: BETWEEN, pattern.layers_at_start - 1: FIRST}
    operations: list[int] = []
    """Before each layer that ran."""

    def entered(number: int, layer: torch.nn.Module, inputs: Any) -> None:
        operations.append(tracker.operations)
        done = len(operations) - 1
        if 0 < done < count and (operations[-1] - operations[0]) * computed * LAYER_PASSES // done > MAX_OPERATIONS:
            raise TooSlowError
        if not tracker.in_backward and number in forward:
            tracker.begin(f"forward, {forward[number]}")

    def left(number: int, layer: torch.nn.Module, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if not tracker.in_backward and number in backward and hidden.requires_grad:
            hidden.register_hook(lambda gradient: tracker.begin(f"backward, {backward[number]}"))

    with ExitStack() as hooks:
        for number, layer in enumerate(layers):
            hooks.callback(layer.register_forward_pre_hook(partial(entered, number)).remove)
            hooks.callback(layer.register_forward_hook(partial(left, number)).remove)
        yield


def _extrapolated(few: DryRunPeaks, more: DryRunPeaks, periods: int) -> DryRunPeaks | None:
    """Extrapolate to a model with this many periods; None if the two dry runs do not have the same stages."""
    names = [name for name in more.moments if not name.endswith(BETWEEN)]
    if few.moments.keys() != set(names):
        return None

    def at(two: int, three: int) -> int:
        return three + (periods - DEEPER_PERIODS) * (three - two) // (DEEPER_PERIODS - SHALLOW_PERIODS)

    def parts(name: str) -> dict[str, int]:
        two, three = few.moments[name], more.moments[name]
        return {part: at(two.get(part, 0), three.get(part, 0)) for part in {**two, **three}}

    return DryRunPeaks(
        at(few.static, more.static),
        {name: parts(name) for name in names},
        at(few.parameters, more.parameters),
        at(few.trainable, more.trainable),
    )
