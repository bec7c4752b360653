"""Generation and held-out loss: predicted memory matches, and batch sizes do not change results."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest
import torch
from model_shapes import MIXED_SHAPES
from places import TOOLS
from small_models import FULL_ATTENTION, OTHER_CACHES, PAD, asked, generator, made, random_prompts
from transformers.cache_utils import DynamicSlidingWindowLayer

from engine.config.device_defaults import MAX_TOKENS
from engine.data.rows import Row
from engine.evaluation.score import row_losses
from engine.evaluation.worst_case import _append, longest_answers, run_worst_case
from engine.memory.dry_run import memory_tracker
from engine.memory.dry_run.dry_run import dry_run
from engine.memory.formula import weights_and_state
from engine.memory.formula.formula import formula
from engine.methods.machine import Machine
from engine.training import batches
from engine.training.batches import Packing

sys.path.insert(0, str(TOOLS))
from planning.answering import check_answering
from planning.grid import SHAPES, case
from planning.measure import MACHINE, answering_apart, profiled

GPU = Machine("cuda", "a GPU", bf16=True, flash_attention=False)
WITHOUT_BF16 = Machine("cpu", "a CPU with AVX-512", bf16=False, flash_attention=False)


@pytest.mark.parametrize("shape", ["Gemma 3, small", "Qwen2, small"])
def test_the_predicted_memory_of_generate_is_what_it_takes(shape: str) -> None:
    """Eight answers of maximum length."""
    configuration = case(shape, "lora", False, 128, 2)
    plan = dry_run(configuration.config, SHAPES[configuration.shape], MACHINE, configuration.rows)
    check_answering(configuration, plan, answering_apart(configuration, 8))


def test_real_generation_stays_below_the_prediction() -> None:
    """Sixteen prompts, eight at a time, all with answers of maximum length."""
    configuration = case("Qwen2, small", "lora", False, 128, 2)
    plan = dry_run(configuration.config, SHAPES[configuration.shape], MACHINE, configuration.rows)
    assert plan.answering
    assert answering_apart(configuration, 16) <= 1.02 * plan.answering.total


GROWING = {
    "llama": FULL_ATTENTION["llama"],
    "windows in some layers": OTHER_CACHES["windows in some layers"],
    "linear attention": MIXED_SHAPES["linear attention"],
}


@pytest.mark.parametrize(("tokens", "limit"), [(40, 2048), (2, 2048), (2, 48)], ids=["answers", "prompts", "parts"])
@pytest.mark.parametrize("name", GROWING)
def test_the_worst_case_of_generate_is_what_it_allocates(
    name: str, tokens: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a few bytes, whether the last token or reading the prompts at once or in parts needs most."""
    monkeypatch.setitem(MAX_TOKENS, "cpu", limit)
    model, prompts = made(GROWING[name]), random_prompts([9, 24, 60, 40])
    ours, largest = generator(4, tokens, frozenset({210})), longest_answers(prompts, 4, tokens)
    assert largest
    ours.answer_tokens(model, asked(prompts))
    real = profiled(lambda: ours.answer_tokens(model, asked(prompts)))
    predicted = profiled(lambda: run_worst_case(model, largest, PAD, "cpu"))
    assert real - 512 <= predicted <= 1.03 * real


def test_columns_appended_together_keep_as_much_memory_as_part_by_part() -> None:
    """In a layer with a sliding window, which keeps the memory of its latest update."""
    kept = []
    for appended in (lambda layer: _append(layer, 48, 4), lambda layer: [_append(layer, 4, 4) for _ in range(12)]):
        layer = DynamicSlidingWindowLayer(sliding_window=33)
        layer.update(torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 4, 8))
        appended(layer)
        kept.append((layer.get_seq_length(), layer.keys.shape, layer.keys.untyped_storage().nbytes()))
    assert kept[0] == kept[1] == (52, (2, 3, 32, 8), 2 * 3 * (32 + 4) * 8 * 4)


@pytest.mark.parametrize("machine", [MACHINE, WITHOUT_BF16, GPU], ids=["cpu", "cpu without bf16", "cuda"])
@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_the_formula_gives_the_evaluation_peaks_of_the_dry_run(
    method: Any, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (memory_tracker, weights_and_state):  # on any machine
        monkeypatch.setattr(module, "sums_bf16_in_float32", lambda: True)
    configuration = case("Qwen2, small", method, False, 128, 2)
    shape, train = SHAPES[configuration.shape], msgspec.structs.replace(configuration.config.train, precision="bf16")
    config = msgspec.structs.replace(configuration.config, train=train)
    exact = dry_run(config, shape, machine, configuration.rows)
    estimate = formula(config, shape.to_dict(), machine.device, configuration.rows, machine.bf16)
    for measured, estimated in ((exact.held_out, estimate.held_out), (exact.answering, estimate.answering)):
        assert measured and estimated
        tensors = [peak.total - peak.parts.get("pool", 0) for peak in (measured, estimated)]
        assert tensors[1] == pytest.approx(tensors[0], rel=0.05)


def test_longest_prompts_come_first_and_no_more_than_a_batch() -> None:
    longest = longest_answers([[1], [1, 2, 3], [1, 2]], 2, 8)
    assert longest and [len(prompt) for prompt in longest.prompts] == [3, 2]
    assert longest_answers([], 2, 8) is None


@pytest.mark.parametrize("name", [*FULL_ATTENTION, *OTHER_CACHES])
@pytest.mark.parametrize("choosing", [False, True], ids=["generating", "choosing"])
def test_running_the_worst_case_does_not_change_answers(name: str, choosing: bool) -> None:
    model = made({**FULL_ATTENTION, **OTHER_CACHES}[name])
    prompts = random_prompts([9, 14, 20, 11, 30])
    before = generator(batch=3).answers(model, asked(prompts))
    largest = longest_answers(prompts, 3, 12, choosing)
    assert largest
    run_worst_case(model, largest, PAD, "cpu")
    assert generator(batch=3).answers(model, asked(prompts)) == before


@pytest.mark.parametrize("packing", [Packing("padded", 4000), Packing("packed", 4000)], ids=["padded", "packed"])
def test_losses_do_not_depend_on_the_batch_size(packing: Packing, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(FULL_ATTENTION["llama"])
    rows = []
    for number, ids in enumerate(random_prompts([12, 40, 25, 33, 8, 19])):
        cut = len(ids) // 2 + number % 3
        rows.append(Row(ids, [-100] * cut + ids[cut:], ids[:cut], "", f"row {number}", False))
    large = row_losses(model, rows, packing, PAD, "cpu")
    for logits in (1, 40 * 211, 90 * 211):
        monkeypatch.setattr(batches, "HELD_OUT_LOGITS", logits)
        small = row_losses(model, rows, packing, PAD, "cpu")
        assert [loss.tokens for loss in small] == [loss.tokens for loss in large]
        torch.testing.assert_close(*([loss.nll for loss in losses] for losses in (small, large)), rtol=1e-5, atol=1e-5)


def test_a_batch_has_at_most_the_allowed_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "HELD_OUT_LOGITS", 100 * 50)
    rows = [Row([1] * 30, [-100] * 20 + [1] * 10, [1], "", "", False) for _ in range(23)]
    groups = list(batches.held_out_batches(rows, Packing("padded", 4000), "cpu", 100, answers_only=True))
    assert [len(group) for group in groups] == [5, 5, 5, 5, 3]
    whole = list(batches.held_out_batches(rows, Packing("padded", 4000), "cpu", 100, answers_only=False))
    assert {len(group) for group in whole} == {1}


def test_metric_loss_plans_no_answers() -> None:
    configuration = case("Qwen2, small", "lora", False, 128, 2)
    config = msgspec.structs.replace(
        configuration.config, evaluation=msgspec.structs.replace(configuration.config.evaluation, metric="loss")
    )
    plan = dry_run(config, SHAPES[configuration.shape], MACHINE, configuration.rows)
    assert plan.answering is None and plan.evaluation == plan.held_out
