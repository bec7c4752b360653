"""Predict the memory and disk space of a run from `config.json` and a preset, in milliseconds.

The model is assumed to consist of equal decoder layers of the usual kind. Where the formula differs from the dry run,
which builds the real model class, trust the dry run.

The peak is the largest of three moments:

- the loss: all saved activations, the logits and their gradient;
- the last layer's backward pass (its recomputation with activation checkpointing): saved activations and temporaries;
- the optimizer step: all gradients, and what the optimizer needs in addition to its state.

Disk space: the checkpoints and the saved model. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import schema
from engine.config.activation_checkpointing import ActivationCheckpointing, resolve_checkpointing
from engine.config.errors import Notice, UserError
from engine.config.method_specs import method_spec, uses_autocast
from engine.config.preset import with_settings
from engine.config.quantities import size
from engine.memory.formula import activations
from engine.memory.formula.activations import (
    held_out_loss_bytes,
    inference_temporaries,
    layer_temporaries,
    loss_bytes,
    mask_bytes,
    saved_activations,
)
from engine.memory.formula.architecture import Architecture, read_architecture
from engine.memory.formula.estimate import Device, MemoryEstimate, PeakMemory, StepShape, with_pool
from engine.memory.formula.packing import (
    MicroBatchShape,
    held_out_shape,
    largest_micro_batch_shape,
    needs_segments,
    uses_segments,
)
from engine.memory.formula.weights_and_state import (
    BF16,
    FLOAT32,
    base_parameters,
    checkpoint_bytes,
    compute_size,
    count_adapter_parameters,
    decoder_bytes,
    gradient_bytes,
    gradients_of_rank,
    head_gradient,
    optimizer_state_bytes,
    saved_bytes,
    shard_count,
    state_of_rank,
    trained_parameters,
    update_bytes,
    weight_bytes,
    weights_of_rank,
    with_copy,
)
from engine.runs.home import CHOOSE_ANOTHER, tilde


def formula(
    config: schema.Config, model_config: Mapping[str, Any], device: Device, rows: StepShape, bf16: bool = True
) -> MemoryEstimate:
    """Predict the memory of `config` for steps of `rows`.

    `model_config`: the parsed config.json; `bf16`: whether the device supports bf16. Raises UserError if it is not that
    of a decoder.
    """
    shape = read_architecture(model_config, config.model.id)
    setting = config.train.micro_batch
    most = rows.count if setting == "auto" else setting
    segments = uses_segments(shape, config, device, bf16)
    batch = largest_micro_batch_shape(rows, most, config.train.packing, device, segments, needs_segments(shape))
    checkpointing = resolve_checkpointing(config.train.gradient_checkpointing, device)
    static = _static(shape, config, device, bf16)
    work = FormulaInputs(shape, config, device, bf16, batch, checkpointing, compute_size(config, device, bf16))
    step = max(_moments(work, static["optimizer"]), key=lambda moment: sum({**static, **moment}.values()))
    held_out = _peak({**static, **_held_out(work, rows)}, device)
    answering = (
        _peak({**static, "activations": _answering(work, rows)}, device)
        if activations.generates_answers(config)
        else None
    )
    estimate = MemoryEstimate(
        tier="formula",
        method=config.method,
        device=device,
        rows=rows,
        micro_batch=batch.rows,
        packing=batch.packing,
        gradient_checkpointing=checkpointing.setting,
        static=sum(static.values()),
        training=_peak({**static, **step}, device),
        evaluation=max(held_out, answering or held_out, key=lambda peak: peak.total),
        held_out=held_out,
        answering=answering,
        parameters=base_parameters(shape),
        trainable=trained_parameters(shape)
        if method_spec(config.method).trains_weights
        else count_adapter_parameters(shape, config),
        devices=config.train.devices,
        sharded=shard_count(config) > 1,
        paged=device == "cuda" and config.optimizer.name.startswith("paged"),
    )
    return with_copy(estimate, config)


@dataclass(frozen=True)
class FormulaInputs:
    """Inputs of the formula for one step."""

    shape: Architecture
    config: schema.Config
    device: Device
    bf16: bool
    batch: MicroBatchShape
    checkpointing: ActivationCheckpointing
    size: int
    """Bytes per activation."""

    @property
    def logit(self) -> int:
        """Bytes per logit: bf16 in mixed precision."""
        return BF16 if uses_autocast(self.config.method, self.config.train.precision) else self.size

    @property
    def accumulator(self) -> int:
        """Bytes per element of a product in which it is added up."""
        return activations.accumulator(self.device, self.bf16, self.size)


def _static(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> dict[str, int]:
    """Bytes by part that are allocated during all of training."""
    decoder = decoder_bytes(shape, config, device, bf16)
    return {
        "weights": weights_of_rank(weight_bytes(shape, config, device, bf16), decoder, shape, config),
        "adapters": count_adapter_parameters(shape, config) * FLOAT32,
        "optimizer": state_of_rank(optimizer_state_bytes(shape, config, device, bf16), config),
    }


def _moments(work: FormulaInputs, state: int) -> list[dict[str, int]]:
    """The loss, the last layer's backward pass, the optimizer step: bytes by part in addition to static memory."""
    shape, config, batch, size = work.shape, work.config, work.batch, work.size
    where = (shape, config, work.device, work.bf16)
    blocks = [_saved(work, kind) for kind in shape.groups()]
    all_blocks = sum(kind.layers * block for kind, block in zip(shape.groups(), blocks, strict=True))
    recomputing = work.checkpointing.layers(shape.layers)
    inputs = batch.tokens * shape.hidden * size
    # Of offloaded inputs only that of the running layer is on the GPU.
    kept = inputs if work.checkpointing.offload else recomputing * inputs
    kept += (shape.layers - recomputing) * all_blocks // shape.layers + mask_bytes(batch, size)
    kept += activations.cast_head(shape, config)
    # The backward pass starts with the last layer; earlier ones are recomputed after its activations are freed.
    # Where layers differ, the one that needs most is near the end of the model.
    recomputed = max(blocks) if work.checkpointing.recomputes(shape.layers - 1) else 0
    running = _running(work, batch, training=True) + recomputed
    trained = gradients_of_rank(gradient_bytes(*where), shape, config)
    before = trained if batch.several else 0
    head = method_spec(config.method).trains_weights
    return [
        {
            "gradients": before,
            "activations": kept,
            "logits": loss_bytes(shape, batch, work.logit, work.device, work.accumulator, head),
        },
        {"gradients": max(before, head_gradient(*where)), "activations": kept + running},
        {"gradients": trained, "optimizer": state + update_bytes(*where)},
    ]


def _saved(work: FormulaInputs, kind: Architecture) -> int:
    """Bytes that a decoder layer of this kind saves for its backward pass."""
    saved = saved_activations(kind, work.config, work.batch, work.size)
    return saved + activations.extra_saved_bytes(kind, work.config, work.batch, work.size, work.device)


def _held_out(work: FormulaInputs, rows: StepShape) -> dict[str, int]:
    """A held-out batch: its logits, or the forward pass of a layer if that is more."""
    shape, device = work.shape, work.device
    segments, setting = uses_segments(shape, work.config, device, work.bf16), work.config.train.packing
    batch = held_out_shape(rows, setting, device, shape.vocabulary, segments, needs_segments(shape))
    logits = held_out_loss_bytes(work.shape, batch, work.logit, work.device, work.accumulator)
    forward = _running(work, batch, training=False) + mask_bytes(batch, work.size)
    return {"logits": logits} if logits > forward else {"activations": forward}


def _answering(work: FormulaInputs, rows: StepShape) -> int:
    """The peak of generation: KV caches, logits, and the forward pass of a layer."""
    copies = activations.copies_shared_matrices(work.device, work.bf16, work.size)
    moments = activations.moments(work.shape, work.config, rows, work.device, work.size, work.accumulator, copies)
    peak = max(kept + _running(work, batch, training=False) for kept, batch in moments)
    return peak + activations.cast_head(work.shape, work.config)


def _running(work: FormulaInputs, batch: MicroBatchShape, training: bool) -> int:
    """Temporary bytes of a running layer, the one that needs most."""
    return max(_running_layer(work, kind, batch, training) for kind in work.shape.groups())


def _running_layer(work: FormulaInputs, kind: Architecture, batch: MicroBatchShape, training: bool) -> int:
    where = (kind, work.config, batch, work.size, work.device)
    if training:
        plain = layer_temporaries(*where)
        plain += work.accumulator * activations.accumulated_elements(kind, work.config, batch)
    else:
        plain = inference_temporaries(*where, work.accumulator)
    plain = activations.with_sinks(kind, work.config, batch, work.size, training, plain)
    return plain + activations.temporary_bytes(kind, work.config, batch, training)


def _peak(parts: dict[str, int], device: Device) -> PeakMemory:
    present = {part: size for part, size in parts.items() if size}
    return with_pool(PeakMemory(total=sum(present.values()), parts=present), device)


LOW_BYTES = 2 << 30
"""Free disk space below which a launch warns: exports, caches and logs need some."""


def disk_bytes(estimate: MemoryEstimate, config: schema.Config) -> int:
    """Bytes of `train.keep_checkpoints` checkpoints, the best one, the one being written, and the saved model."""
    count = config.train.keep_checkpoints + (config.train.select == "best") + 1
    return count * checkpoint_bytes(estimate, config) + saved_bytes(estimate, config)


def needed_space(
    config: schema.Config, model_config: Mapping[str, Any] | None, device: Device, bf16: bool
) -> int | None:
    """`disk_bytes` by the formula; None for a model whose `config.json` (`model_config`) is unknown or unsupported."""
    if model_config is None:
        return None
    config = with_settings(config, {"train.parallelism": "ddp"})  # all parts of a checkpoint are on this disk
    rows = StepShape(count=config.train.batch, length=config.train.max_length, answer=1)  # does not matter here
    try:
        return disk_bytes(formula(config, model_config, device, rows, bf16), config)
    except UserError:
        return None


def low_disk_notice(needed: int | None, free: int, runs: Path) -> Notice | None:
    """The warning for a disk that checkpoints and models leave little of, None if enough is left."""
    left = free - (needed or 0)
    if left >= LOW_BYTES:
        return None
    after = f" after checkpoints and models ({size(needed)}, estimated)" if needed else ""
    text = (
        f"low disk space: {size(max(0, left))} left{after} in {tilde(runs)}; `ftbench clean` shows what can be removed"
    )
    return Notice("disk.low", text)


def small_disk_error(needed: int | None, free: int, runs: Path) -> UserError | None:
    """The error for a disk with less free space than needed, None if it has enough or the need is unknown."""
    if needed is None or needed <= free:
        return None
    problem = f"{size(free)} of disk space free, and checkpoints and model need about {size(needed)} (estimated)"
    hint = f"free some space, --set train.keep_checkpoints=1, or {CHOOSE_ANOTHER}"
    return UserError(problem, str(runs), hint, "disk.too_small")
