"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): float32 low-rank adapters on a frozen 4-bit base.

Loading     linear layers of the decoder as NF4 in blocks of 64 with double quantization; embeddings, norms and LM head
            in the compute dtype.
Training    adapters on all linear layers except the LM head.
Optimizer   8-bit AdamW, on a GPU paged unless the run fits with headroom.
"""

from __future__ import annotations

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from engine.config import schema
from engine.config.errors import UserError
from engine.methods import adapters
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


def load(config: schema.Config, machine: Machine) -> PreTrainedModel:
    """Load the quantized, frozen base."""
    if getattr(config_of(config.model), "quantization_config", None):
        what, do = "model is already quantized", "use the unquantized original"
        raise UserError(what, config.model.id, do, code="model.already_quantized")
    dtype = weight_dtype(config, machine)
    model = load_pretrained(config.model, machine, dtype, quantization_config=quantization(config, machine))
    if machine.device == "cpu":
        check_shapes(model)
        _forbid_repacking(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def make_trainable(model: PreTrainedModel, config: schema.Config) -> torch.nn.Module:
    """Add adapters to the base."""
    return adapters.add_adapters(model, config.adapter)


def _linear_4bit(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    import bitsandbytes as bnb  # takes a second to import, and only loading a 4-bit model needs it

    return [(name, module) for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)]


def check_shapes(model: torch.nn.Module) -> None:
    """Raise UserError unless all 4-bit layers have in_features % 64 == 0 and out_features % 32 == 0.

    bitsandbytes' 4-bit CPU kernels require it.
    """
    for name, module in _linear_4bit(model):
        if module.in_features % 64 or module.out_features % 32:
            shape = f"{module.out_features} × {module.in_features}"
            what = f"layer {name} ({shape}) is not divisible into 4-bit blocks of the CPU kernels (32 × 64)"
            raise UserError(what, "method qlora", "use lora or full, or a GPU", code="model.no_4bit_on_cpu")


def _forbid_repacking(model: PreTrainedModel) -> None:
    """Disable weight repacking on CPUs with AVX512-BF16.

    There an eval-mode forward repacks 4-bit weights in place, and training after it has no gradient through the base:
    without an error, and with a normal-looking loss.
    """
    for _, module in _linear_4bit(model):
        module.support_avx512bf16_for_cpu = False
