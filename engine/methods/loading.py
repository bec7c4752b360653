"""Load the weights of a model: safetensors only, no remote code."""

from __future__ import annotations

import copy
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    PreTrainedModel,
)

from engine.config import schema
from engine.config.model_config import check_stored_weights, stored_quantization
from engine.methods.machine import Machine, is_out_of_memory
from engine.methods.model_source import LOAD_ERRORS, ModelLocation, config_at, load_error, locate
from engine.methods.rope import separate_lengths


def load_pretrained(model: schema.Model, machine: Machine, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """Load the language model onto the machine's device.

    `options` are passed to `from_pretrained`. Weights that are stored quantized are dequantized, and quantized again if
    `options` has a `quantization_config`. Raises UserError if that is not possible.
    """
    located, implementation = locate(model), attention(model, machine, dtype)
    model_config = config_at(located)  # checks the configuration of a Hub model, which is downloaded only here
    quantizes = "quantization_config" in options
    check_stored_weights(model_config.to_dict(), model.id, quantizes)
    if stored_quantization(model_config.to_dict()):
        options["config"] = dequantizing(model_config, quantizes)
    place = None if machine.device != "cuda" else {"": "cpu" if machine.loads_to_host else 0}
    options |= {"dtype": dtype, "device_map": place, "auto": auto_class(model_config)}
    try:
        try:
            return _from_pretrained(located, attn_implementation=implementation, **options)
        except (ValueError, ImportError) as error:
            if model.attention != "auto" or implementation is None or "flash" not in str(error).lower():
                raise
        return _from_pretrained(located, **options)  # FlashAttention is unsupported by the architecture, or broken
    except (*LOAD_ERRORS, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise  # out of memory is a run outcome, not a user error
        raise load_error(located, "model", error) from error


def dequantizing(model_config: Any, quantizes: bool) -> Any:
    """The configuration with which transformers dequantizes stored weights while it loads them. `quantizes`: whether it
    is to quantize them: then it has to take them for unquantized.
    """
    model_config = copy.deepcopy(model_config)
    if quantizes:
        del model_config.quantization_config
    else:
        model_config.quantization_config = {**model_config.quantization_config, "dequantize": True}
    return model_config


def _from_pretrained(located: ModelLocation, auto: Any, **options: Any) -> PreTrainedModel:
    """Load the weights. Raises ValueError where some are missing: transformers would initialize them randomly."""
    loaded, report = auto.from_pretrained(
        located.source,
        revision=located.revision,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        **options,
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"weights are missing: {missing[0]} and {len(missing) - 1} others")
    model: PreTrainedModel = loaded
    separate_lengths(model)
    return model


def auto_class(model_config: Any) -> Any:
    """The Auto class that loads a model under the names of its own weights.

    The configuration of a multimodal model names its class in `architectures`; AutoModelForCausalLM would load some of
    them as text models with other names, and knows others not at all.
    """
    multimodal = MODEL_FOR_MULTIMODAL_LM_MAPPING.get(type(model_config), None)
    if model_config.get_text_config() is model_config or getattr(model_config, "is_encoder_decoder", False):
        return AutoModelForCausalLM
    causal = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model_config), None)
    if multimodal is None or (causal is not None and causal.__name__ in (model_config.architectures or [])):
        return AutoModelForCausalLM
    return AutoModelForMultimodalLM


def model_class(model_config: Any) -> type[PreTrainedModel] | None:
    """The class that `auto_class` loads; None if transformers has none for this configuration."""
    mapping = auto_class(model_config)._model_mapping
    return mapping.get(type(model_config), None)


def attention(model: schema.Model, machine: Machine, dtype: torch.dtype) -> str | None:
    """The attention implementation: the configured one, else FlashAttention if it is installed and weights are bf16
    (it does not support float32). None leaves the choice to transformers.

    transformers uses SDPA if the architecture supports it (Gemma 2 with its attention logit softcapping does not).
    """
    if model.attention != "auto":
        return model.attention
    return "flash_attention_2" if machine.flash_attention and dtype == torch.bfloat16 else None
