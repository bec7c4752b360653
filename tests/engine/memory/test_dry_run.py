"""The dry run compared with the CPU allocator on small models; `tools/planner.py` has the complete grid."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from places import TOOLS
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.config.preset import Preset, resolve
from engine.data.rows import Row
from engine.hardware import cpu
from engine.memory.dry_run import dry_run as planner
from engine.memory.dry_run.dry_run import dry_run
from engine.memory.dry_run.memory_tracker import DenseFakeTensorMode
from engine.memory.dry_run.plan import as_measured, estimate_run
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_step
from engine.memory.formula.automatic import chosen_savings, describe_savings
from engine.memory.formula.estimate import CONTEXT, StepShape
from engine.methods.machine import Machine
from engine.training.batches import BatchSampler, Packing

sys.path.insert(0, str(TOOLS))
from planning.answering import check_answering
from planning.grid import SHAPES, case
from planning.measure import MACHINE, measured_apart

GPU = Machine("cuda", "a GPU", bf16=True, flash_attention=False)
ROWS = StepShape(count=4, length=128, answer=32)
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
MAX_UNDERESTIMATE = 0.04 if torch.cpu._is_amx_tile_supported() else 0.02
"""Of training. With AMX, oneDNN copies blocks of a product's matrices, which the dry run does not count: 0.46 of the
13.1 MB of the smallest case."""


@pytest.mark.parametrize(
    ("method", "checkpointing"), [("qlora", True), ("lora", False), ("full", False), ("full", True)]
)
def test_predicted_peaks_equal_the_allocators(method: Any, checkpointing: bool) -> None:
    configuration = case("Qwen2, small", method, checkpointing, 128, 2)
    plan = dry_run(configuration.config, SHAPES[configuration.shape], MACHINE, configuration.rows)
    real = measured_apart(configuration)
    assert plan.static == pytest.approx(real.static, rel=0.01)
    assert -MAX_UNDERESTIMATE < plan.training.total / real.training - 1 < 0.05
    assert -0.02 < plan.held_out.total / real.held_out - 1 < 0.05
    check_answering(configuration, plan, real.answering)


def config(method: Any, **settings: Any) -> Any:
    return resolve(Preset("test", {key.replace("__", "."): value for key, value in settings.items()}), method).config


@pytest.mark.parametrize(("method", "precision"), [("qlora", "bf16"), ("full", "mixed")])
def test_results_are_cached_and_equal_those_of_torch_in_inference_mode(
    method: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, shape = config(method, train__precision=precision), transformers.LlamaConfig(**TINY)
    FakeTensorMode.cache_clear()
    plan = dry_run(settings, shape, MACHINE, ROWS)
    assert sum(FakeTensorMode.cache_info().bypasses.values()) < 50
    monkeypatch.setattr(planner, "DenseFakeTensorMode", partial(FakeTensorMode, allow_non_fake_inputs=True))
    monkeypatch.setattr(planner, "no_grad", torch.inference_mode)
    assert dry_run(settings, shape, MACHINE, ROWS) == plan


def test_results_that_a_cache_key_does_not_determine_are_not_cached() -> None:
    real = torch.zeros(4)
    with DenseFakeTensorMode():
        numbers = torch.empty(4, 4, dtype=torch.complex64)
        assert [tensor.view(16).is_conj() for tensor in (numbers, numbers.conj())] == [False, True]
        assert [real.view(2, 2).shape for _ in range(2)] == [(2, 2), (2, 2)]


def test_tied_embeddings_are_counted_once() -> None:
    tied, apart = (
        dry_run(config("full"), transformers.LlamaConfig(**TINY, tie_word_embeddings=tie), MACHINE, ROWS)
        for tie in (True, False)
    )
    assert apart.training.parts["weights"] - tied.training.parts["weights"] == 512 * 64 * 4


def test_mixture_of_experts_runs_without_values() -> None:
    shape = transformers.Qwen3MoeConfig(
        **TINY, moe_intermediate_size=64, num_experts=4, num_experts_per_tok=2, head_dim=16
    )
    plan = dry_run(config("lora"), shape, MACHINE, ROWS)
    assert plan.training.parts["activations"] > 0


def test_a_plan_allocates_nothing_and_does_not_change_the_configuration() -> None:
    shape = transformers.LlamaConfig(
        **{**TINY, "hidden_size": 8192, "intermediate_size": 32768, "num_hidden_layers": 4}
    )
    before = shape.to_dict()
    plan = dry_run(config("full"), shape, GPU, ROWS)
    assert plan.static > 20e9  # more than a test machine would give
    assert shape.to_dict() == before
    assert torch.get_default_dtype() == torch.float32


def test_paged_state_is_counted_and_named() -> None:
    paged, plain = (
        dry_run(config("full", optimizer__name=name), transformers.LlamaConfig(**TINY), GPU, ROWS)
        for name in ("paged_adamw_8bit", "adamw_8bit")
    )
    assert paged.static == plain.static
    assert (paged.paged, plain.paged) == (True, False)


def test_scales_and_remainders_of_paged_state_are_in_the_pool() -> None:
    plan = dry_run(config("full", optimizer__name="paged_adamw_8bit"), transformers.LlamaConfig(**TINY), GPU, ROWS)
    shown = as_measured(plan, plan.training)
    assert plan.training.total - CONTEXT - shown == 2 * plan.trainable
    assert plan.training.parts["optimizer"] - 2 * plan.trainable > 2 * plan.trainable


@pytest.mark.parametrize("settings", [{}, {"train__gradient_checkpointing": False}, {"train__probe": False}])
def test_a_run_pages_optimizer_state_only_where_it_does_not_fit_with_headroom(settings: dict[str, Any]) -> None:
    rows = [Row([1] * 64, [1] * 64, [1], "", str(number), False) for number in range(8)]
    packing, sampler = Packing("packed", 100_000), BatchSampler.of(8, 8, 1.0, 1, 0)
    own = WorstCaseBatches(packing, longest_step(rows, sampler, 0, 8, packing), [], [], 1, 0)
    shape = transformers.LlamaConfig(**TINY)

    def paged(limit: int) -> bool:
        adapters = config("lora", optimizer__name="auto", **settings)
        estimates = estimate_run(adapters, shape, GPU, own, 8, lambda code, text: None, limit)
        assert estimates.best is not None
        assert estimates.config.optimizer.name == ("paged_adamw_8bit" if estimates.best.paged else "adamw_8bit")
        return estimates.best.paged

    assert (paged(8 << 30), paged(1 << 20)) == (False, True)


def test_full_fine_tuning_without_room_updates_whole_steps_with_state_on_the_host() -> None:
    """The plan of a run, whose batches are then no longer split; with much room nothing of it is chosen."""
    rows = [Row([1] * 64, [1] * 64, [1], "", str(number), False) for number in range(8)]
    packing, sampler = Packing("packed", 128), BatchSampler.of(8, 8, 1.0, 1, 0)
    own = WorstCaseBatches(packing, longest_step(rows, sampler, 0, 8, packing), [], [], 1, 0)
    automatic, shape = config("full"), transformers.LlamaConfig(**TINY)
    roomy, least = (
        estimate_run(automatic, shape, GPU, own, 8, lambda code, text: None, limit) for limit in (8 << 30, 1 << 20)
    )
    assert least.best and roomy.best and least.best.tier == roomy.best.tier == "dry run"
    assert chosen_savings(automatic, roomy.config) == {}
    assert describe_savings(chosen_savings(automatic, least.config)) == (
        "stochastic rounding, checkpointing of all layers, offloaded, step in the backward pass, "
        "optimizer state in host memory"
    )
    assert (roomy.best.micro_batch, least.best.micro_batch) == (2, 8)
    assert least.best.on_host > 2 * least.best.trainable


def test_torch_agrees_which_products_onednn_computes() -> None:
    """oneDNN has bf16 products with AVX-512 or AVX-NE-CONVERT: those with bf16 instructions, and those added up."""
    assert torch.ops.mkldnn._is_mkldnn_bf16_supported() == (cpu.has_bf16() or cpu.sums_bf16_in_float32())
