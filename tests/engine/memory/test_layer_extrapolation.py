"""Peaks extrapolated from a few layers equal those of the complete model, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers

from engine.config.activation_checkpointing import (
    OFFLOADED,
    RECOMPUTING,
    ActivationCheckpointing,
    resolve_checkpointing,
)
from engine.config.preset import Preset, resolve
from engine.memory.dry_run import dry_run as planner
from engine.memory.dry_run.fake_model import bare_model
from engine.memory.dry_run.layer_extrapolation import LayerPattern, layer_pattern
from engine.memory.formula.estimate import MemoryEstimate, StepShape
from engine.methods.machine import Machine

CPU = Machine("cpu", "a CPU", bf16=True, flash_attention=False)
GPU = Machine("cuda", "a GPU", bf16=True, flash_attention=False)
ROWS = StepShape(count=4, length=48, answer=16, prompt=24)
SIZES: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
WINDOWS = ["sliding_attention", "sliding_attention", "full_attention"]
SHAPES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, num_hidden_layers=7),
    "13 layers": lambda: transformers.LlamaConfig(**SIZES, num_hidden_layers=13),
    "25 layers": lambda: transformers.LlamaConfig(**SIZES, num_hidden_layers=25),
    "experts": lambda: transformers.Qwen3MoeConfig(
        **SIZES, num_hidden_layers=7, moe_intermediate_size=64, num_experts=4, num_experts_per_tok=2, head_dim=16
    ),
    "two windows, then all": lambda: transformers.Gemma3TextConfig(
        **SIZES, num_hidden_layers=20, head_dim=16, sliding_window=16, layer_types=[*WINDOWS * 6, *WINDOWS[:2]]
    ),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=512, n_positions=512, n_embd=64, n_layer=9, n_head=4),
    "dense blocks first": lambda: transformers.DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4}, num_hidden_layers=10, first_k_dense_replace=2, n_routed_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=32, n_group=1, topk_group=1, q_lora_rank=16, kv_lora_rank=16,
        qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16,
    ),
}  # fmt: skip


def planned(shape: Any, method: Any, checkpointing: Any, machine: Machine, **settings: Any) -> MemoryEstimate:
    values = {"train.gradient_checkpointing": checkpointing, "train.micro_batch": 2, "evaluation.batch": 4,
              "evaluation.max_new_tokens": 40, **settings}  # fmt: skip
    return planner.dry_run(resolve(Preset("test", values), method).config, shape, machine, ROWS)


@pytest.mark.parametrize(
    ("name", "method", "checkpointing", "metric"),
    [
        ("llama", "qlora", False, "json"),
        ("llama", "lora", True, "loss"),
        ("llama", "full", False, "json"),
        ("llama", "lora", "offload", "loss"),
        ("experts", "full", True, "loss"),
        ("experts", "lora", False, "json"),
        ("two windows, then all", "full", False, "json"),
        ("gpt2", "lora", True, "json"),
        ("dense blocks first", "full", False, "loss"),
        ("13 layers", "full", 2, "loss"),
        ("25 layers", "qlora", 4, "loss"),
    ],
)
def test_a_few_layers_give_the_peak_of_all(
    name: str, method: str, checkpointing: Any, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the metric loss there is no generation, which takes most of the time and has no activation checkpointing."""
    machine = GPU if checkpointing else CPU
    config = resolve(Preset("test", {}), method).config
    assert layer_pattern(
        bare_model(config, SHAPES[name](), machine), resolve_checkpointing(checkpointing, machine.device)
    )
    how = {"evaluation.metric": metric}
    few = planned(SHAPES[name](), method, checkpointing, machine, **how)
    monkeypatch.setattr(planner, "layer_pattern", lambda model, checkpointing: None)
    whole = planned(SHAPES[name](), method, checkpointing, machine, **how)
    assert few == whole and (few.answering is None) == (metric == "loss")


@pytest.mark.parametrize("precision", ["mixed", "bf16"])
def test_other_precisions_too(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"train.precision": precision, "evaluation.metric": "choice"}
    assert layer_pattern(bare_model(resolve(Preset("test", {})).config, SHAPES["llama"](), CPU))
    few = planned(SHAPES["llama"](), "full", False, CPU, **how)
    monkeypatch.setattr(planner, "layer_pattern", lambda model, checkpointing: None)
    assert few == planned(SHAPES["llama"](), "full", False, CPU, **how)


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("llama", LayerPattern(7, 0, 1)),
        ("two windows, then all", LayerPattern(20, 0, 3)),
        ("dense blocks first", LayerPattern(10, 2, 1)),
    ],
)
def test_the_layer_pattern_is_found(name: str, depth: LayerPattern) -> None:
    config = resolve(Preset("test", {}), "full").config
    assert layer_pattern(bare_model(config, SHAPES[name](), CPU)) == depth


def test_layers_that_recompute_are_another_kind() -> None:
    config = resolve(Preset("test", {}), "full").config
    assert layer_pattern(bare_model(config, SHAPES["25 layers"](), CPU), ActivationCheckpointing(4)) == LayerPattern(
        25, 0, 4
    )


def test_memory_falls_from_choice_to_choice() -> None:
    choices = [choice.setting for choice in (*RECOMPUTING, OFFLOADED)]
    how = {"evaluation.metric": "loss"}
    peaks = [planned(SHAPES["llama"](), "lora", choice, GPU, **how).training.total for choice in choices]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == len(peaks)


def test_a_shallow_model_is_not_extrapolated() -> None:
    config = resolve(Preset("test", {}), "full").config
    shape = transformers.LlamaConfig(**SIZES, num_hidden_layers=3)
    assert layer_pattern(bare_model(config, shape, CPU)) is None
