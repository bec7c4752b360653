"""Add low-rank adapters to a frozen base with PEFT; shared by LoRA and QLoRA.

Adapters are stored and updated in float32 and multiply in the data type of the activations, as autocast would: PEFT by
itself copies the input of every adapted layer to float32 and multiplies there (tuners/lora/layer.py), which on a GPU
takes the slow path of the matrix units and keeps a float32 copy of each input for the backward pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import PreTrainedModel

from engine.config import schema
from engine.config.errors import UserError
from engine.config.method_specs import method_spec


class CastLinear(torch.nn.Linear):
    """A linear layer whose float32 weight is cast to the data type of its input; its gradient is float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in_features) to (…, out_features), in the input's data type."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return torch.nn.functional.linear(input, self.weight.to(input.dtype), bias)


def unwrap_peft(model: torch.nn.Module) -> Any:
    """The transformers model without PEFT's wrapper, if it has one."""
    return getattr(model, "get_base_model", lambda: model)()


def add_adapters(model: PreTrainedModel, adapter: schema.Adapter) -> peft.PeftModel:
    """Freeze the base and add float32 adapters to the target linear layers.

    W x becomes W x + s B A x with A (rank, in) random, B (out, rank) zero, and s = alpha/rank, or alpha/sqrt(rank) with
    rsLoRA: before the first step the model equals the base model. PiSSA moves the principal part of W into A and B.
    Set the seed before calling.
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
        init_lora_weights="pissa" if adapter.init == "pissa" else True,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = multiply_in_input_dtype(peft.get_peft_model(model, config))
        set_rate_factors(adapted, adapter.lora_plus_ratio)
        return adapted
    except ValueError as error:
        names = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _is_linear(module)})
        is_found = any(_matches(name, targets) for name, _ in model.named_modules())
        what = (
            f"unsupported layer in {targets} ({str(error).splitlines()[0]})"
            if is_found
            else f"no layer matches {targets}"
        )
        do = f"use layers of this model: {', '.join(names)}"
        raise UserError(what, "adapter.target_modules", do, code="model.unknown_target") from error


def _matches(name: str, targets: str | Sequence[str]) -> bool:
    """Whether `adapter.target_modules` has a module, as PEFT reads it: names of layers, or a regular expression."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def moves_weights(config: schema.Config) -> bool:
    """Whether adding the adapter changes the weights of the base, as PiSSA does."""
    return method_spec(config.method).trains == "adapters" and config.adapter.init == "pissa"


def keep_initial(model: Any, folder: Path) -> None:
    """Store the adapter of PiSSA before training, which `save` subtracts."""
    config = model.peft_config["default"]
    config.init_lora_weights = True  # else PEFT would initialize it again when it loads it
    model.save_pretrained(folder)
    config.init_lora_weights = "pissa"


def save(
    model: torch.nn.Module, folder: Path, initial: Path | None, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Save the trained model or adapter. `weights`: the complete state dict of a model whose weights are sharded.

    `initial`: the folder that `keep_initial` wrote. The adapter is then saved for the original base: W - s B0 A0 +
    s B A is W plus an adapter of twice the rank.
    """
    how: dict[str, Any] = {} if initial is None else {"path_initial_model_for_weight_conversion": str(initial)}
    if weights is not None:
        how["state_dict"] = weights
    model.save_pretrained(folder, **how)


def set_rate_factors(model: torch.nn.Module, ratio: float) -> None:
    """Mark the matrices B: `make_optimizer` multiplies their learning rate by this (LoRA+)."""
    for name, parameter in model.named_parameters():
        if ratio != 1 and (".lora_B." in name or ".lora_embedding_B." in name):
            parameter.rate_factor = ratio


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


def multiply_in_input_dtype(model: peft.PeftModel) -> peft.PeftModel:
    """Make every adapter multiply in the data type of its input; call after adapters are added or loaded.

    DoRA is left as PEFT computes it: it divides by norms of the weights, which need float32. So are adapters of tensors
    in a mixture of experts: PEFT casts the factors of experts to the tensor's data type, and multiplies those of a
    router, without tokens, in float32 (lora.ParamWrapper).
    """
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        if layer.lora_variant:
            layer.cast_input_dtype_enabled = True  # off if a plain adapter was loaded before
            continue
        parts = [*layer.lora_A.values(), *layer.lora_B.values()]
        if parts and all(type(part) in (torch.nn.Linear, CastLinear) for part in parts):
            for part in parts:
                part.__class__ = CastLinear  # the same parameters, under the same names
            layer.cast_input_dtype_enabled = False  # for all adapters of the layer
    return model


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)
