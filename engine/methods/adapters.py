"""Low-rank adapters on a frozen base, by PEFT: what LoRA and QLoRA share."""

from __future__ import annotations

import peft
import torch
from transformers import PreTrainedModel

from engine.config import schema
from engine.config.errors import UserError


def add_adapters(model: PreTrainedModel, adapter: schema.Adapter) -> peft.PeftModel:
    """Freeze the base and put float32 adapters beside the named linear layers.

    W x becomes W x + s B A x with A (rank, in) random, B (out, rank) zero, and s = alpha/rank, or
    alpha/sqrt(rank) with rslora: before the first step the model is the base model. Seeds must be set before.
    Raises UserError where a target names no layer.
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
        raise UserError(
            f"no layer is called {targets}", "adapter.target_modules", f"this model has {', '.join(names)}"
        ) from error


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)
