"""Predict the memory and disk space of a run from `config.json` and a preset, in milliseconds.

The model is assumed to consist of equal decoder layers of the usual kind. Where the formula differs from the dry run,
which builds the real model class, trust the dry run.

The peak is the largest of three moments:

- the loss: all saved activations, the logits and their gradient;
- the last layer's backward pass (its recomputation with activation checkpointing): saved activations and temporaries;
- the optimizer step: all gradients, and what the optimizer needs in addition to its state. In the backward pass it
  has one gradient: that of the head with all activations, of a layer with those of the layer, of the embeddings last.

Disk space: the checkpoints and the saved model. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config import schema
from engine.config.device_defaults import resolve_checkpointing
from engine.config.errors import Notice, UserError
from engine.config.method_specs import steps_in_backward
from engine.config.quantities import size
from engine.config.settings import with_settings
from engine.memory.formula.activations import (
    MicroBatchShape,
    cast_head,
    generates_answers,
    generation_moments,
    held_out_shape,
    largest_micro_batch_shape,
    loss_bytes,
    mask_bytes,
    needs_segments,
    running_layer,
    saved_activations,
    uses_segments,
)
from engine.memory.formula.architecture import Architecture, read_architecture
from engine.memory.formula.estimate import Device, MemoryEstimate, PeakMemory, StepShape, with_pool, with_state_on_host
from engine.memory.formula.weights_and_state import (
    FLOAT32,
    PredictedRun,
    base_parameters,
    checkpoint_bytes,
    count_adapter_parameters,
    gradients_of_rank,
    head_gradient,
    largest_embedding,
    largest_parameter,
    saved_bytes,
    shard_count,
    state_of_rank,
    update_bytes,
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
    run = PredictedRun(read_architecture(model_config, config.model.id), config, device, bf16)
    shape, packing, micro_batch = run.shape, config.train.packing, config.train.micro_batch
    segments, mixed = uses_segments(run), needs_segments(shape)
    most = rows.count if micro_batch == "auto" else micro_batch
    in_backward = steps_in_backward(config)
    batch = largest_micro_batch_shape(rows, most, packing, device, segments, mixed, whole_step=in_backward)
    held_out_batch = held_out_shape(rows, packing, device, shape.vocabulary, segments, mixed)
    checkpointing = resolve_checkpointing(config.train.gradient_checkpointing, device)
    adapters, state = count_adapter_parameters(shape, config) * FLOAT32, state_of_rank(run)
    static = {"weights": weights_of_rank(run), "adapters": adapters, "optimizer": state}

    def peak(**moment: int) -> PeakMemory:
        parts = {part: size for part, size in {**static, **moment}.items() if size}
        return with_pool(PeakMemory(total=sum(parts.values()), parts=parts), device)

    def running(batch: MicroBatchShape, training: bool = False) -> int:
        """Temporary bytes of the running layer that needs most."""
        return max(running_layer(kind, run, batch, training) for kind in shape.groups())

    # Activations until the loss. Of offloaded inputs only that of the running layer is on the GPU.
    blocks = [saved_activations(kind, run, batch) for kind in shape.groups()]
    all_blocks = sum(kind.layers * block for kind, block in zip(shape.groups(), blocks, strict=True))
    recomputing = checkpointing.layers(shape.layers)
    inputs = batch.tokens * shape.hidden * run.size
    kept = inputs if checkpointing.offload else recomputing * inputs
    kept += (shape.layers - recomputing) * all_blocks // shape.layers + mask_bytes(batch, run.size) + cast_head(run)
    # The backward pass starts with the last layer; earlier ones are recomputed after its activations are freed.
    # Where layers differ, the one that needs most is near the end of the model.
    backward = running(batch, training=True) + (max(blocks) if checkpointing.recomputes(shape.layers - 1) else 0)
    gradients = gradients_of_rank(run)
    earlier = gradients if batch.several else 0
    logits = loss_bytes(run, batch, trained_head=run.method.trains_weights)
    moments = [peak(gradients=earlier, activations=kept, logits=logits)]
    if in_backward:
        moments += [
            peak(gradients=size * run.weight_size, optimizer=state + update_bytes(run, updated), activations=saved)
            for size, updated, saved in backward_updates(shape, kept, kept + backward)
        ]
    else:
        moments += [
            peak(gradients=max(earlier, head_gradient(run)), activations=kept + backward),
            peak(gradients=gradients, optimizer=state + update_bytes(run, largest_parameter(run))),
        ]
    training = max(moments, key=lambda peak: peak.total)

    # A held-out batch: its logits, or the forward pass of a layer if that is more.
    logits = loss_bytes(run, held_out_batch)
    forward = running(held_out_batch) + mask_bytes(held_out_batch, run.size)
    held_out = peak(logits=logits) if logits > forward else peak(activations=forward)
    answering: PeakMemory | None = None
    if generates_answers(config):  # KV caches, logits, and the forward pass of a layer
        generation = max(kept + running(batch) for kept, batch in generation_moments(run, rows))
        answering = peak(activations=generation + cast_head(run))
    estimate = MemoryEstimate(
        tier="formula",
        method=config.method,
        device=device,
        rows=rows,
        micro_batch=batch.rows,
        packing=batch.packing,
        gradient_checkpointing=checkpointing.setting,
        static=sum(static.values()),
        training=training,
        evaluation=max(held_out, answering or held_out, key=lambda peak: peak.total),
        held_out=held_out,
        answering=answering,
        parameters=base_parameters(shape),
        trainable=run.trainable,
        devices=config.train.devices,
        sharded=shard_count(config) > 1,
        paged=device == "cuda" and config.optimizer.name.startswith("paged"),
    )
    return with_copy(with_state_on_host(estimate, config.optimizer.name, in_backward), config)


def backward_updates(shape: Architecture, all_layers: int, last_layer: int) -> list[tuple[int, int, int]]:
    """(weights with a gradient, weights of the one that is updated, bytes of activations) of the largest updates during
    a backward pass: of the head, with the activations of `all_layers`; of the `last_layer`, with these and its own; of
    the embeddings, after all. A tied head has its gradient until then.
    """
    experts = max(kind.experts * kind.expert_intermediate * kind.hidden * (1 + kind.gated) for kind in shape.groups())
    outside, layer = largest_embedding(shape), max(experts, shape.largest_linear)
    if shape.tied:
        return [(outside + layer, layer, last_layer), (outside, outside, 0)]
    return [(outside, outside, all_layers), (layer, layer, last_layer)]


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
