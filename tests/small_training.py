"""A training outside of a run, for tests of its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from engine.config import schema
from engine.config.device_defaults import OFF, ActivationCheckpointing
from engine.config.method_specs import steps_in_backward
from engine.data.rows import Row
from engine.training.batches import BatchSampler, Packing, StepDataset
from engine.training.checkpoints import SavedCheckpoint
from engine.training.fit import Record, StepFacts, TrainingSetup, learning_rate_schedule
from engine.training.gradients import StepGradients
from engine.training.ranks import SINGLE_RANK, LocalShards, Ranks
from engine.training.training_state import CheckpointWriter, TrainingState


class Steps(Record):
    """Keeps what was measured, and saves a checkpoint after one step."""

    def __init__(
        self, begin: Callable[[], object] = lambda: None, began: Callable[[], object] = lambda: None, save_at: int = -1
    ) -> None:
        """`begin`: before the first step; `began`: after each step."""
        self._begin, self._began, self.save_at = begin, began, save_at
        self.facts: list[StepFacts] = []

    @property
    def losses(self) -> list[float]:
        return [facts.loss for facts in self.facts]

    def begin(self) -> None:
        self._begin()

    def step(self, facts: StepFacts) -> None:
        self.facts.append(facts)
        self._began()

    def save_due(self, step: int) -> bool:
        return step == self.save_at


def make_training(
    model: Any,
    rows: Sequence[Row],
    sampler: BatchSampler,
    config: schema.Config,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    *,
    packing: Packing,
    micro_batch: int,
    pad: int = 0,
    device: str = "cpu",
    checkpointing: ActivationCheckpointing = OFF,
    ranks: Ranks = SINGLE_RANK,
    shards: LocalShards | None = None,
    keep: int = 1,
    gradients: type[StepGradients] = StepGradients,
    halved: Callable[[int], object] = lambda micro_batch: None,
    saved: Callable[[SavedCheckpoint], None] = lambda saved: None,
) -> TrainingSetup:
    """What `fit` takes; checkpoints are in `folder`."""
    computed = gradients(
        model, StepDataset(rows, sampler), packing, micro_batch, pad, device, ranks, halved, steps_in_backward(config)
    )
    schedule = learning_rate_schedule(optimizer, config.train, sampler.steps)
    writer = CheckpointWriter(folder, keep, saved, None)
    state = TrainingState(model, optimizer, schedule, writer, ranks, shards)
    return TrainingSetup.of(config, state, computed, checkpointing)
