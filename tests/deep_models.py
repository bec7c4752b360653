"""Small models with many layers, and the memory of their runs by the dry run, for extrapolation from few layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import transformers

from engine.config.preset import Preset, resolve
from engine.memory.dry_run import dry_run as planner
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
    "llama": lambda: transformers.LlamaConfig(**SIZES, num_hidden_layers=6),
    "13 layers": lambda: transformers.LlamaConfig(**SIZES, num_hidden_layers=13),
    "25 layers": lambda: transformers.LlamaConfig(**SIZES, num_hidden_layers=25),
    "experts": lambda: transformers.Qwen3MoeConfig(
        **SIZES, num_hidden_layers=6, moe_intermediate_size=64, num_experts=4, num_experts_per_tok=2, head_dim=16
    ),
    "windows and all in turn": lambda: transformers.Gemma3TextConfig(
        **SIZES, num_hidden_layers=13, head_dim=16, sliding_window=16, layer_types=[*WINDOWS[1:] * 6, WINDOWS[0]]
    ),
    "two windows, then all": lambda: transformers.Gemma3TextConfig(
        **SIZES, num_hidden_layers=20, head_dim=16, sliding_window=16, layer_types=[*WINDOWS * 6, *WINDOWS[:2]]
    ),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=512, n_positions=512, n_embd=64, n_layer=6, n_head=4),
    "dense layers first": lambda: transformers.DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4}, num_hidden_layers=10, first_k_dense_replace=2, n_routed_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=32, n_group=1, topk_group=1, q_lora_rank=16, kv_lora_rank=16,
        qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16,
    ),
}  # fmt: skip


def planned(shape: Any, method: Any, checkpointing: Any, machine: Machine, **settings: Any) -> MemoryEstimate:
    values = {"train.gradient_checkpointing": checkpointing, "train.micro_batch": 2, "evaluation.batch": 4,
              "evaluation.max_new_tokens": 40, **settings}  # fmt: skip
    return planner.dry_run(resolve(Preset("test", values), method).config, shape, machine, ROWS)


@contextmanager
def all_layers() -> Iterator[None]:
    """Context in which dry runs run every layer."""
    with patch.object(planner, "layer_pattern", lambda model, checkpointing: None):
        yield


class Case(NamedTuple):
    """A run whose peaks from few layers are compared with those from all."""

    shape: str
    method: str
    checkpointing: Any
    metric: str
    """With the metric loss there is no generation, which takes most of the time and has no activation checkpointing."""

    @property
    def machine(self) -> Machine:
        return GPU if self.checkpointing else CPU

    def planned(self) -> MemoryEstimate:
        how = {"evaluation.metric": self.metric}
        return planned(SHAPES[self.shape](), self.method, self.checkpointing, self.machine, **how)


SAMPLE = (
    Case("llama", "qlora", False, "json"),
    Case("llama", "lora", "offload", "loss"),
    Case("experts", "full", True, "loss"),
    Case("windows and all in turn", "full", False, "json"),
    Case("gpt2", "lora", True, "json"),
    Case("dense layers first", "full", False, "loss"),
    Case("13 layers", "full", 2, "loss"),
)
"""Every mechanism, method and kind of checkpointing, with hardly more layers than those that are not run."""
