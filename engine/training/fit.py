"""Training, from the first step to the last: `fit` is the whole loop.

The gradients of a step are in `gradients.py`, what a checkpoint has in `training_state.py`; the caller says through a
`Record` what happens between steps: validation, logging, requests to save and to stop.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.distributed.tensor import DTensor
from transformers import get_scheduler, set_seed

from engine.config import schema
from engine.config.device_defaults import OFF, ActivationCheckpointing
from engine.config.method_specs import uses_autocast
from engine.training.batches import answer_tokens
from engine.training.gradients import StepGradients
from engine.training.guards import Diverged
from engine.training.training_state import TrainingState

SCHEDULES = {"constant": "constant_with_warmup"}
"""`train.schedule` -> transformers' name, where it differs."""


@dataclass(frozen=True)
class StepFacts:
    """Measurements of one optimizer step."""

    step: int
    """Counted from 1."""
    loss: float
    """Nats/token."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    tokens: int
    """Tokens of the step's rows."""
    computed_tokens: int
    """Tokens of the forward passes: padding included, shared prefixes once."""
    answer_tokens: int
    seconds: float


class Record(Protocol):
    """What the caller of `fit` does between steps."""

    def begin(self) -> None:
        """Called once, before the first step: weights are loaded, the optimizer has no state yet."""

    def step(self, facts: StepFacts) -> None:
        """A step is done."""

    def validates(self, step: int, last: bool) -> bool:
        """Whether the validation loss is due after this step, which may be the `last` of the plan."""

    def validation_loss(self, step: int) -> float:
        """The validation loss in nats/token."""

    def stop_requested(self) -> bool:
        """Whether training should stop after this step."""

    def save_due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step; asked once per step, on the first rank."""

    @property
    def saves_end(self) -> bool:
        """Whether a checkpoint is saved at the end, also after a request to stop."""


@dataclass
class TrainingSetup:
    """What `fit` trains, and how."""

    state: TrainingState
    gradients: StepGradients
    max_grad_norm: float
    """Gradients are clipped to this norm; 0: not clipped."""
    seed: int
    autocast: bool = False
    """Whether the forward pass of float32 weights computes in bf16."""
    checkpointing: ActivationCheckpointing = field(default_factory=lambda: OFF)

    @classmethod
    def of(
        cls,
        config: schema.Config,
        state: TrainingState,
        gradients: StepGradients,
        checkpointing: ActivationCheckpointing = OFF,
    ) -> TrainingSetup:
        """A training with the settings of a configuration."""
        autocast = uses_autocast(config.method, config.train.precision)
        return cls(state, gradients, config.train.max_grad_norm, config.train.seed, autocast, checkpointing)

    @property
    def model(self) -> Any:
        return self.state.model

    @property
    def steps(self) -> int:
        return len(self.gradients.rows)


def fit(training: TrainingSetup, record: Record, resume: Path | None = None) -> bool:
    """Train from step 0 or from the checkpoint `resume`, in place. Returns whether a request stopped it early.

    A step is repeated with smaller micro-batches when memory runs out, with the same result. A checkpoint is saved when
    one is due, at every new lowest validation loss if the best weights are kept, and at the end.
    Raises Diverged if loss or gradient norm is not finite, OutOfMemory if a single row does not fit, and DiskFull.
    """
    state, gradients, ranks = training.state, training.gradients, training.state.ranks
    model, optimizer, schedule, selection = state.model, state.optimizer, state.schedule, state.selection
    set_seed(training.seed)  # dropout must not depend on what ran before
    if resume:
        state.load_weights(resume)
    enable_checkpointing(model, training.checkpointing)
    with state.writer, bf16_forward(model, gradients.device) if training.autocast else contextlib.nullcontext():
        record.begin()
        torch.empty((), dtype=torch.int64).random_()  # as data loaders do: recorded losses with dropout depend on it
        if resume:
            state.load_progress(resume)
        for step in range(state.step + 1, training.steps + 1):
            began = time.monotonic()
            rows = gradients.rows[step - 1]

            ranks.seed(training.seed, step - 1, same=False)
            loss = gradients.compute(rows, step - 1)
            norm = clip_gradients(model, training.max_grad_norm)
            loss_value, norm_value = finite_values(loss, norm, step)
            rate = float(optimizer.param_groups[0]["lr"])

            ranks.seed(training.seed, step - 1, same=True)  # stochastic rounding must be the same
            optimizer.step()
            schedule.step()
            model.zero_grad(set_to_none=True)
            state.step = step

            record.step(
                StepFacts(
                    step=step,
                    loss=loss_value,
                    grad_norm=norm_value,
                    learning_rate=rate,
                    tokens=sum(len(row.input_ids) for row in rows),
                    computed_tokens=gradients.computed_tokens,
                    answer_tokens=sum(map(answer_tokens, rows)),
                    seconds=time.monotonic() - began,
                )
            )
            state.writer.report()

            # Validated before a checkpoint of the same step is saved, which has the loss; also after a stop request.
            last, is_best = step == training.steps, False
            if record.validates(step, last):
                state.losses.append((step, record.validation_loss(step)))
                is_best, last = selection.best_step(state.losses) == step, last or selection.ends(state.losses)
            requested, due = ranks.sums(record.stop_requested(), ranks.is_first and record.save_due(step))
            stopped = requested > 0 and not last
            ended = last or stopped
            if (ended and record.saves_end) or is_best or due:
                state.save(continues=not ended)
            if ended:
                return stopped
    return False


def clip_gradients(model: torch.nn.Module, max_norm: float) -> torch.Tensor:
    """Scale the gradients to a norm of at most `max_norm`, 0 for any; returns the norm before, of the whole model."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def finite_values(loss: torch.Tensor, norm: torch.Tensor, step: int) -> tuple[float, float]:
    """Loss and gradient norm. Raises Diverged if one is not finite.

    They are read together: it is the only time in a step that our own code waits for the GPU; bitsandbytes' optimizers
    wait once per trained tensor.
    """
    loss_value, norm_value = torch.stack([loss, norm.to(loss)]).tolist()
    for what, number in (("the loss", loss_value), ("the gradient norm", norm_value)):
        if not math.isfinite(number):
            raise Diverged(step, what)
    return loss_value, norm_value


def learning_rate_schedule(optimizer: torch.optim.Optimizer, train: schema.Train, steps: int) -> Any:
    """The learning rate of each step: a linear warmup, then `train.schedule`."""
    name = SCHEDULES.get(train.schedule, train.schedule)
    return get_scheduler(name, optimizer, round(train.warmup_ratio * steps), steps)


def enable_checkpointing(model: Any, checkpointing: ActivationCheckpointing) -> None:
    """Let layers recompute their activations, also in a model that already does so for fewer layers.

    Not reentrant: the reentrant implementation needs an input that requires a gradient and drops saved-tensor hooks.
    """
    if checkpointing.every:
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False},
            every_n_layers=checkpointing.every,
            offload=checkpointing.offload,
        )


@contextlib.contextmanager
def bf16_forward(model: Any, device: str) -> Iterator[None]:
    """Context in which the model's forward pass computes in bf16 (autocast). What is outside the forward pass, and the
    model afterwards, computes in the data type of the weights: the base model was evaluated so.
    """
    own = vars(model).get("forward")
    model.forward = torch.autocast(device, dtype=torch.bfloat16)(model.forward)
    try:
        yield
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own
