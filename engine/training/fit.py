"""Training, from the first step to the last: `fit` is the whole loop.

The gradients of a step are in `gradients.py`, what a checkpoint has in `training_state.py`; the caller says through a
`Record` what happens between steps: validation, logging, requests to save and to stop.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import get_scheduler, set_seed

from engine.config import schema
from engine.config.device_defaults import OFF, ActivationCheckpointing
from engine.config.method_specs import steps_in_backward, uses_autocast
from engine.data.rows import Row
from engine.training.backward_step import BackwardStep
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


class Record:
    """What the caller of `fit` does between steps, as the callbacks of other trainers: by default nothing."""

    saves_end = False
    """Whether a checkpoint is saved at the end, also after a request to stop."""

    def begin(self) -> None:
        """Called once, before the first step: weights are loaded, the optimizer has no state yet."""

    def step(self, facts: StepFacts) -> None:
        """Called after each step, once its loss is in host memory; the loss is finite. A GPU may already compute the
        next step, whose update waits for this call, as do validation and checkpoint of this step.
        """

    def validates(self, step: int, last: bool) -> bool:
        """Whether the validation loss is due after this step, which may be the `last` of the plan."""
        return False

    def validation_loss(self, step: int) -> float:
        """The validation loss in nats/token."""
        raise NotImplementedError

    def stop_requested(self) -> bool:
        """Whether training should stop after this step."""
        return False

    def save_due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step; asked once per step, on the first rank."""
        return False


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
    step_in_backward: bool = False
    """Whether the backward pass updates the weights."""
    reads_late: bool = False
    """Whether the loss of a step is read while the GPU computes the next one."""

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
        in_backward = steps_in_backward(config)  # then the loss of the step before has to be known by then
        late = gradients.device == "cuda" and not in_backward
        train = config.train
        return cls(state, gradients, train.max_grad_norm, train.seed, autocast, checkpointing, in_backward, late)

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

    A GPU computes ahead of the host: loss and norm of a step are read before the update of the next one, or before the
    weights are validated or saved.
    """
    state, gradients, ranks = training.state, training.gradients, training.state.ranks
    model, optimizer, schedule, selection = state.model, state.optimizer, state.schedule, state.selection
    set_seed(training.seed)  # dropout must not depend on what ran before
    if resume:
        state.load_weights(resume)
    enable_checkpointing(model, training.checkpointing)
    reports = StepReports(record)
    with state.writer, bf16_forward(model, gradients.device) if training.autocast else contextlib.nullcontext():
        record.begin()
        torch.empty((), dtype=torch.int64).random_()  # as data loaders do: recorded losses with dropout depend on it
        if resume:
            state.load_progress(resume)
        for step in range(state.step + 1, training.steps + 1):
            began = time.monotonic()
            rows = gradients.rows[step - 1]

            ranks.seed(training.seed, step - 1, same=False)
            loss, norm = clipped_gradients(training, rows, step)
            reports.flush()  # the step before
            reports.add(
                StepFacts(
                    step=step,
                    loss=math.nan,
                    grad_norm=math.nan,
                    learning_rate=float(optimizer.param_groups[0]["lr"]),
                    tokens=sum(len(row.input_ids) for row in rows),
                    computed_tokens=gradients.computed_tokens,
                    answer_tokens=sum(map(answer_tokens, rows)),
                    seconds=math.nan,
                ),
                began,
                torch.stack([loss, norm.to(loss)]),
            )

            ranks.seed(training.seed, step - 1, same=True)  # stochastic rounding must be the same
            optimizer.step()
            schedule.step()
            model.zero_grad(set_to_none=True)
            state.step = step
            if not training.reads_late:
                reports.flush()
            state.writer.report()

            # Validated before a checkpoint of the same step is saved, which has the loss; also after a stop request.
            last, is_best = step == training.steps, False
            if record.validates(step, last):
                reports.flush()
                state.losses.append((step, record.validation_loss(step)))
                is_best, last = selection.best_step(state.losses) == step, last or selection.ends(state.losses)
            requested, due = ranks.sums(record.stop_requested(), ranks.is_first and record.save_due(step))
            stopped = requested > 0 and not last
            ended = last or stopped
            if ended or due:
                reports.flush()
            if (ended and record.saves_end) or is_best or due:
                state.save(continues=not ended)
            if ended:
                return stopped
    return False


class StepReports:
    """Reports each step to the record as soon as its loss and gradient norm are on the host."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.pending: tuple[StepFacts, float, torch.Tensor, torch.cuda.Event | None] | None = None
        """A step, when it began, its loss and norm in host memory, and the event after which they are there."""
        self.reported = 0.0

    def add(self, facts: StepFacts, began: float, values: torch.Tensor) -> None:
        """Begin to copy the loss and the gradient norm of a step, (2,), without waiting for them."""
        event = None
        if values.is_cuda:
            values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.pending = facts, began, values, event

    def flush(self) -> None:
        """Wait for the step that was added, if it is not reported yet, and report it. Raises Diverged if its loss or
        norm is not finite.

        It is the only time in a step that our own code waits for the GPU; bitsandbytes' optimizers wait once per
        trained tensor.
        """
        if self.pending is None:
            return
        facts, began, values, event = self.pending
        self.pending = None
        if event is not None:
            event.synchronize()
        loss, norm = values.tolist()
        for what, number in (("the loss", loss), ("the gradient norm", norm)):
            if not math.isfinite(number):
                raise Diverged(facts.step, what)
        # A step that began while the one before was computed takes the time since that one was known.
        now = time.monotonic()
        seconds, self.reported = now - max(began, self.reported), now
        self.record.step(replace(facts, loss=loss, grad_norm=norm, seconds=seconds))


def clipped_gradients(training: TrainingSetup, rows: list[Row], step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute and clip the gradients of a step, counted from 1. Returns its loss and the norm before clipping.

    If the backward pass updates the weights, no gradients are left.
    """
    if training.step_in_backward:
        with BackwardStep(training.model, training.state.optimizer.step, training.max_grad_norm) as updates:
            loss = training.gradients.compute(rows, step - 1)
        return loss, updates.norm()
    loss = training.gradients.compute(rows, step - 1)
    return loss, clip_gradients(training.model, training.max_grad_norm)


def clip_gradients(model: torch.nn.Module, max_norm: float) -> torch.Tensor:
    """Scale the gradients to a norm of at most `max_norm`, 0 for any; returns the norm before, of the whole model.

    It is computed in float32: `torch.nn.utils.clip_grad_norm_` rounds the norm of bf16 gradients to bf16.
    """
    weights = [weight for weight in model.parameters() if weight.grad is not None]
    norms = [torch.linalg.vector_norm(weight.grad, dtype=torch.float32) for weight in weights]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if max_norm:
        torch.nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


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
