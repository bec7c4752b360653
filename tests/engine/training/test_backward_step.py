"""Steps in the backward pass train the same weights, hold one gradient at a time, and are never half repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FULL_ATTENTION, PAD, VOCABULARY, made
from small_training import Steps, make_training

from engine.config import schema
from engine.data.rows import Row
from engine.methods.machine import Machine
from engine.methods.optimizers import make_optimizer
from engine.training.backward_step import BackwardStep
from engine.training.batches import BatchSampler, Packing
from engine.training.fit import TrainingSetup, fit
from engine.training.gradients import StepGradients
from engine.training.guards import Diverged, OutOfMemory

CPU = Machine("cpu", "a CPU", bf16=True, flash_attention=False)
STEPS = 6


def row(length: int) -> Row:
    ids = [3 + (length * 7 + place * 11) % (VOCABULARY - 3) for place in range(length)]
    return Row(ids, [-100, *ids[1:]], ids[:1], "", f"row of {length}", False)


ROWS = [row(5 + 7 * number % 40) for number in range(12)]


def training(
    folder: Path, in_backward: bool, name: str = "adamw", gradients: type[StepGradients] = StepGradients, **how: Any
) -> TrainingSetup:
    """Six steps of four rows, each one micro-batch, of a small model with dropout."""
    settings = {"rounding": how.get("rounding", "remainder"), "step_in_backward": in_backward}
    config = schema.Config(
        method="full",
        train=schema.Train(learning_rate=1e-2, batch=4, weight_decay=0.1, max_grad_norm=how.get("max_grad_norm", 0.0)),
        optimizer=schema.Optimizer(name=name, **settings),
    )
    shape = FULL_ATTENTION[how.get("model", "llama")]
    shape.attention_dropout = 0.2
    model = made(shape).to(how.get("dtype", torch.float32))
    optimizer, _ = make_optimizer(model.parameters(), config, CPU, lambda code, text: None)
    sampler = BatchSampler.of(len(ROWS), 4, 1, STEPS, 0)
    return make_training(
        model, ROWS, sampler, config, optimizer, folder, packing=Packing("packed", 10_000), micro_batch=4, pad=PAD,
        gradients=gradients,
    )  # fmt: skip


def weights(setup: TrainingSetup) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in setup.model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "offloaded_adamw_8bit"])
@pytest.mark.parametrize("model", ["llama", "gemma"])
def test_losses_norms_and_weights_equal_those_of_the_ordinary_step(
    model: str, name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """To the bit, without clipping; the head of one of the models is tied."""
    results = []
    for in_backward in (False, True):
        setup, steps = training(tmp_path / str(in_backward), in_backward, name, dtype=dtype, model=model), Steps()
        fit(setup, steps)
        results.append((steps.losses, [facts.grad_norm for facts in steps.facts], weights(setup)))
    (losses, norms, ordinary), (own_losses, own_norms, own) = results
    assert own_losses == losses
    assert own_norms == pytest.approx(norms, rel=1e-6)  # the order of tensors differs
    assert all(map(torch.equal, ordinary, own))


def test_gradients_below_the_limit_are_not_clipped_and_larger_ones_in_each_tensor(tmp_path: Path) -> None:
    def trained(max_grad_norm: float) -> list[torch.Tensor]:
        setup = training(tmp_path / str(max_grad_norm), True, max_grad_norm=max_grad_norm)
        fit(setup, Steps())
        return weights(setup)

    assert all(map(torch.equal, trained(0.0), trained(1e6)))

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8, bias=False))
    norms: list[list[float]] = []

    def look() -> None:
        norms.append([float(weight.grad.norm()) for weight in model.parameters() if weight.grad is not None])

    with BackwardStep(model, look, 0.25) as updates:
        (model(torch.full((4, 8), 3.0)) * 100).sum().backward()
    assert [len(of_update) for of_update in norms] == [1, 1, 1]
    assert all(norm <= 0.25 + 1e-6 for (norm,) in norms)
    assert updates.norm() > 100  # that before clipping
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("name", ["adamw_8bit", "offloaded_adamw_8bit"])
@pytest.mark.parametrize("rounding", ["remainder", "stochastic"])
def test_a_resumed_run_equals_an_uninterrupted_one(rounding: str, name: str, tmp_path: Path) -> None:
    def setup(folder: str) -> TrainingSetup:
        return training(tmp_path / folder, True, name, dtype=torch.bfloat16, rounding=rounding)

    whole, steps = setup("whole"), Steps(save_at=3)
    fit(whole, steps)
    resumed, rest = setup("resumed"), Steps()
    fit(resumed, rest, tmp_path / "whole" / "step-3")
    assert rest.losses == steps.losses[3:]
    assert all(map(torch.equal, weights(whole), weights(resumed)))


class NoMemory(StepGradients):
    """Memory runs out in the second half of the backward pass of step 3, after some updates."""

    def compute(self, rows: list[Row], step: int) -> torch.Tensor:
        layer = self.model.model.layers[0]

        def full(gradient: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        handle = layer.mlp.down_proj.weight.register_hook(full) if step == 2 else None
        try:
            return super().compute(rows, step)
        finally:
            if handle:
                handle.remove()


def test_a_step_without_memory_ends_the_run(tmp_path: Path) -> None:
    """In an ordinary step the same error is repaired by smaller micro-batches."""
    setup, steps = training(tmp_path, True, gradients=NoMemory), Steps(save_at=2)
    with pytest.raises(OutOfMemory):
        fit(setup, steps)
    assert len(steps.losses) == 2 and [folder.name for folder in tmp_path.glob("step-*")] == ["step-2"]


def poisoned(setup: TrainingSetup) -> Callable[[], object]:
    """Makes the gradient of one weight infinite, from the step after the next checkpoint on."""
    return lambda: setup.model.model.layers[0].mlp.down_proj.weight.register_hook(lambda gradient: gradient / 0)


def test_nothing_is_saved_after_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    setup = training(tmp_path, True)
    steps = Steps(save_at=2)
    steps._began = lambda: poisoned(setup)() if len(steps.facts) == 2 else None
    with pytest.raises(Diverged, match="gradient norm is not finite at step 3"):
        fit(setup, steps)
    assert [folder.name for folder in tmp_path.glob("step-*")] == ["step-2"]
