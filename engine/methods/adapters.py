"""Add low-rank adapters to a frozen base with PEFT; shared by LoRA and QLoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from engine.config import schema
from engine.config.errors import UserError


def without_adapters(model: torch.nn.Module) -> Any:
    """The transformers model without PEFT's wrapper, if it has one."""
    return getattr(model, "get_base_model", lambda: model)()


def add_adapters(model: PreTrainedModel, adapter: schema.Adapter) -> peft.PeftModel:
    """Freeze the base and add float32 adapters to the target linear layers.

    W x becomes W x + s B A x with A (rank, in) random, B (out, rank) zero, and s = alpha/rank, or alpha/sqrt(rank) with
    rsLoRA: before the first step the model equals the base model. Set the seed before calling.
    Raises UserError if a target matches no layer.
    """
    targets = adapter.target_modules
    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=adapter.rslora,
        use_dora=adapter.dora,
        task_type="CAUSAL_LM",
    )
    try:
        return peft.get_peft_model(model, config)
    except ValueError as error:
        names = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _is_linear(module)})
        what, do = f"no layer matches {targets}", f"use layers of this model: {', '.join(names)}"
        raise UserError(what, "adapter.target_modules", do, code="model.unknown_target") from error


def load_adapter(model: torch.nn.Module, folder: Path) -> None:
    """Replace the adapter's initial weights by those of an adapter in a folder, written by `save_pretrained`.

    Raises UserError if the adapter has other layers or shapes.
    """
    weights = load_file(folder / "adapter_model.safetensors")
    expected = {name: tuple(value.shape) for name, value in peft.get_peft_model_state_dict(model).items()}
    if {name: tuple(value.shape) for name, value in weights.items()} != expected:
        what = f"its adapter has {len(weights)} tensors that do not match the {len(expected)} of this run"
        raise UserError(what, str(folder), "use the adapter settings of that run", code="run.start_adapter")
    peft.set_peft_model_state_dict(model, weights)


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)
