"""Bounds of a training step, a held-out loss and a decoding step on a GPU: layers of an 8B model on fake tensors."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from places import TESTS
from step_audit import Bound, OperationCounter, audit_method, bounds, rows_of
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.config.preset import Preset, resolve
from engine.data.rows import Row
from engine.extensions.doctor.training_session import log_normal_lengths
from engine.training.batches import Packing, choose_packing, collate, micro_batches

LLAMA_8B = transformers.LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=2,  # of 32: every bound holds per layer
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
    tie_word_embeddings=False,
)
LENGTHS: dict[str, list[int]] = json.loads((TESTS / "fixtures" / "row_lengths.json").read_text())
"""128 quantiles of the lengths of training rows in SmolLM2's tokens."""
LENGTHS["log-normal"] = log_normal_lengths(128, 2048)
LAYER = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
HEAD = 4096 * 128256
ADAPTERS = 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))
"""Weights of a layer, of the head, and of a layer's adapters of rank 16."""


def audited(method: str, rows: list[Row], **settings: Any) -> Any:
    values = {"train.gradient_checkpointing": False, "train.batch": len(rows), **settings}
    return audit_method(resolve(Preset("audit", values), method).config, LLAMA_8B, rows, 4)


def exceeded(checked: list[Bound]) -> list[str]:
    return [f"{bound.name} {bound.value}" for bound in checked if not bound.kept]


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_a_step_keeps_every_bound(method: str) -> None:
    rows = rows_of(LENGTHS["log-normal"][:8])
    audit = audited(method, rows)
    assert exceeded(bounds(audit)) == []
    assert audit.training.micro_batches >= 2 and set(audit.training.matmul) == {"bfloat16"}
    assert audit.decoding.flops and audit.held_out.flops
    # bitsandbytes updates all weights: two layers of 9 tensors, embeddings, last norm, head
    assert audit.training.optimizer_waits == (2 * 9 + 3 if method == "full" else 0)
    tokens, answers = audit.tokens, sum(label != -100 for row in rows for label in row.labels[1:])
    passes = 3 if method == "full" else 2
    adapters = 0 if method == "full" else 3 * ADAPTERS
    in_layers, in_head = 2 * tokens * 2 * (LAYER * passes + adapters), 2 * answers * HEAD * passes
    assert audit.required_flops == in_layers + in_head


def test_an_optimizer_that_waits_at_every_tensor_is_counted() -> None:
    audit = audited("qlora", rows_of([64] * 4), **{"optimizer.name": "adamw_8bit"})
    assert audit.training.optimizer_waits == audit.optimizer_tensors == 2 * 7 * 2


@pytest.mark.parametrize("name", LENGTHS)
def test_few_tokens_are_computed_in_addition_to_those_of_the_rows(name: str) -> None:
    rows = rows_of(sorted(LENGTHS[name], key=lambda length: length * 7919 % 128))
    packing = choose_packing(rows, "auto", "cuda", True, True)
    computed = 0
    for start in range(0, len(rows), 16):
        for group in micro_batches(rows[start : start + 16], 16, packing):
            computed += sum(len(row.input_ids) for row in group) if packing.one_sequence else padded_tokens(group)
    assert computed / sum(len(row.input_ids) for row in rows) <= 1.05
    batch = collate(rows[:16], packing, 0, "cpu").tokens  # of 64 on a CPU
    assert batch - sum(len(row.input_ids) for row in rows[:16]) < 64


def padded_tokens(rows: list[Row]) -> int:
    return len(rows) * max(len(row.input_ids) for row in rows)


def test_padded_rows_exceed_the_bound_on_tokens_and_masks() -> None:
    """The bounds fail where they should: padding, and a float32 base with bf16 autocast."""
    rows = rows_of(LENGTHS["log-normal"][8:16])
    named = {bound.name for bound in bounds(audited("lora", rows, **{"train.packing": "padded"})) if not bound.kept}
    assert {"tokens computed / real", "materialized T x T attention masks", "repeated keys and values"} <= named


def test_logits_of_a_whole_batch_and_float32_products_are_counted() -> None:
    counter = OperationCounter("cuda", 128256)
    with FakeTensorMode(allow_non_fake_inputs=True), counter:
        hidden, weight = torch.empty(2048, 4096), torch.empty(128256, 4096)
        logits = hidden @ weight.T
        assert float(logits.sum()) == 1.0
        logits[torch.ones(2048, dtype=torch.bool)]
    assert counter.matmul == {torch.float32: 2 * 2048 * 4096 * 128256}
    assert counter.peak_logits >= 4 * 2048 * 128256
    assert sum(counter.waits.values()) >= 1


def test_packing_is_chosen_without_a_mask() -> None:
    assert choose_packing(rows_of([600] * 8), "auto", "cuda", True, True) == Packing("packed", 65536, True)
