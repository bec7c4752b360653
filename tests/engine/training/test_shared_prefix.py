"""Prefixes that rows share are computed once: the same losses and gradients as rows in a padded batch."""

from __future__ import annotations

import random

import pytest
import torch
from model_shapes import SHAPES, VOCABULARY

from engine.data.tokens import Row
from engine.training import varlen_attention
from engine.training.batches import micro_batches
from engine.training.collation import IGNORED, Packing, collate, loss_weight
from engine.training.loss import keeps_logits, summed_loss

SHARED = Packing("shared_prefix", 10_000, segments=True)
PACKED = Packing("packed", 10_000, segments=True)
PADDED = Packing("padded", 10_000)


def row(prompt: list[int], answer: list[int], trained: tuple[int, ...] = (), weights: list[float] | None = None) -> Row:
    """A row whose answer is in the loss, and the prompt tokens at the places `trained`."""
    labels = [token if place in trained else IGNORED for place, token in enumerate(prompt)] + answer
    return Row(prompt + answer, labels, prompt, "", "here", False, weights)


def tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(1, VOCABULARY), k=count)


def shared_rows() -> list[Row]:
    """Two levels of prefixes, a row that is a prefix of others, equal rows, a row alone, and turns trained in a prefix
    by some of the rows.
    """
    system, document, other = tokens(20, 1), tokens(15, 2), tokens(12, 3)
    rows = [row(system + document + tokens(4, 10 + n), tokens(3, 20 + n)) for n in range(3)]
    rows += [row(system + other + tokens(2, 30 + n), tokens(5, 40 + n), trained=(4, 5, 22)) for n in range(3)]
    rows += [row(system + document, tokens(4, 10)), row(system + document, tokens(4, 10))]
    rows += [row(system + document, [7]), row(system + document, [9]), row(tokens(17, 50), tokens(6, 51))]
    return rows


def model_of(shape: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    import transformers

    torch.manual_seed(0)
    config = SHAPES[shape]
    for name in ("sliding_window",):
        if getattr(config, name, None):
            config = type(config)(**{**config.to_dict(), name: 64})
    made = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    for module in made.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if hasattr(made.config, "attn_pdrop"):
        made.config.attn_pdrop = 0.0
    return made.train()


def loss_and_gradients(
    model: torch.nn.Module, rows: list[Row], packing: Packing, micro_batch: int = 100
) -> tuple[float, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    total, weight = 0.0, sum(map(loss_weight, rows))
    for portion in micro_batches(rows, micro_batch, packing):
        loss = summed_loss(model, collate(portion, packing, 0, "cpu"), keeps_logits(model)) / weight
        loss.backward()
        total += float(loss.detach())
    gradients = [p.grad.flatten().float() for p in model.parameters() if p.grad is not None]
    return total, torch.cat(gradients)


def relative(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / second.norm())


SUPPORTED = [shape for shape in SHAPES if shape != "gemma2"]


@pytest.mark.parametrize("shape", SUPPORTED)
@pytest.mark.parametrize("packing", [SHARED, PACKED], ids=["shared", "packed"])
@pytest.mark.parametrize("micro_batch", [100, 4])
def test_losses_and_gradients_equal_those_of_a_padded_batch(shape: str, packing: Packing, micro_batch: int) -> None:
    model, rows = model_of(shape), shared_rows()
    assert varlen_attention.unsupported_reason(model, 64) == ""
    loss, gradients = loss_and_gradients(model, rows, PADDED, micro_batch)
    varlen_attention.enable(model)
    ours, ours_gradients = loss_and_gradients(model, rows, packing, micro_batch)
    assert ours == pytest.approx(loss, rel=1e-5)
    assert relative(ours_gradients, gradients) < 1e-5
