"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): float32 low-rank adapters on a frozen 4-bit base.

Loading     linear layers and experts as NF4 in blocks of 64 with double quantization (`four_bit`); embeddings, norms,
            routers and LM head in the compute dtype.
Training    adapters on all linear layers and experts except the LM head (`adapters`).
Optimizer   8-bit AdamW, on a GPU paged unless the run fits with headroom.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from engine.config import schema
from engine.config.errors import UserError
from engine.methods import adapters, four_bit
from engine.methods.loading import load_pretrained
from engine.methods.machine import Machine
from engine.methods.model_config import config_of


def weight_dtype(config: schema.Config, machine: Machine) -> torch.dtype:
    """Compute dtype, and data type of unquantized weights: bf16 if the hardware supports it, else float32."""
    setting = config.quantization.compute_dtype
    if setting == "auto":
        return torch.bfloat16 if machine.bf16 and config.train.precision != "fp32" else torch.float32
    return torch.bfloat16 if setting == "bf16" else torch.float32


def quantization(config: schema.Config, machine: Machine) -> BitsAndBytesConfig:
    """How bitsandbytes quantizes the base."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization.type,
        bnb_4bit_use_double_quant=config.quantization.double,
        bnb_4bit_compute_dtype=weight_dtype(config, machine),
    )


def refuse_quantized(config: schema.Config, model_config: Any) -> None:
    """Raise UserError if the weights are stored quantized already, as those of gpt-oss on the Hub (MXFP4)."""
    stored = getattr(model_config, "quantization_config", None)
    if stored:
        kind = stored.get("quant_method", "") if isinstance(stored, dict) else getattr(stored, "quant_method", "")
        what = f"the weights are stored quantized already ({str(getattr(kind, 'value', kind)) or 'unknown type'})"
        do = "use a copy of the model in 16 bits, or LoRA"
        raise UserError(what, config.model.id, do, code="model.already_quantized")


def load(config: schema.Config, machine: Machine) -> PreTrainedModel:
    """Load the quantized, frozen base."""
    refuse_quantized(config, config_of(config.model))
    dtype = weight_dtype(config, machine)
    with four_bit.quantizing(machine.device):
        model = load_pretrained(config.model, machine, dtype, quantization_config=quantization(config, machine))
    if machine.device == "cpu":
        four_bit.forbid_repacking(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def make_trainable(model: PreTrainedModel, config: schema.Config) -> torch.nn.Module:
    """Add adapters to the base."""
    return adapters.add_adapters(model, config.adapter)
