"""The lower bound of the training time, against the FLOPs that the audit counts from the layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from test_audit import LLAMA_8B, rows_of
from test_plan_fit import gpu_budget

from engine.config.device_defaults import ActivationCheckpointing
from engine.config.preset import Preset, resolve
from engine.config.schema import Config
from engine.extensions.doctor.report import required_flops
from engine.memory.dry_run.fake_model import bare_model, trainable
from engine.memory.formula.architecture import read_architecture
from engine.memory.formula.estimate import StepShape
from engine.memory.formula.formula import formula
from engine.memory.formula.memory_budget import MemoryBudget, listed_budget
from engine.memory.formula.method_plan import TrainingWork, least_seconds, training_cost
from engine.methods.machine import Machine

GPU = Machine("cuda", "a GPU", bf16=True, flash_attention=False)
ROWS = rows_of([64] * 8)
ANSWERS = sum(sum(label != -100 for label in row.labels) for row in ROWS)
STEP = StepShape(count=8, length=64, answer=ANSWERS // 8)
WORK = TrainingWork(rows=8, steps=1, tokens=8 * 64, answer_tokens=ANSWERS)


def configured(method: str, **settings: Any) -> Config:
    values = {"train.batch": 8, "train.micro_batch": 8, "train.gradient_checkpointing": False, **settings}
    return resolve(Preset("test", values), method).config


def bound(method: str, budget: MemoryBudget, work: TrainingWork = WORK, **settings: Any) -> float | None:
    config, table = configured(method, **settings), LLAMA_8B.to_dict()
    return least_seconds(config, table, formula(config, table, "cuda", STEP), work, budget)


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
@pytest.mark.parametrize(
    "checkpointing", [ActivationCheckpointing(0), ActivationCheckpointing(2), ActivationCheckpointing(1)]
)
def test_flops_are_those_of_the_layers(method: str, checkpointing: ActivationCheckpointing) -> None:
    config = configured(method, **{"train.gradient_checkpointing": checkpointing.setting})
    model = trainable(bare_model(config, LLAMA_8B, GPU), config, GPU)
    estimate = formula(config, LLAMA_8B.to_dict(), "cuda", STEP)
    shape = read_architecture(LLAMA_8B.to_dict(), "test")
    flops = training_cost(config, shape, estimate, WORK, gpu_budget(80)).flops
    assert flops == pytest.approx(required_flops(model, ROWS, checkpointing), rel=0.01)


def test_an_adapter_of_the_head_computes_only_tokens_in_the_loss() -> None:
    flops = []
    for targets in (["q_proj"], ["q_proj", "lm_head"]):
        config = configured("lora", **{"adapter.target_modules": targets, "adapter.rank": 16})
        model = trainable(bare_model(config, LLAMA_8B, GPU), config, GPU)
        flops.append(required_flops(model, ROWS, ActivationCheckpointing(0)))
    assert flops[1] - flops[0] == 2 * ANSWERS * 16 * (4096 + 128256) * 3


def test_experts_count_where_tokens_are_routed() -> None:
    shapes = [
        read_architecture(
            transformers.MixtralConfig(num_local_experts=experts, num_experts_per_tok=2).to_dict(), "test"
        )
        for experts in (4, 8)
    ]
    config = configured("lora")
    costs = [
        training_cost(config, shape, formula(config, LLAMA_8B.to_dict(), "cuda", STEP), WORK, gpu_budget(80))
        for shape in shapes
    ]
    assert costs[0].flops == pytest.approx(costs[1].flops, rel=0.02)
    assert costs[1].weight_bytes > 1.5 * costs[0].weight_bytes


def test_few_tokens_are_limited_by_bandwidth_and_many_by_flops() -> None:
    few = bound("lora", listed_budget("A100"), TrainingWork(rows=8, steps=1, tokens=8, answer_tokens=8))
    tenfold = bound("lora", listed_budget("A100"), TrainingWork(rows=8, steps=1, tokens=80, answer_tokens=8))
    assert few is not None and tenfold == pytest.approx(few)
    many, more = (
        bound("lora", listed_budget("A100"), TrainingWork(rows=8, steps=1, tokens=tokens, answer_tokens=8))
        for tokens in (100_000, 200_000)
    )
    assert many is not None and more == pytest.approx(2 * many, rel=0.01)


def test_a_faster_gpu_has_a_lower_bound_and_an_unlisted_one_none() -> None:
    slow, fast = bound("full", listed_budget("A100")), bound("full", listed_budget("H100"))
    assert slow is not None and fast is not None and fast < slow
    for name in ("Unknown GPU", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"):
        assert bound("full", MemoryBudget(name=name, device="cuda", source="gpu", total=1 << 36)) is None
    assert bound("full", MemoryBudget(name="2 CPU cores", device="cpu", source="system", total=1 << 36)) is None
    assert bound("full", listed_budget("A100"), **{"train.precision": "fp32"}) is None


def test_recomputed_layers_and_shared_prefixes_change_the_bound() -> None:
    budget, work = listed_budget("A100"), TrainingWork(rows=8, steps=1, tokens=10**6, answer_tokens=8)
    plain = bound("lora", budget, work)
    recomputing = bound("lora", budget, work, **{"train.gradient_checkpointing": True})
    shared = bound("lora", budget, TrainingWork(rows=8, steps=1, tokens=10**6, answer_tokens=8, token_ratio=2.0))
    assert plain is not None and recomputing == pytest.approx(1.5 * plain, rel=0.02)
    assert shared == pytest.approx(plain / 2, rel=0.02)
    assert torch.get_default_dtype() == torch.float32
