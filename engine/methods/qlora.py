"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): float32 low-rank adapters on a frozen 4-bit base.

Loading     linear layers and experts as NF4 in blocks of 64 with double quantization; embeddings, norms, routers and LM
            head in the compute dtype.
Training    adapters on all linear layers and experts except the LM head (`adapters`).
Optimizer   8-bit AdamW, on a GPU paged unless the run fits with headroom.

bitsandbytes quantizes each tensor as soon as it is loaded, so that the complete 16-bit model is never in memory.
transformers' quantizer leaves experts in 16 bits: those of one layer are one tensor with three dimensions. bitsandbytes
keeps their 4-bit values and returns the dequantized tensor where the model reads it, through a parametrization
(`bitsandbytes.nn.parametrize`). Without activation checkpointing every layer keeps its dequantized experts for the
backward pass. Experts that are stored in MXFP4, as those of gpt-oss, are dequantized to 16 bits first, a tensor at a
time too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from bitsandbytes.functional import QuantState, quantize_4bit
from bitsandbytes.nn import Linear4bit
from bitsandbytes.nn.parametrize import Bnb4bitParametrization, _register_parametrization_hooks
from torch.nn.utils import parametrize
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.core_model_loading import WeightConverter
from transformers.integrations.bitsandbytes import Bnb4bitQuantize
from transformers.integrations.mxfp4 import Mxfp4Dequantize
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_mxfp4 import Mxfp4HfQuantizer

from engine.config import schema
from engine.methods import adapters
from engine.methods.loading import load_pretrained
from engine.methods.machine import Machine
from engine.methods.weights import PLAIN_LINEAR, weights_of

BLOCKSIZE = 64
"""Weights per scale: bitsandbytes' default."""


class FourBitQuantizer(Bnb4BitHfQuantizer):
    """Quantizes every linear layer and all experts, except what `weights` leaves out, and shapes without CPU kernel."""

    def __init__(self, quantization_config: BitsAndBytesConfig, on_cpu: bool, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self.on_cpu = on_cpu
        self.experts: dict[str, None] = {}
        """Full names of experts' tensors, in their order in the model."""
        self.states: dict[str, QuantState] = {}

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        return param_name in self.experts or super().param_needs_quantization(model, param_name, **kwargs)

    def get_quantize_ops(self) -> QuantizeTensors:
        return QuantizeTensors(self)

    def get_weight_conversions(self) -> list[WeightConverter]:
        """How tensors of the checkpoint that the model does not have by their names become those that it has."""
        return [
            WeightConverter(stored, name, [DequantizeTensors(self)])
            for name, stored in Mxfp4HfQuantizer.serialized_names.items()
        ]

    def _process_model_before_weight_loading(self, model: PreTrainedModel, device_map: Any, **kwargs: Any) -> None:
        for module in model.modules():
            if type(module).__name__ in PLAIN_LINEAR:
                module.__class__ = torch.nn.Linear  # transformers quantizes no subclass
        for weight in weights_of(model):
            if weight.part == "experts" and not weight.not_quantizable(self.on_cpu):
                self.experts[weight.name] = None
        self.quantization_config.llm_int8_skip_modules = unquantized_layers(model, self.on_cpu)
        super()._process_model_before_weight_loading(model, device_map, **kwargs)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        # Reading a parameter with packed 4-bit values gives the dequantized tensor, as with bitsandbytes'
        # `replace_parameter_4bit_prequantized`. That function cannot be used: it needs the values of the quantization
        # state, which weights on the meta device do not have.
        for name in self.experts:
            path, _, key = name.rpartition(".")
            module, dequantized = model.get_submodule(path), Bnb4bitParametrization(self.states[name])
            parametrize.register_parametrization(module, key, dequantized, unsafe=True)
            _register_parametrization_hooks(module, key)
        self.states.clear()
        return super()._process_model_after_weight_loading(model, **kwargs)


class DequantizeTensors(Mxfp4Dequantize):
    """Dequantizes MXFP4 tensors of a checkpoint as they are loaded, before they are quantized again.

    transformers converts bytes to the data type of the model if it is to quantize a tensor; all of 0 … 255 are exact in
    bfloat16.
    """

    def convert(self, input_dict: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        stored = {name: value[0] if isinstance(value, list) else value for name, value in input_dict.items()}
        integers = {name: tensor.to(torch.uint8) for name, tensor in stored.items()}
        converted: dict[str, torch.Tensor] = super().convert(integers, *args, **kwargs)
        return converted


class QuantizeTensors(Bnb4bitQuantize):
    """Quantizes tensors of a checkpoint as they are loaded."""

    hf_quantizer: FourBitQuantizer

    def convert(
        self,
        input_dict: dict[str, list[torch.Tensor]],
        full_layer_name: str | None = None,
        model: torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        packed: dict[str, torch.Tensor] = {}
        for name in self.hf_quantizer.experts.keys() & input_dict.keys():
            value = input_dict.pop(name)
            how = self.hf_quantizer.quantization_config
            data, self.hf_quantizer.states[name] = quantize_4bit(
                (value[0] if isinstance(value, list) else value).contiguous(),
                blocksize=BLOCKSIZE,
                compress_statistics=how.bnb_4bit_use_double_quant,
                quant_type=how.bnb_4bit_quant_type,
            )
            packed[name] = torch.nn.Parameter(data, requires_grad=False)
        for name in list(input_dict):  # of a tensor that becomes several, some may stay in 16 bits
            if model is not None and not self.hf_quantizer.param_needs_quantization(model, name):
                value = input_dict.pop(name)
                packed[name] = value[0] if isinstance(value, list) else value
        return packed | super().convert(input_dict, full_layer_name, model, **kwargs)


@contextmanager
def quantizing(device: str) -> Iterator[None]:
    """Context in which `from_pretrained` quantizes with FourBitQuantizer."""
    quantizer = partial(FourBitQuantizer, on_cpu=device == "cpu")
    with mock.patch.dict(AUTO_QUANTIZER_MAPPING, {"bitsandbytes_4bit": quantizer}):
        yield


def unquantized_layers(model: PreTrainedModel, on_cpu: bool) -> list[str]:
    """Full names of the linear layers that stay in 16 bits."""
    kept = [weight.module for weight in weights_of(model) if weight.is_linear and weight.not_quantizable(on_cpu)]
    tied = model.all_tied_weights_keys
    return [*kept, *{key.removesuffix(".weight") for key in (*tied, *tied.values())}]


def unquantized_patterns(model: PreTrainedModel, on_cpu: bool) -> list[str]:
    """The same for `llm_int8_skip_modules` in as few words as possible: the beginning of a part of the model without
    4-bit layers, else the end of the name of a layer, as transformers' `should_convert_module` matches them.
    """
    kept = set(unquantized_layers(model, on_cpu))
    quantized = [weight.module for weight in weights_of(model) if weight.is_linear and weight.module not in kept]
    patterns: dict[str, None] = {}
    for name in sorted(kept):
        parts = name.split(".")
        starts = (".".join(parts[: number + 1]) for number in range(len(parts)))
        start = next(start for start in starts if not any(f"{other}.".startswith(f"{start}.") for other in quantized))
        is_unique = start == name and not any(other.endswith(parts[-1]) for other in quantized)
        patterns[parts[-1] if is_unique else start] = None
    return list(patterns)


def weight_dtype(config: schema.Config, machine: Machine) -> torch.dtype:
    """Compute dtype, and data type of unquantized weights: bf16 if the hardware supports it, else float32."""
    setting = config.quantization.compute_dtype
    if setting == "auto":
        return torch.bfloat16 if machine.bf16 and config.train.precision != "fp32" else torch.float32
    return torch.bfloat16 if setting == "bf16" else torch.float32


def quantization(config: schema.Config, machine: Machine, unquantized: list[str] | None = None) -> BitsAndBytesConfig:
    """How bitsandbytes quantizes the base. unquantized: layers that stay in 16 bits, if transformers loads it alone."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization.type,
        bnb_4bit_use_double_quant=config.quantization.double,
        bnb_4bit_compute_dtype=weight_dtype(config, machine),
        llm_int8_skip_modules=unquantized,
    )


def load(config: schema.Config, machine: Machine) -> PreTrainedModel:
    """Load the quantized, frozen base."""
    dtype = weight_dtype(config, machine)
    with quantizing(machine.device):
        model = load_pretrained(config.model, machine, dtype, quantization_config=quantization(config, machine))
    if machine.device == "cpu":
        # On CPUs with AVX512-BF16 an eval-mode forward repacks 4-bit weights in place, and training after it has no
        # gradient through the base: without an error, and with a normal-looking loss.
        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)


def make_trainable(model: PreTrainedModel, config: schema.Config) -> torch.nn.Module:
    """Add adapters to the base."""
    return adapters.add_adapters(model, config.adapter)
