"""The memory of a run in milliseconds, from `config.json` and a preset: what a screen shows while one chooses.

A model is taken for so many equal decoder blocks of the common kind. Every function below is one part, in bytes,
with its reasons. `dry_run` knows the real class and is to be trusted where the two differ.

The peak is the largest of three moments:

- the loss: everything the forward pass kept, the logits and their gradient;
- the last block's backward pass (under checkpointing: its recomputation): what is kept, and that block's own work;
- the optimizer's step: all gradients, and what the optimizer needs beside its state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.config import schema
from engine.config.method_specs import method_spec
from engine.memory.formula import exceptions, generation
from engine.memory.formula.activations import block_kept, block_work, held_out_work, loss_work, mask
from engine.memory.formula.allocator import with_pool
from engine.memory.formula.architecture import Architecture, read_architecture
from engine.memory.formula.estimate import Device, MemoryEstimate, PeakMemory, StepShape
from engine.memory.formula.packing import MicroBatchShape, held_out_shape, largest_micro_batch_shape
from engine.memory.formula.weights_and_state import (
    FLOAT32,
    adapter_parameters,
    base_parameters,
    compute_size,
    gradients,
    head_gradient,
    optimizer_state,
    step_work,
    weights,
)


def formula(
    config: schema.Config, table: Mapping[str, Any], device: Device, rows: StepShape, bf16: bool = True
) -> MemoryEstimate:
    """What `config` takes when a step has `rows`. `table` is the parsed config.json; `bf16`: the device multiplies it.

    Raises UserError where the table is not a decoder's.
    """
    shape = read_architecture(table, config.model.id)
    wanted = config.train.micro_batch
    layout = largest_micro_batch_shape(rows, rows.count if wanted == "auto" else wanted, config.train.packing, device)
    checkpointing = config.train.gradient_checkpointing
    checkpointing = device == "cuda" if checkpointing == "auto" else checkpointing
    held = {
        "weights": weights(shape, config, device, bf16),
        "adapters": adapter_parameters(shape, config) * FLOAT32,
        "optimizer": optimizer_state(shape, config, device, bf16),
    }
    work = FormulaInputs(shape, config, device, bf16, layout, checkpointing, compute_size(config, device, bf16))
    step = max(_moments(work, held["optimizer"]), key=lambda moment: sum({**held, **moment}.values()))
    held_out = _peak({**held, **_held_out(work, rows)}, device)
    answering = _peak({**held, "activations": _answering(work, rows)}, device) if generation.answers(config) else None
    return MemoryEstimate(
        tier="formula",
        method=config.method,
        device=device,
        rows=rows,
        micro_batch=layout.rows,
        packing=layout.packing,
        gradient_checkpointing=checkpointing,
        static=sum(held.values()),
        training=_peak({**held, **step}, device),
        evaluation=max(held_out, answering or held_out, key=lambda peak: peak.total),
        held_out=held_out,
        answering=answering,
        parameters=base_parameters(shape),
        trainable=base_parameters(shape)
        if method_spec(config.method).trains_weights
        else adapter_parameters(shape, config),
        paged=device == "cuda" and config.optimizer.name.startswith("paged"),
    )


@dataclass(frozen=True)
class FormulaInputs:
    """What a step's moments depend on."""

    shape: Architecture
    config: schema.Config
    device: Device
    bf16: bool
    layout: MicroBatchShape
    checkpointing: bool
    size: int
    """Bytes an activation takes."""

    @property
    def logit(self) -> int:
        """Bytes a logit takes: mixed precision hands them on in float32."""
        return FLOAT32 if exceptions.is_mixed(self.config) else self.size


def _moments(work: FormulaInputs, state: int) -> list[dict[str, int]]:
    """The loss, the last block's backward pass, the optimizer's step: bytes by part, beside what is always there."""
    shape, config, layout, size = work.shape, work.config, work.layout, work.size
    where = (shape, config, work.device, work.bf16)
    block = block_kept(shape, config, layout, size) + exceptions.kept(shape, config, layout, size, work.device)
    kept = shape.layers * (layout.tokens * shape.hidden * size if work.checkpointing else block) + mask(layout, size)
    kept += exceptions.cast_head(shape, config)
    running = _running(work, layout, training=True) + (block if work.checkpointing else 0)
    trained = gradients(*where)
    before = trained if layout.several else 0
    return [
        {"gradients": before, "activations": kept, "logits": loss_work(shape, layout, work.logit)},
        {"gradients": max(before, head_gradient(*where)), "activations": kept + running},
        {"gradients": trained, "optimizer": state + step_work(*where)},
    ]


def _held_out(work: FormulaInputs, rows: StepShape) -> dict[str, int]:
    """A held-out pass: its logits, or a block's forward pass where that is more."""
    layout = held_out_shape(rows, work.config.train.packing, work.device, work.shape.vocabulary)
    logits = held_out_work(work.shape, layout, work.logit)
    forward = _running(work, layout, training=False) + mask(layout, work.size)
    return {"logits": logits} if logits > forward else {"activations": forward}


def _answering(work: FormulaInputs, rows: StepShape) -> int:
    """The largest moment of answering: caches, logits, and a block's forward pass over what is read."""

    found = generation.moments(work.shape, work.config, rows, work.device, work.size)
    most = max(kept + _running(work, layout, training=False) for kept, layout in found)
    return most + exceptions.cast_head(work.shape, work.config)


def _running(work: FormulaInputs, layout: MicroBatchShape, training: bool) -> int:
    """While a pass goes through a block."""
    plain = block_work(work.shape, work.config, layout, work.size, work.device)
    return plain + exceptions.work(work.shape, work.config, layout, training)


def _peak(parts: dict[str, int], device: Device) -> PeakMemory:
    present = {part: size for part, size in parts.items() if size}
    return with_pool(PeakMemory(total=sum(present.values()), parts=present), device)
