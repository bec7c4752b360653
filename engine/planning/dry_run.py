"""The peak memory of a training step and of a held-out loss, from shapes alone: no weights, no card, seconds.

The real model class, adapters, batches, loss, optimizer and clipping run on fake tensors, which have a shape, a type
and a storage of a size but no values, while `live` counts what is alive. Passes are laid out as on the CPU (filled up
to 64 positions), also when planning for a card: up to 63 tokens more than there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from engine.contract import schema
from engine.contract.errors import UserError
from engine.data.tokens import Row
from engine.methods.loading import attention
from engine.methods.machine import Machine
from engine.planning.estimate import Estimate, Peak, Rows
from engine.planning.live import LiveStorage
from engine.planning.skeleton import build
from engine.planning.step import evaluation_peak, mix, training_peak, weigh, with_state
from engine.training.batches import Layout, Pass, choose_layout, lay_out, passes

AT_ONCE = 64
"""Rows of a held-out pass, where its tokens allow (`evaluation.score.row_losses`)."""


@dataclass(frozen=True)
class Work:
    """The tensors of a step, and of a held-out pass."""

    layout: Layout
    portions: list[list[Row]]
    batches: list[Pass]
    """The first two; the others are like the first, or smaller."""
    held_out: Pass


def dry_run(config: schema.Config, architecture: Any, machine: Machine, rows: Rows) -> Estimate:
    """What `config` takes on `machine` (which need not be this one) when a step has `rows`.

    `architecture` is transformers' configuration of the model. Raises UserError where it cannot be built, or where
    its memory depends on values that a dry run has not.
    """
    work = _lay_out(config, machine, rows)
    model = build(_without_flash(config), architecture, replace(machine, flash_attention=False))
    checkpointing = wants_checkpointing(config, machine)
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    live = LiveStorage(machine.device, architecture.get_text_config().vocab_size)
    try:
        static, training, evaluation = _run(model, work, config, machine, live)
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        what = f"what {type(model).__name__} takes depends on its values ({error}): no dry run"
        raise UserError(what, config.model.id, "use the formula, or try one step on the machine itself") from error
    return Estimate(
        tier="dry run",
        method=config.method,
        device=machine.device,
        rows=rows,
        micro_batch=len(work.portions[0]),
        packing=work.layout.packing,
        gradient_checkpointing=checkpointing,
        static=static,
        training=training,
        evaluation=evaluation,
        parameters=parameters,
        trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        paged=machine.paging and config.optimizer.name.startswith("paged"),
    )


def _run(
    model: torch.nn.Module, work: Work, config: schema.Config, machine: Machine, live: LiveStorage
) -> tuple[int, Peak, Peak]:
    """(bytes between steps, the step's peak, the held-out pass's)."""
    if config.train.precision == "mixed":
        mix(model)
    with FakeTensorMode(allow_non_fake_inputs=True), live:
        weigh(model, live)
        optimizer = with_state(model, config, machine, live)
        static = live.total
        return (
            static,
            training_peak(model, optimizer, work.batches, config, live),
            evaluation_peak(model, work.held_out, live),
        )


def _lay_out(config: schema.Config, machine: Machine, rows: Rows) -> Work:
    """The worker's own cutting. Rows end to end under FlashAttention become rows side by side: without a mask and
    without padding they are as many tokens.
    """
    row = Row([1] * rows.length, [-100] * (rows.length - rows.answer) + [1] * rows.answer, [1], "", "", False)
    varlen = attention(config.model, machine) == "flash_attention_2"
    layout = choose_layout([row] * rows.count, config.train.packing, machine.device, varlen)
    micro_batch = rows.count if config.train.micro_batch == "auto" else config.train.micro_batch
    portions = list(passes([row] * rows.count, micro_batch, layout))
    packing = "padded" if varlen else layout.packing
    batches = [lay_out(portion, packing, 0, "cpu") for portion in portions[:2]]
    held_out = next(passes([row] * AT_ONCE, AT_ONCE, layout))
    return Work(layout, portions, batches, lay_out(held_out, packing, 0, "cpu"))


def _without_flash(config: schema.Config) -> schema.Config:
    """Its kernels want a card; SDPA's keep the same tensors."""
    if config.model.attention != "flash_attention_2":
        return config
    return msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, attention="sdpa"))


def wants_checkpointing(config: schema.Config, machine: Machine) -> bool:
    """As the worker decides: `auto` is yes on a card and no on the CPU."""
    wanted = config.train.gradient_checkpointing
    return machine.device == "cuda" if wanted == "auto" else wanted
