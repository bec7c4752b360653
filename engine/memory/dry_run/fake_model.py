"""Build a model without weights: the real class with the real adapters on the meta device, then with fake tensors.

PEFT and bitsandbytes need plain tensors while they build, and an optimizer needs storages with a size: so the model is
built on the meta device first, and its tensors are then replaced by fake ones.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.quantizers import AutoHfQuantizer

from engine.config import schema
from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.preset_values import with_settings
from engine.methods import method
from engine.methods.loading import attention
from engine.methods.machine import Machine
from engine.training.varlen_attention import unsupported_by

BLOCKSIZE, SCALE_BLOCKSIZE = 64, 256
"""Weights per scale, and scales per second-level scale: bitsandbytes' defaults (Params4bit, quantize_4bit)."""


def build(config: schema.Config, model_config: Any, machine: Machine) -> torch.nn.Module:
    """Build the model as `engine.methods` does, on the meta device. `model_config`: transformers' configuration.

    Raises UserError for an architecture that is not a causal LM or cannot be built.
    """
    return trainable(bare_model(config, model_config, machine), config, machine)


def dtype_of(config: schema.Config, machine: Machine) -> torch.dtype:
    """Data type of the weights; for QLoRA of unquantized weights and of the computation."""
    dtype: torch.dtype = method(config.method).weight_dtype(config, machine)
    return dtype


def uses_flash_attention(config: schema.Config, machine: Machine) -> bool:
    """Whether the model would use FlashAttention 2, with which packed rows need no mask."""
    return attention(config.model, machine, dtype_of(config, machine)) == "flash_attention_2"


def segments_unsupported(config: schema.Config, model_config: Any, machine: Machine, longest: int) -> str:
    """`varlen_attention.unsupported_reason` of the model that this configuration would load."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model_config), None)
    if kind is None:
        return f"{model_config.model_type} is not a causal LM of transformers"
    implementation = attention(config.model, machine, dtype_of(config, machine))
    implementation = implementation or ("sdpa" if kind._supports_sdpa else "eager")
    return unsupported_by(kind, model_config.get_text_config(), implementation, longest)


def bare_model(config: schema.Config, model_config: Any, machine: Machine) -> PreTrainedModel:
    """The model class on the meta device, before quantization and adapters. Raises UserError like `build`."""
    dtype = dtype_of(config, machine)
    model_config = copy.deepcopy(model_config)  # from_config modifies it
    options = {"attn_implementation": chosen} if (chosen := attention(config.model, machine, dtype)) else {}
    try:
        with torch.device("meta"), no_init_weights():
            model = AutoModelForCausalLM.from_config(
                copy.deepcopy(model_config), dtype=dtype, trust_remote_code=False, **options
            )
            model.tie_weights()
    except (ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        what = f"transformers cannot build a causal LM from this configuration: {' '.join(str(error).split())[:200]}"
        do = "check model.id, or update transformers"
        raise UserError(what, config.model.id, do, code="model.unsupported_architecture") from error
    return model


def trainable(model: PreTrainedModel, config: schema.Config, machine: Machine) -> torch.nn.Module:
    """Quantize, freeze and add adapters as the method does."""
    if method_spec(config.method).quantizes_base:
        _quantize(model, config, dtype_of(config, machine))
    if not method_spec(config.method).trains_weights:
        model.requires_grad_(False)
    config = with_settings(config, {"adapter.init": "default"})  # PiSSA reads weights, and needs the same memory
    with torch.device("meta"):
        return method(config.method).make_trainable(model, config)


def _quantize(model: PreTrainedModel, config: schema.Config, dtype: torch.dtype) -> None:
    """Replace the layers that transformers' quantizer replaces when it loads weights."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization.type,
        bnb_4bit_use_double_quant=config.quantization.double,
        bnb_4bit_compute_dtype=dtype,
    )
    quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
    quantizer.preprocess_model(model=model, dtype=dtype, device_map=None)
    quantizer.postprocess_model(model)
    model.hf_quantizer = quantizer  # as `from_pretrained` does; the Trainer reads it


def allocate(model: torch.nn.Module) -> None:
    """Give every parameter and buffer of a meta model a storage; call inside FakeTensorMode. Keeps tied weights."""
    replaced: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in replaced:
                four_bit = isinstance(module, Linear4bit) and name == "weight"
                replaced[id(parameter)] = _packed(module, parameter) if four_bit else _like(parameter)
            module._parameters[name] = replaced[id(parameter)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _like(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
    return torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)


def _packed(layer: Linear4bit, parameter: Any) -> torch.nn.Parameter:
    """A 4-bit weight: two weights per byte and a float32 scale per 64 weights; with double quantization one byte per
    scale and a float32 per 256 scales.

    The code books (16 and 256 floats), which layers share, are counted for each layer.
    """
    layer.support_avx512bf16_for_cpu = False
    count = parameter.numel()
    weight = torch.nn.Parameter(torch.empty((-(-count // 2), 1), dtype=torch.uint8), requires_grad=False)
    scales = -(-count // BLOCKSIZE)
    common = {
        "shape": parameter.shape,
        "code": torch.empty(16),
        "blocksize": BLOCKSIZE,
        "quant_type": parameter.quant_type,
        "dtype": layer.compute_dtype,
    }
    if parameter.compress_statistics:
        second = QuantState(
            absmax=torch.empty(-(-scales // SCALE_BLOCKSIZE)),
            code=torch.empty(256),
            blocksize=SCALE_BLOCKSIZE,
            dtype=torch.float32,
        )
        state = QuantState(
            absmax=torch.empty(scales, dtype=torch.uint8), offset=torch.empty(()), state2=second, **common
        )
    else:
        state = QuantState(absmax=torch.empty(scales), **common)
    weight.quant_state = state
    layer.quant_state = state
    return weight
