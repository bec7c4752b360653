"""Log the steps of a training; decide after each whether to save, evaluate or stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from transformers import TrainerCallback

from engine.training import checkpoints
from engine.training.trainer import AnswerTrainer, Hooks, StepFacts


class Callback(TrainerCallback):
    """Logs steps and controls saving, evaluation and stopping."""

    def __init__(
        self,
        hooks: Hooks,
        trainer: AnswerTrainer,
        on_step: Callable[[int, StepFacts, float], None],
        should_stop: Callable[[], bool],
        evaluate: Callable[[int], None],
        evaluate_every: int,
        due: checkpoints.SaveTimer,
        evaluated: Collection[int] = (),
    ) -> None:
        """`evaluated`: steps that an earlier worker of the run evaluated."""
        self.hooks, self.trainer, self.on_step, self.should_stop = hooks, trainer, on_step, should_stop
        self.evaluate, self.evaluate_every, self.due = evaluate, evaluate_every, due
        self.evaluated = evaluated
        self.stopped = False
        self.rate = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Run the evaluation that an earlier worker skipped because it was stopped at this step."""
        step = state.global_step
        if step and self.evaluate_every and step % self.evaluate_every == 0 and step not in self.evaluated:
            self.evaluate(step)
        return control

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.rate = self.trainer.optimizer.param_groups[0]["lr"]
        return control

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        facts = self.hooks.facts
        facts.seconds = time.monotonic() - self.trainer.step_started
        step = state.global_step
        self.on_step(step, facts, self.rate)
        self.trainer.writer.report()
        last, ranks = step >= state.max_steps, self.trainer.ranks
        stop, save = ranks.sums(self.should_stop(), ranks.is_first and self.due.take_if_due(step))
        self.stopped = stop > 0 and not last
        control.should_save = self.stopped or last or save > 0
        control.should_training_stop = control.should_training_stop or self.stopped
        if self.evaluate_every and step % self.evaluate_every == 0 and not self.stopped:
            self.evaluate(step)
        return control
