"""Cases to measure memory plans on: small models with random weights, with memory distributed as in large ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import transformers

from engine.config import schema
from engine.config.device_defaults import RECOMPUTING, describe_checkpointing
from engine.config.method_specs import method_names
from engine.config.preset import Preset, resolve
from engine.memory.formula.estimate import StepShape

COMMON = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPES: dict[str, Any] = {
    "Llama, 128k vocabulary": transformers.LlamaConfig(
        vocab_size=128256, hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=False, **COMMON,
    ),
    "Qwen2, tied head": transformers.Qwen2Config(
        vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, **COMMON,
    ),
    "Qwen2, small": transformers.Qwen2Config(  # for the tests: a fifth of the time
        vocab_size=8192, hidden_size=256, intermediate_size=704, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, **COMMON,
    ),
    "Qwen3-MoE": transformers.Qwen3MoeConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=512, moe_intermediate_size=192, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, num_experts=8, num_experts_per_tok=2, head_dim=32,
        max_position_embeddings=2048, tie_word_embeddings=False, **COMMON,
    ),
    "Gemma 3": transformers.Gemma3TextConfig(
        vocab_size=32768, hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=1, head_dim=64, sliding_window=128, max_position_embeddings=2048,
        query_pre_attn_scalar=64, **COMMON,
    ),
    "Gemma 3, small": transformers.Gemma3TextConfig(  # for the tests
        vocab_size=8192, hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=32, sliding_window=128, max_position_embeddings=2048,
        query_pre_attn_scalar=32, layer_types=["sliding_attention", "full_attention"], **COMMON,
    ),
    "GPT-2": transformers.GPT2Config(
        vocab_size=8192, n_positions=2048, n_embd=256, n_layer=6, n_head=8, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    ),
}  # fmt: skip
GRID_SHAPES = ("Llama, 128k vocabulary", "Qwen2, tied head")
LENGTHS, MICRO_BATCHES = (128, 448), (2, 4)


@dataclass(frozen=True)
class Case:
    """One configuration, with the rows of its steps."""

    shape: str
    config: schema.Config
    rows: StepShape
    remark: str = ""

    @property
    def name(self) -> str:
        train = self.config.train
        recomputed = describe_checkpointing(train.gradient_checkpointing)
        activations = f"{recomputed} checkpointed" if train.gradient_checkpointing else "stored"
        note = f", {self.remark}" if self.remark else ""
        return f"{self.shape} · {self.config.method}{note} · {activations} · {train.micro_batch} × {self.rows.length}"


def grid() -> Iterator[Case]:
    """Three methods × checkpointing × two lengths × two micro-batch sizes, for two shapes: 48 cases."""
    for shape, method, checkpointing, length, micro_batch in itertools.product(
        GRID_SHAPES, method_names(), (False, True), LENGTHS, MICRO_BATCHES
    ):
        yield case(shape, method, checkpointing, length, micro_batch)


def others() -> Iterator[Case]:
    """Cases outside the grid: other architectures, optimizers, dtypes, adapters."""
    for shape, method in itertools.product(("Qwen3-MoE", "Gemma 3", "GPT-2"), method_names()):
        yield case(shape, method, method == "qlora", 256, 2)
    llama, qwen = GRID_SHAPES
    yield case(qwen, "full", False, 256, 2, "bf16, compensated", {"train.precision": "bf16"})
    yield case(qwen, "full", False, 256, 2, "bf16, torch-sized state",
               {"train.precision": "bf16", "optimizer.name": "adamw"})  # fmt: skip
    yield case(qwen, "full", False, 256, 2, "mixed", {"train.precision": "mixed", "optimizer.name": "adamw"})
    yield case(llama, "lora", False, 256, 2, "mixed", {"train.precision": "mixed"})
    yield case(qwen, "full", True, 256, 2, "float32 state", {"optimizer.name": "adamw"})
    yield case(llama, "qlora", True, 256, 2, "NF4 once", {"quantization.double": False})
    yield case(qwen, "lora", False, 256, 2, "rank 64, dropout", {"adapter.rank": 64, "adapter.dropout": 0.05})
    yield case(qwen, "lora", False, 256, 2, "q and v", {"adapter.target_modules": ["q_proj", "v_proj"]})
    yield case(qwen, "lora", False, 256, 2, "DoRA", {"adapter.dora": True})
    yield case(qwen, "lora", False, 256, 2, "eager attention", {"model.attention": "eager"})
    yield case(llama, "lora", False, 256, 2, "one micro-batch per step", count=2)


def in_backward() -> Iterator[Case]:
    """The optimizer step in the backward pass."""
    for shape, name in itertools.product((*GRID_SHAPES, "Qwen3-MoE", "GPT-2"), ("adamw", "adamw_8bit")):
        settings = {
            "train.precision": "bf16",
            "optimizer.name": name,
            "optimizer.rounding": "stochastic",
            "optimizer.step_in_backward": True,
        }
        yield case(shape, "full", True, 256, 2, f"step in backward, {name}", settings, count=2)


def checkpointed() -> Iterator[Case]:
    """Every n-th layer recomputes its activations."""
    for shape, method, choice in itertools.product(("Qwen2, tied head", "GPT-2"), ("lora", "full"), RECOMPUTING):
        yield case(shape, method, choice.setting, 448, 2)


def case(
    shape: str,
    method: str,
    checkpointing: bool | int,
    length: int,
    micro_batch: int,
    remark: str = "",
    settings: dict[str, Any] | None = None,
    count: int = 0,
) -> Case:
    """A quarter of each row is the answer; a step has two micro-batches unless `count` sets another batch size."""
    values = {
        "train.gradient_checkpointing": checkpointing,
        "train.micro_batch": micro_batch,
        "train.max_length": length,
        "train.batch": count or 2 * micro_batch,
        "train.precision": "fp32" if method == "full" else "bf16",
        "evaluation.batch": 8,
        "evaluation.max_new_tokens": 64,
    }
    if method == "qlora":
        values["quantization.compute_dtype"] = "bf16"
    config = resolve(Preset("bench", values), method, settings).config
    rows = StepShape(count=config.train.batch, length=length, answer=length // 4, prompt=length - length // 4)
    return Case(shape, config, rows, remark)
