"""Per-token loss weights: sum(weight * nll) / sum(weight) over a batch, equal to a plain padded computation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from small_models import PAD, SMALL, made
from small_training import Steps, make_training
from test_loss import ROWS, SHAPES, Forgetful, ours

from engine.config import schema
from engine.data.rows import Row
from engine.evaluation.metrics import mean_loss
from engine.evaluation.score import row_losses, summarize
from engine.runs.run.predictions import ScoredItem
from engine.training.batches import BatchSampler, Packing, answer_tokens, loss_weight
from engine.training.fit import StepFacts, fit

WEIGHTS = (0.25, 1.0, 3.0, 0.1, 1.0)


def weighted(rows: list[Row]) -> list[Row]:
    """Each row has another weight, the two spans of the first have one each, the last row has none."""
    made = []
    for row, weight in zip(rows, WEIGHTS, strict=True):
        values = [weight if label != -100 else 0.0 for label in row.labels]
        made.append(replace(row, weights=values))
    made[0].weights[3:5] = [2.0, 2.0]
    made[-1] = replace(made[-1], weights=None)
    return made


WEIGHTED = weighted(ROWS)


def reference(model: torch.nn.Module, rows: list[Row]) -> torch.Tensor:
    """Right-padded rows, LM head at every position, every token's loss times its weight."""
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask, labels, weights = torch.zeros_like(ids), torch.full_like(ids, -100), torch.zeros((len(rows), longest))
    for number, row in enumerate(rows):
        size = len(row.input_ids)
        ids[number, :size], mask[number, :size] = torch.tensor(row.input_ids), 1
        labels[number, :size] = torch.tensor(row.labels)
        weights[number, :size] = torch.tensor(row.weights or [1.0] * size)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
    labels, weights = labels[:, 1:].flatten(), weights[:, 1:].flatten() * (labels[:, 1:].flatten() != -100)
    return (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()


@pytest.mark.parametrize("shape", ["llama", "gemma2"])
@pytest.mark.parametrize("packing", ["packed", "padded"])
@pytest.mark.parametrize("micro_batch", [1, 2, 5])
def test_weighted_loss_and_gradients_are_those_of_padded_training(shape: str, packing: str, micro_batch: int) -> None:
    model = made(SHAPES[shape]).train()
    expected = reference(model, WEIGHTED)
    expected.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert ours(model, WEIGHTED, packing, micro_batch) == pytest.approx(float(expected.detach()), rel=1e-6)
    for name, parameter in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-6)


def test_weights_work_where_the_head_runs_at_every_position() -> None:
    torch.manual_seed(0)
    model = Forgetful().double()
    assert ours(model, WEIGHTED, "padded", 2) == pytest.approx(float(reference(model, WEIGHTED)), rel=1e-6)


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_held_out_loss_is_the_same_weighted_mean(packing: str) -> None:
    model = made(transformers.LlamaConfig(**SMALL))
    losses = row_losses(model, WEIGHTED, Packing(packing, 40), PAD, "cpu")
    expected = float(reference(model, WEIGHTED).detach())
    assert mean_loss(losses) == pytest.approx(expected, rel=1e-5)
    assert [loss.tokens for loss in losses] == [answer_tokens(row) for row in WEIGHTED]
    items = [ScoredItem.of(loss) for loss in losses]
    assert summarize(items, "loss", 0.0).loss.mean == pytest.approx(expected, rel=1e-5)
    assert [item.weight for item in items] == [
        *(loss.weight for loss in losses[:1]),
        None,
        *(loss.weight for loss in losses[2:4]),
        None,
    ]


def test_a_row_counts_by_its_weights_and_reports_its_token_count() -> None:
    row = Row([1, 2, 3, 4], [-100, 2, -100, 4], [1], "", "here", False, weights=[0.0, 0.5, 0.0, 0.25])
    assert (loss_weight(row), answer_tokens(row)) == (0.75, 2)
    assert loss_weight(replace(row, weights=None)) == 2


def stepped(rows: list[Row], micro_batch: int, folder: Path) -> tuple[torch.nn.Module, StepFacts]:
    """A model after one SGD step over all rows with learning rate 1."""
    config = schema.Config(method="full", train=schema.Train(learning_rate=1.0, warmup_ratio=0.0, max_grad_norm=0.0))
    sampler, model, steps = BatchSampler(len(rows), len(rows), 1, 0), made(transformers.LlamaConfig(**SMALL)), Steps()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    training = make_training(
        model, rows, sampler, config, optimizer, folder, packing=Packing("packed", 100_000), micro_batch=micro_batch
    )
    fit(training, steps)
    return model, steps.facts[0]


@pytest.mark.parametrize("micro_batch", [1, 5])
def test_a_training_step_accumulates_the_weighted_mean(micro_batch: int, tmp_path: Path) -> None:
    plain = made(transformers.LlamaConfig(**SMALL)).train()
    expected = reference(plain, WEIGHTED)
    expected.backward()
    trained, facts = stepped(WEIGHTED, micro_batch, tmp_path)
    assert facts.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert facts.answer_tokens == sum(map(answer_tokens, ROWS))
    after = dict(trained.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(after[name], parameter - parameter.grad, rtol=1e-3, atol=1e-5)
