"""A model's name to weights in memory: safetensors only, no code of strangers."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from engine.config import schema
from engine.methods.locate import Located, locate, refused
from engine.methods.machine import Machine
from engine.methods.model_config import config_at


def load_weights(model: schema.Model, machine: Machine, dtype: torch.dtype, **how: Any) -> PreTrainedModel:
    """The causal model on the machine's device. `how` goes to `from_pretrained` (quantization_config)."""
    located, wanted = locate(model), attention(model, machine, dtype)
    config_at(located)  # a model from the Hub is looked at here for the first time
    how |= {"dtype": dtype, "device_map": {"": 0} if machine.device == "cuda" else None}
    try:
        try:
            return _loaded(located, attn_implementation=wanted, **how)
        except (ValueError, ImportError) as error:
            if model.attention != "auto" or wanted is None or "flash" not in str(error).lower():
                raise
        return _loaded(located, **how)  # the architecture has no FlashAttention, or its package does not work here
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "memory" in str(error):
            raise  # out of memory is an outcome and not the user's mistake
        raise refused(located, "model", error) from error


def _loaded(located: Located, **how: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        located.source, revision=located.revision, trust_remote_code=False, use_safetensors=True, **how
    )


def attention(model: schema.Model, machine: Machine, dtype: torch.dtype) -> str | None:
    """What the preset names, else FlashAttention where it is installed and weights are bf16: it computes in nothing
    wider. None lets transformers choose.

    It takes SDPA where the architecture has it (Gemma 2, whose logits are capped inside, has not).
    """
    if model.attention != "auto":
        return model.attention
    return "flash_attention_2" if machine.flash_attention and dtype == torch.bfloat16 else None
