"""Compile the decoder layers of a model before its first training step."""

from __future__ import annotations

import time
from collections.abc import Sequence

from engine.data.rows import Row
from engine.memory.probe import preserved_random_state
from engine.runs.events import Compiled
from engine.training.collation import loss_weight
from engine.training.compilation import compile_layers
from engine.training.trainer import AnswerTrainer


def compile_by_training(trainer: AnswerTrainer, rows: Sequence[Row]) -> Compiled:
    """Compile by computing the gradients of one or two rows, without a step.

    Raises UserError if the compiler fails.
    """
    started = time.monotonic()
    with preserved_random_state():
        layers = compile_layers(trainer.model)
        trainer.model.train()
        # Two rows if micro-batches have more than one: torch.compile makes another graph for a dimension of size 1.
        used = list(rows[: min(2, trainer.micro_batch)])
        trainer.forward_backward(trainer.model, used, sum(map(loss_weight, used)))
        trainer.model.zero_grad(set_to_none=True)
    return Compiled(layers=layers, seconds=round(time.monotonic() - started, 3))
