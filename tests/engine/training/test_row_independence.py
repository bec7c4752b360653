"""Rows that are computed together do not influence each other, exactly; whatever mixes them is found."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers
from model_shapes import MIXED_SHAPES, SHAPES, VOCABULARY

from engine.data.rows import Row
from engine.training import varlen_attention
from engine.training.batches import Packing
from engine.training.row_independence import rows_are_independent

PACKED = Packing("packed", 10_000)
PADDED = Packing("padded", 10_000)
SEGMENTS = Packing("packed", 10_000, segments=True)
SHARED = Packing("shared_prefix", 10_000, segments=True)


def row(ids: list[int]) -> Row:
    return Row(ids, [-100, *ids[1:]], ids[:1], "", "here", False)


def tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(3, VOCABULARY), k=count)


ROWS = [row(tokens(length, length)) for length in (9, 14, 21, 30)]
WITH_PREFIX = [row(tokens(40, 0) + tokens(length, length)) for length in (4, 7, 9, 12)]


def model_of(config: Any, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_with_positions_keeps_rows_apart(shape: str, dtype: torch.dtype) -> None:
    for packing in (PACKED, PADDED):
        independence = rows_are_independent(model_of(SHAPES[shape], dtype), ROWS, packing, 0, "cpu")
        assert independence.holds, independence.reason
        assert independence.gradient == independence.moved == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_over_segments_keeps_rows_apart(dtype: torch.dtype) -> None:
    model = model_of(SHAPES["llama"], dtype)
    varlen_attention.enable(model)
    for packing, rows in ((SEGMENTS, ROWS), (SHARED, WITH_PREFIX)):
        independence = rows_are_independent(model, rows, packing, 0, "cpu")
        assert independence.holds and independence.gradient == independence.moved == 0, independence


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mechanism", MIXED_SHAPES)
def test_whatever_mixes_packed_rows_is_found(mechanism: str, dtype: torch.dtype) -> None:
    model = model_of(MIXED_SHAPES[mechanism], dtype)
    assert rows_are_independent(model, ROWS, PACKED, 0, "cpu").gradient > 1e-4
    padded = rows_are_independent(model, ROWS, PADDED, 0, "cpu")
    assert padded.holds, padded.reason


class Mixing(torch.nn.Module):
    """Adds a small part of the sum of all earlier tokens of the sequence to each token, detached or not."""

    def __init__(self, part: float = 1e-3, detached: bool = False, restarts: bool = True) -> None:
        super().__init__()
        self.part, self.detached, self.restarts = part, detached, restarts
        self.embed = torch.nn.Embedding(VOCABULARY, 16)
        self.positions = torch.nn.Embedding(128, 16)
        self.head = torch.nn.Linear(16, VOCABULARY)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(
        self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, use_cache: Any = False
    ) -> Any:
        hidden = self.embed(input_ids)
        places = position_ids if self.restarts else torch.arange(input_ids.shape[1]).expand_as(input_ids)
        earlier = hidden.cumsum(1) - hidden
        earlier = earlier.detach() if self.detached else earlier
        return transformers.modeling_outputs.CausalLMOutput(
            logits=self.head(hidden + self.part * earlier + self.positions(places))
        )


def test_a_small_leak_is_found_by_its_gradient_or_by_its_value() -> None:
    torch.manual_seed(0)
    assert rows_are_independent(Mixing(), ROWS, PACKED, 0, "cpu").gradient > 0
    detached = rows_are_independent(Mixing(detached=True), ROWS, PACKED, 0, "cpu")
    assert detached.gradient == 0 and detached.moved > 1e-4 and not detached.holds


def test_padding_that_reaches_a_row_is_found() -> None:
    torch.manual_seed(0)
    assert not rows_are_independent(Mixing(), ROWS, PADDED, 0, "cpu").holds
    assert rows_are_independent(Mixing(), ROWS[:1], PACKED, 0, "cpu").holds  # a row alone: its padding comes after it


def test_positions_that_do_not_start_again_are_found() -> None:
    torch.manual_seed(0)
    independence = rows_are_independent(Mixing(part=0.0, restarts=False), ROWS, PACKED, 0, "cpu")
    assert independence.gradient == independence.moved == 0 and independence.alone > 1e-2 and not independence.holds


def test_nothing_is_changed_by_the_check() -> None:
    model = model_of(SHAPES["gpt2"]).train()  # with dropout
    state = torch.get_rng_state()
    weights = {name: (weight.clone(), weight.requires_grad) for name, weight in model.named_parameters()}
    rows_are_independent(model, ROWS, PACKED, 0, "cpu")
    assert model.training and torch.equal(torch.get_rng_state(), state)
    for name, weight in model.named_parameters():
        before, required = weights[name]
        assert torch.equal(weight, before) and weight.requires_grad == required and weight.grad is None


@pytest.mark.parametrize("lengths", [(1, 1, 5), (1,), (3,), (1, 40), (400, 300)])
def test_rows_of_any_length_are_checked(lengths: tuple[int, ...]) -> None:
    rows = [row(tokens(length, length)) for length in lengths]
    config = transformers.LlamaConfig(**{**SHAPES["llama"].to_diff_dict(), "max_position_embeddings": 1024})
    assert rows_are_independent(model_of(config), rows, PACKED, 0, "cpu").holds


def test_equal_rows_are_checked() -> None:
    mixed, right = model_of(MIXED_SHAPES["short convolution"]), model_of(SHAPES["llama"])
    equal = [row(tokens(12, 1))] * 3
    assert not rows_are_independent(mixed, equal, PACKED, 0, "cpu").holds
    assert rows_are_independent(right, [row([7] * 12)] * 2, PACKED, 0, "cpu").holds
