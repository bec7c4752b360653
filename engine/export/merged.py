"""Merge an adapter into its base model, tensor by tensor, or convert the weights of a full run.

PEFT's own merge is used for each layer, in float32 and rounded once, so that LoRA, rsLoRA and DoRA, and linear layers
that store their weight transposed (GPT-2), give what PEFT gives. Only one shard is in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine.config.errors import UserError
from engine.export.tensors import INDEX, Tensors, stored_parameters
from engine.runs.exports import WeightType

DTYPES: Mapping[WeightType, torch.dtype] = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SHARD_BYTES = 10**9
"""Size limit of a file; a single larger tensor gets a separate file."""
SHARD_SHARE = 0.1
"""Size limit of a file as a share of all weights, so that the memory of a merge is small for small models too."""


def plain_model(config: Any) -> torch.nn.Module:
    """The model of a transformers configuration on the meta device: names, shapes and ties without memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return model


class Merge:
    """The weights of base plus adapter by parameter name; without an adapter the base's."""

    def __init__(self, plain: torch.nn.Module, base: Tensors, adapter: Path | None) -> None:
        self.base = base
        self.parameters = stored_parameters(plain)
        self.layers: dict[str, Any] = {}
        if adapter is not None:
            self.layers = _adapted_weights(_with_adapter(plain, adapter))
            missing = self.layers.keys() - self.parameters.keys()
            if missing:
                what = f"cannot merge: the adapter changes weights that the base does not have ({sorted(missing)[0]})"
                raise UserError(what, str(adapter), "export the adapter instead", "export.cannot_merge")

    def __call__(self, name: str) -> torch.Tensor:
        weight = self.base(name)
        layer = self.layers.get(name)
        return weight if layer is None else _merged(layer, weight)


def _with_adapter(plain: torch.nn.Module, adapter: Path) -> peft.PeftModel:
    """The model without weights, with the adapter's weights in float32 in memory.

    PEFT's `from_pretrained` would put the adapter on the device of its base, which is meta.
    """
    model = peft.get_peft_model(plain, peft.PeftConfig.from_pretrained(str(adapter)), low_cpu_mem_usage=True)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for name in layer.adapter_layer_names:
                if isinstance(part := getattr(layer, name, None), torch.nn.Module):
                    part.to_empty(device="cpu").float()
    loaded = peft.set_peft_model_state_dict(model, load_file(adapter / ADAPTER_WEIGHTS))
    wrong = [*loaded.unexpected_keys, *(name for name in loaded.missing_keys if "lora_" in name)]
    if wrong:
        what = f"the adapter does not fit its base ({wrong[0]})"
        raise UserError(what, str(adapter), code="export.cannot_merge")
    return model


def _adapted_weights(model: peft.PeftModel) -> dict[str, Any]:
    """Parameter name of the base model -> PEFT's layer around it. Raises UserError for layers that have no weight."""
    found = {}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            if not isinstance(getattr(module.get_base_layer(), "weight", None), torch.Tensor):
                what = f"cannot merge an adapter on {name} ({type(module).__name__})"
                raise UserError(what, do="export the adapter instead", code="export.cannot_merge")
            found[f"{name}.weight"] = module
    return found


@torch.no_grad()
def _merged(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """The layer's weight with its adapter in float32, by PEFT's merge."""
    base = layer.get_base_layer()
    placeholder = base.weight
    base.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
    try:
        layer.merge(safe_merge=True)
        return base.weight.data
    finally:
        base.weight = placeholder
        layer.merged_adapters.clear()


def write_weights(
    tensors: Merge, dtype: torch.dtype, folder: Path, progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Write the weights as safetensors in shards with an index.

    `progress` gets a description, the number of tensors written and their total.
    """
    plan = {
        name: torch.empty_like(tensor, dtype=dtype if tensor.is_floating_point() else tensor.dtype, device="meta")
        for name, tensor in tensors.parameters.items()
    }
    total = sum(tensor.nbytes for tensor in plan.values())
    limit = max(1, min(SHARD_BYTES, round(SHARD_SHARE * total)))
    split = split_torch_state_dict_into_shards(plan, max_shard_size=limit)
    done = 0
    for file, names in split.filename_to_tensors.items():
        shard = {name: tensors(name).to(plan[name].dtype).contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        del shard
        done += len(names)
        if progress:
            progress("writing weights", done, len(plan))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2), "utf-8")
