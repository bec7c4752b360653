"""The answer-only loss has the same value and gradients as plain padded training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from model_shapes import SHAPES, VOCABULARY

from engine.data.rows import Row
from engine.training.batches import Packing, collate, loss_weight, micro_batches
from engine.training.loss import SummedCrossEntropy, summed_loss, supports_logits_to_keep


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(SHAPES[request.param])
    for module in made.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return made.train()


def rows_of_lengths(*lengths: tuple[int, int]) -> list[Row]:
    """Rows of (prompt, answer) tokens; the first also trains a span in its middle."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for prompt, answer in lengths:
        ids = torch.randint(1, VOCABULARY, (prompt + answer,), generator=generator).tolist()
        labels = [-100] * prompt + ids[prompt:]
        rows.append(Row(ids, labels, ids[:prompt], "", "here", False))
    rows[0].labels[3:5] = rows[0].input_ids[3:5]
    return rows


ROWS = rows_of_lengths((9, 4), (3, 12), (17, 2), (5, 5), (11, 7))


PACKED = Packing("packed", 1000)


def reference(model: torch.nn.Module, rows: list[Row]) -> torch.Tensor:
    """Reference: right-padded rows, LM head at every position, mean over unmasked labels."""
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        size = len(row.input_ids)
        ids[number, :size], mask[number, :size] = torch.tensor(row.input_ids), 1
        labels[number, :size] = torch.tensor(row.labels)
    logits = model(input_ids=ids, attention_mask=mask).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def ours(model: torch.nn.Module, rows: list[Row], layout: Any, micro_batch: int) -> float:
    """A training step: micro-batches that each contribute a share of the batch's loss."""
    count = sum(map(loss_weight, rows))
    total = 0.0
    packing = Packing(layout, 1000)
    for group in micro_batches(rows, micro_batch, packing):
        loss = summed_loss(model, collate(group, packing, 0, "cpu"), supports_logits_to_keep(model)) / count
        loss.backward()
        total += float(loss.detach())
    return total


@pytest.mark.parametrize("packing", ["packed", "padded"])
@pytest.mark.parametrize("micro_batch", [1, 2, 5])
def test_same_loss_and_gradients_as_padded_training(model: torch.nn.Module, packing: str, micro_batch: int) -> None:
    expected = reference(model, ROWS)
    expected.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert ours(model, ROWS, packing, micro_batch) == pytest.approx(float(expected), rel=1e-6)
    for name, parameter in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-6)


class Forgetful(torch.nn.Module):
    """A model that ignores positions: it attends to all earlier tokens, including those of other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(VOCABULARY, 16)
        self.head = torch.nn.Linear(16, VOCABULARY)

    def forward(
        self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, use_cache: Any = False
    ) -> Any:
        hidden = self.embed(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        return transformers.modeling_outputs.CausalLMOutput(logits=self.head(hidden.cumsum(1)))


def test_without_logits_to_keep_the_padded_loss_is_the_same() -> None:
    torch.manual_seed(0)
    model = Forgetful().double()
    assert not supports_logits_to_keep(model)
    assert ours(model, ROWS, "padded", 2) == pytest.approx(float(reference(model, ROWS)), rel=1e-6)


def test_cross_entropy_gradient_is_exact() -> None:
    torch.manual_seed(0)
    logits = torch.randn(7, 33, requires_grad=True)
    targets = torch.randint(0, 33, (7,))
    (SummedCrossEntropy.apply(logits, targets) * 0.5).backward()
    ours = logits.grad.clone()
    logits.grad = None
    (F.cross_entropy(logits, targets, reduction="sum") * 0.5).backward()
    torch.testing.assert_close(ours, logits.grad)


def test_logits_of_some_answers_only_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^3 .*\blogits .*\b5 targets"):
        SummedCrossEntropy.apply(torch.zeros(3, VOCABULARY), torch.zeros(5, dtype=torch.long))
