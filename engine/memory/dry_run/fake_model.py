"""Build a model without weights: the real class with the real adapters on the meta device, then with fake tensors.

PEFT and bitsandbytes need plain tensors while they build, and an optimizer needs storages with a size: so the model is
built on the meta device first, and its tensors are then replaced by fake ones.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit
from bitsandbytes.nn.parametrize import Bnb4bitParametrization
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from engine.config import schema
from engine.config.errors import UserError, reason_of
from engine.config.method_specs import method_spec
from engine.config.model_config import check_method
from engine.config.settings import with_settings
from engine.methods import method
from engine.methods.adapters import find_lora_targets
from engine.methods.loading import attention, auto_class, model_class
from engine.methods.machine import Machine, compute_dtype
from engine.methods.qlora import BLOCKSIZE, FourBitQuantizer, quantization
from engine.methods.weights import account_of
from engine.runs.run.usage import ModelAccount
from engine.training.varlen_attention import unsupported_by

SCALE_BLOCKSIZE = 256
"""Scales per second-level scale: bitsandbytes' default (quantize_4bit)."""


def build(config: schema.Config, model_config: Any, machine: Machine) -> torch.nn.Module:
    """Build the model as `engine.methods` does, on the meta device. `model_config`: transformers' configuration.

    Raises UserError for an architecture that is not a causal LM or cannot be built.
    """
    return trainable(bare_model(config, model_config, machine), config, machine)


def predict_account(config: schema.Config, model_config: Any, machine: Machine) -> ModelAccount:
    """The use of every weight in a run with this configuration. Raises UserError like `build`, for targets and
    settings of adapters that the model does not have, and for families and stored weights that the method cannot train.
    """
    check_method(model_config.to_dict(), config.model.id, config.method)
    without_flash = replace(machine, flash_attention=False)  # building the model would look for its kernels
    model = build(without_flash_attention(config), model_config, without_flash)
    return account_of(model, config, machine.device)


def without_flash_attention(config: schema.Config) -> schema.Config:
    """Replace FlashAttention, whose kernels need a GPU, by SDPA, which saves the same tensors."""
    return (
        with_settings(config, {"model.attention": "sdpa"}) if config.model.attention == "flash_attention_2" else config
    )


def dtype_of(config: schema.Config, machine: Machine) -> torch.dtype:
    """Data type of the weights; for QLoRA of unquantized weights and of the computation."""
    dtype: torch.dtype = method(config.method).weight_dtype(config, machine)
    return dtype


def uses_flash_attention(config: schema.Config, machine: Machine) -> bool:
    """Whether the model would use FlashAttention 2, with which packed rows need no mask."""
    return attention(config.model, machine, dtype_of(config, machine)) == "flash_attention_2"


def segments_unsupported(config: schema.Config, model_config: Any, machine: Machine, longest: int) -> str:
    """`varlen_attention.unsupported_reason` of the model that this configuration would load."""
    kind = model_class(model_config)
    if kind is None:
        return f"{model_config.model_type} is not a causal LM of transformers"
    implementation = attention(config.model, machine, dtype_of(config, machine))
    implementation = implementation or ("sdpa" if kind._supports_sdpa else "eager")
    text = model_config.get_text_config()
    return unsupported_by(kind, text, implementation, longest, machine, compute_dtype(config, machine))


def bare_model(config: schema.Config, model_config: Any, machine: Machine) -> PreTrainedModel:
    """The model class on the meta device, before quantization and adapters. Raises UserError like `build`."""
    dtype = dtype_of(config, machine)
    model_config = copy.deepcopy(model_config)  # from_config modifies it
    options = {"attn_implementation": chosen} if (chosen := attention(config.model, machine, dtype)) else {}
    try:
        with torch.device("meta"), no_init_weights():
            model = auto_class(model_config).from_config(model_config, dtype=dtype, trust_remote_code=False, **options)
            model.tie_weights()
    except (ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        problem = f"transformers cannot build a causal LM from this configuration: {reason_of(error)}"
        hint = "check model.id, or update transformers"
        raise UserError(problem, config.model.id, hint, code="model.unsupported_architecture") from error
    return model


def trainable(model: PreTrainedModel, config: schema.Config, machine: Machine) -> torch.nn.Module:
    """Quantize, freeze and add adapters as the method does."""
    spec, dtype = method_spec(config.method), dtype_of(config, machine)
    if spec.quantizes_base:  # what loading quantizes, as tensors without values
        quantizer = FourBitQuantizer(quantization(config, machine), on_cpu=machine.device == "cpu", pre_quantized=False)
        quantizer.preprocess_model(model=model, dtype=dtype, device_map=None)
        kind, double = config.quantization.type, config.quantization.double
        for name in quantizer.experts:
            path, _, key = name.rpartition(".")
            parameters = model.get_submodule(path)._parameters
            quantizer.states[name] = _quant_state(parameters[key].shape, kind, double, dtype, "meta")
            parameters[key] = _packed(parameters[key], "meta")
        quantizer.postprocess_model(model)
        model.hf_quantizer = quantizer  # as `from_pretrained` does; the Trainer reads it
    if not spec.trains_weights:
        model.requires_grad_(False)
        if spec.is_lora:
            find_lora_targets(model, config.adapter)  # refuses PiSSA for experts, which the next line hides
    config = with_settings(config, {"adapter.init": "default"})  # PiSSA reads weights, and needs the same memory
    with torch.device("meta"):
        return method(config.method).make_trainable(model, config)


def allocate(model: torch.nn.Module) -> None:
    """Give every parameter and buffer of a meta model a storage; call inside FakeTensorMode. Keeps tied weights."""
    replaced: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            new = replaced.get(id(parameter))
            if new is None and isinstance(module, Linear4bit) and name == "weight":
                module.support_avx512bf16_for_cpu = False
                kind, double = parameter.quant_type, parameter.compress_statistics
                new = _packed(parameter, "cpu")
                new.quant_state = _quant_state(parameter.shape, kind, double, module.compute_dtype, "cpu")
                module.quant_state = new.quant_state
            elif new is None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                new = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
            module._parameters[name] = replaced[id(parameter)] = new
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        if isinstance(module, Bnb4bitParametrization):
            state = module.quant_state
            module.quant_state = _quant_state(state.shape, state.quant_type, state.nested, state.dtype, "cpu")


def _packed(parameter: torch.nn.Parameter, device: str) -> torch.nn.Parameter:
    """Storage for two weights per byte."""
    empty = torch.empty((-(-parameter.numel() // 2), 1), dtype=torch.uint8, device=device)
    return torch.nn.Parameter(empty, requires_grad=False)


def _quant_state(shape: torch.Size, kind: str, double: bool, dtype: torch.dtype, device: str) -> QuantState:
    """The scales of a 4-bit weight: a float32 per 64 weights; with double quantization one byte per scale and a float32
    per 256 scales.

    The code books (16 and 256 floats), which layers share, are counted for each layer.
    """
    empty = partial(torch.empty, device=device)
    scales = -(-shape.numel() // BLOCKSIZE)
    common = {"shape": shape, "code": empty(16), "blocksize": BLOCKSIZE, "quant_type": kind, "dtype": dtype}
    if not double:
        return QuantState(absmax=empty(scales), **common)
    second = QuantState(
        absmax=empty(-(-scales // SCALE_BLOCKSIZE)), code=empty(256), blocksize=SCALE_BLOCKSIZE, dtype=torch.float32
    )
    return QuantState(absmax=empty(scales, dtype=torch.uint8), offset=empty(()), state2=second, **common)
