"""Published peaks on GPUs, and the planner's predictions for the same work.

Their loss, optimizer and dtypes differ from ftbench's, and PEFT's adapters multiply in their own dtype, so the step is
implemented here; model, fake tensors and counting are the planner's. CUDA context and fragmentation are not included:
the figures are torch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from peft.tuners.lora import LoraLayer
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.config.preset import Preset, resolve
from engine.memory.dry_run.fake_model import allocate, build
from engine.memory.dry_run.memory_tracker import MemoryTracker
from engine.memory.formula.estimate import StepShape
from engine.memory.formula.formula import formula
from engine.methods.adapters import CastLinear
from engine.methods.machine import Machine

GPU = Machine("cuda", "a GPU", bf16=True, flash_attention=False)
LLAMA_32_3B: dict[str, Any] = {
    "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_2_7B: dict[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 32000,
}  # fmt: skip
LLAMA_2_13B = LLAMA_2_7B | {
    "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
}  # fmt: skip
PEFT = "PEFT method_comparison/MetaMathQA, Llama-3.2-3B, L40S"
LITGPT = "litgpt tutorials/resource-tables.md, A100"
QV = ["q_proj", "v_proj"]


@dataclass(frozen=True)
class Published:
    """One published figure: `peak` bytes of a step over `rows` × `length` tokens."""

    source: str
    description: str
    peak: float
    architecture: dict[str, Any]
    rows: int
    length: int
    settings: dict[str, Any]
    differs: str
    """What the published figure contains and the prediction does not."""
    adapters: torch.dtype = torch.float32


def published() -> Iterator[Published]:
    """PEFT logs torch's reserved memory after each step, minus the value before (method_comparison/MetaMathQA,
    run.py). litgpt prints torch's allocated peak (finetune/lora.py); it trains bf16 adapters of rank 8 with dropout
    0.05 on query and value (4,194,304 parameters at 7B) over rows of up to 1,304 tokens; its GB are 10⁹ bytes.
    """
    reserved = (
        "theirs is reserved memory, including fragmentation and what generation every few hundred steps left "
        "in the pool"
    )
    full = (
        f"{reserved}; with full fine-tuning, large gradients are freed and allocated between steps, "
        "and the pool retains their blocks"
    )
    yield Published(PEFT, "full", 38_868_615_168, LLAMA_32_3B, 4, 768, {"method": "full"}, full)
    for rank, targets, peak in (
        (32, QV, 22_292_725_760),
        (64, QV, 22_552_772_608),
        (10, ["gate_proj", "up_proj", "down_proj"], 24_698_159_104),
    ):
        settings = {"method": "lora", "adapter.rank": rank, "adapter.target_modules": targets}
        layers = "q and v" if targets == QV else "MLP"
        yield Published(PEFT, f"LoRA, rank {rank}, {layers}", peak, LLAMA_32_3B, 4, 768, settings, reserved)
    settings = {"method": "lora", "adapter.rank": 8, "adapter.target_modules": QV, "adapter.dropout": 0.05}
    fused = "theirs is another model class: one layer and one dropout for query, key and value, head and loss in chunks"
    for name, reported, architecture in (("7B", 21.30e9, LLAMA_2_7B), ("13B", 38.12e9, LLAMA_2_13B)):
        description = f"LoRA, Llama 2 {name}"
        yield Published(LITGPT, description, reported, architecture, 1, 1304, settings, fused, adapters=torch.bfloat16)


def predicted(case: Published) -> int:
    """Peak bytes of two steps with transformers' loss over every token, torch's AdamW in the parameters' dtype, no
    gradient checkpointing and clipping at 1.
    """
    values = {**case.settings, "train.precision": "bf16", "train.gradient_checkpointing": False}
    config = resolve(Preset("published", values)).config
    model = build(config, transformers.LlamaConfig(**case.architecture, use_cache=False), GPU)
    multiply_in_adapter_dtype(model)
    for parameter in model.parameters():
        if parameter.requires_grad and config.method != "full":
            parameter.data = parameter.data.to(case.adapters)
    live = MemoryTracker("cuda", case.architecture["vocab_size"])
    ids = torch.ones((case.rows, case.length), dtype=torch.long)
    with FakeTensorMode(allow_non_fake_inputs=True), live:
        allocate(model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        for _ in range(2):
            live.restart()
            model(input_ids=ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return sum(live.peak.values())


def by_formula(case: Published) -> int:
    """Peak bytes of training by the formula, for ftbench's step with every token but the first in the loss."""
    values = {**case.settings, "optimizer.name": "adamw", "train.precision": "bf16", "train.micro_batch": case.rows}
    config = resolve(Preset("published", {**values, "train.gradient_checkpointing": False})).config
    rows = StepShape(count=case.rows, length=case.length, answer=case.length - 1)
    return formula(config, transformers.LlamaConfig(**case.architecture).to_dict(), "cuda", rows).training.total


def multiply_in_adapter_dtype(model: torch.nn.Module) -> None:
    """Undo `engine.methods.adapters.multiply_in_input_dtype`: PEFT casts the input of an adapter to its dtype."""
    for module in model.modules():
        if isinstance(module, CastLinear):
            module.__class__ = torch.nn.Linear
        elif isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = True
