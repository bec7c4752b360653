"""Compile the decoder layers of a model before its first training step."""

from __future__ import annotations

import time

from engine.data.tokens import Row
from engine.memory.probe import preserved_random_state
from engine.training.collation import loss_weight
from engine.training.compilation import compile_layers
from engine.training.trainer import AnswerTrainer


def compile_by_training(trainer: AnswerTrainer, row: Row) -> str:
    """Compile by computing the gradients of one row, without a step. Returns what took how long.

    Raises UserError if the compiler fails.
    """
    started = time.monotonic()
    with preserved_random_state():
        layers = compile_layers(trainer.model)
        trainer.model.train()
        trainer.forward_backward(trainer.model, [row], loss_weight(row))
        trainer.model.zero_grad(set_to_none=True)
    return f"{layers} decoder layers compiled in {time.monotonic() - started:.0f} s, which no step's time includes"
