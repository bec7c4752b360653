"""When the loss of a step is known: while the next step is computed on a GPU, and before anything depends on it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import PAD, SMALL, VOCABULARY
from small_training import Steps, make_training
from transformers import LlamaConfig, LlamaForCausalLM

from engine.config import schema
from engine.data.rows import Row
from engine.training.batches import BatchSampler, Packing
from engine.training.fit import clip_gradients, fit
from engine.training.gradients import StepGradients
from engine.training.guards import Diverged

STEPS = 6


class Traced(Steps):
    """Writes down what happens, validates after step 2 and saves after step 4."""

    saves_end = True

    def __init__(self, happened: list[str]) -> None:
        super().__init__(save_at=4)
        self.happened = happened

    def step(self, facts: Any) -> None:
        super().step(facts)
        self.happened.append(f"known {facts.step}")

    def validates(self, step: int, last: bool) -> bool:
        return step == 2

    def validation_loss(self, step: int) -> float:
        self.happened.append(f"validated {step}")
        return 1.0


class TracedGradients(StepGradients):
    happened: list[str]
    nan_at = -1

    def compute(self, rows: list[Row], step: int) -> torch.Tensor:
        self.happened.append(f"computed {step + 1}")
        loss = super().compute(rows, step)
        return loss * (float("nan") if step + 1 == self.nan_at else 1.0)


def trained(folder: Path, late: bool, nan_at: int = -1) -> tuple[list[str], list[float]]:
    """What happened in STEPS steps, and their losses; raises Diverged if the loss of step `nan_at` is not finite."""
    generator = random.Random(0)
    rows = []
    for _ in range(12):
        ids = generator.choices(range(3, VOCABULARY), k=generator.randint(5, 20))
        rows.append(Row(ids, ids, ids[:1], "", "here", False))
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    happened: list[str] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: happened.append("updated"))
    config = schema.Config(method="full", train=schema.Train(batch=4, max_grad_norm=0.5))
    training = make_training(
        model, rows, BatchSampler.of(12, 4, 1, STEPS, 0), config, optimizer, folder, packing=Packing("packed", 1000),
        micro_batch=4, pad=PAD, gradients=TracedGradients, keep=9,
        saved=lambda saved: happened.append(f"saved {saved.step}"),
    )  # fmt: skip
    assert isinstance(training.gradients, TracedGradients)
    training.gradients.happened, training.gradients.nan_at, training.reads_late = happened, nan_at, late
    record = Traced(happened)
    try:
        fit(training, record)
    except Diverged as error:
        happened.append(str(error))
    return happened, record.losses


def test_a_late_loss_is_known_before_the_next_update_and_before_what_is_due(tmp_path: Path) -> None:
    happened, losses = trained(tmp_path / "late", late=True)
    assert happened == [
        "computed 1", "updated", "computed 2", "known 1", "updated", "known 2", "validated 2",
        "computed 3", "updated", "computed 4", "known 3", "updated", "known 4", "saved 4",
        "computed 5", "updated", "computed 6", "known 5", "updated", "known 6", "saved 6",
    ]  # fmt: skip
    at_once, same = trained(tmp_path / "at once", late=False)
    assert same == losses and at_once[:6] == ["computed 1", "updated", "known 1", "computed 2", "updated", "known 2"]


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_nothing_is_validated_or_saved_after_a_loss_that_is_not_finite(step: int, late: bool, tmp_path: Path) -> None:
    happened, losses = trained(tmp_path / "run", late, nan_at=step)
    assert f"the loss is not finite at step {step}" in happened.pop() and len(losses) == step - 1
    assert happened.count("updated") == step
    assert ("validated 2" in happened) == (step > 2)
    assert [folder.name for folder in tmp_path.glob("run/step-*")] == ["step-4"] * (step > 4)


def test_the_norm_of_bf16_gradients_is_not_rounded_to_bf16() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.Linear(40, 5))
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    def give(dtype: torch.dtype) -> None:
        model.to(dtype)
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            weight.grad = gradient.to(dtype, copy=True)

    expected = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    clipped = [weight.grad for weight in model.parameters()]
    give(torch.float32)
    assert torch.equal(clip_gradients(model, 1.0), expected)  # in float32 as torch does it, to the bit
    assert all(map(torch.equal, clipped, [weight.grad for weight in model.parameters()]))
    give(torch.bfloat16)
    norm = clip_gradients(model, 0.0)
    assert norm.dtype == torch.float32 and float(norm) == pytest.approx(float(expected), rel=1e-4)
    assert float(norm.bfloat16()) != pytest.approx(float(expected), rel=1e-4)
