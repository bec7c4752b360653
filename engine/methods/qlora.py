"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): a frozen 4-bit base, low-rank adapters in float32 beside it.

Loads   the linear layers of the decoder as NF4 in blocks of 64, their scales quantized again; embeddings, norms
        and head stay in the compute type.
Trains  adapters on every linear layer but the head.
With    paged 8-bit AdamW; without paging where there is no card, which is said.
"""

from __future__ import annotations

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from engine.config import schema
from engine.config.errors import UserError
from engine.methods import adapters
from engine.methods.loading import load_weights
from engine.methods.machine import Machine
from engine.methods.model_config import config_of


def weight_dtype(config: schema.Config, machine: Machine) -> torch.dtype:
    """Of arithmetic and of the weights that are not quantized: bf16 where the hardware multiplies it, else float32."""
    wanted = config.quantization.compute_dtype
    if wanted == "auto":
        return torch.bfloat16 if machine.bf16 and config.train.precision != "fp32" else torch.float32
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def load(config: schema.Config, machine: Machine) -> PreTrainedModel:
    """The quantized, frozen base."""
    if getattr(config_of(config.model), "quantization_config", None):
        raise UserError("this model is quantized already", config.model.id, "give its unquantized original")
    dtype = weight_dtype(config, machine)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization.type,
        bnb_4bit_use_double_quant=config.quantization.double,
        bnb_4bit_compute_dtype=dtype,
    )
    model = load_weights(config.model, machine, dtype, quantization_config=quantization)
    if machine.device == "cpu":
        _check_shapes(model)
        _forbid_repacking(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def make_trainable(model: PreTrainedModel, config: schema.Config) -> torch.nn.Module:
    """The base with adapters."""
    return adapters.add_adapters(model, config.adapter)


def _linear_4bit(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    import bitsandbytes as bnb

    return [(name, module) for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)]


def _check_shapes(model: PreTrainedModel) -> None:
    """The CPU's 4-bit kernels want whole blocks."""
    for name, module in _linear_4bit(model):
        if module.in_features % 64 or module.out_features % 32:
            raise UserError(
                f"layer {name} ({module.out_features} × {module.in_features}) has no whole 4-bit blocks on the CPU",
                "method qlora",
                "use lora or full, or a card",
            )


def _forbid_repacking(model: PreTrainedModel) -> None:
    """On CPUs with AVX512-BF16 an evaluation repacks 4-bit weights in place, and training after it has no
    gradient through the base: no error, and a curve that looks normal. This flag keeps the weights as they are.
    """
    for _, module in _linear_4bit(model):
        module.support_avx512bf16_for_cpu = False
