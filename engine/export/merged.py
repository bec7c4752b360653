"""Merge an adapter into its base model, or convert the weights of a full run, with the names of the base's checkpoint.

PEFT's own merge is used for each layer, in float32 and rounded once, so that LoRA, rsLoRA and DoRA, linear layers
that store their weight transposed (GPT-2) and experts that are one parameter give what PEFT gives. Only one file is in
memory at a time.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from transformers import AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from engine.config import schema
from engine.config.errors import UserError
from engine.export.checkpoint import INDEX, CheckpointFiles, CheckpointMap, TensorGroup, checkpoint_folder, tied_names
from engine.methods.adapters import copy_adapter
from engine.methods.loading import auto_class
from engine.methods.model_source import config_at, locate

DTYPES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SHARD_BYTES = 10**9
"""Size limit of a file; a single larger tensor gets a separate file."""
BASE_LAYER = ".base_layer"
"""Where PEFT keeps the module that it wraps."""


def served_class(config: Any) -> Any:
    """The class that `transformers serve` loads a model with (transformers.cli.serving.model_manager).

    Raises UserError for a configuration without a class.
    """
    if config.model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return AutoModelForMultimodalLM
    names = config.architectures or ["none"]
    model_class = getattr(transformers, names[0], None)
    if model_class is None:
        problem = f"its config.json names a class that transformers does not have ({names[0]})"
        raise UserError(problem, config.name_or_path, "export it again", "export.no_class")
    return model_class


def plain_model(config: Any) -> Any:
    """The model that is trained, of a transformers configuration, on the meta device: names, shapes and ties."""
    with torch.device("meta"):
        model = auto_class(config).from_config(config)
    model.tie_weights()
    return model


class FullWeights:
    """The weights that a full run saved, by the names in the model that it trained."""

    def __init__(self, trained: CheckpointMap) -> None:
        self.trained = trained

    def changes(self, parameter: str) -> bool:
        """Whether this parameter differs from the base's."""
        return self.trained.group_of(parameter) is not None

    def values(self, group: TensorGroup, base: CheckpointMap) -> dict[str, torch.Tensor]:
        """The values of all parameters of a group of the base, of which at least one was changed."""
        return {name: (self.trained if self.changes(name) else base).parameter(name) for name in group.parameters}


class AdapterWeights:
    """The weights of an adapter, merged into those of its base, with the methods of `FullWeights`.

    dequantized: the 4-bit weights that the adapter was trained on, by parameter; they replace those of the checkpoint.
    """

    def __init__(self, plain: Any, adapter: Path, dequantized: Mapping[str, torch.Tensor] | None = None) -> None:
        self.dequantized = dequantized or {}
        # PEFT's `from_pretrained` would put the adapter on the device of its base, which is meta; here its weights are
        # in float32 in memory.
        config = peft.PeftConfig.from_pretrained(str(adapter))
        model = peft.get_peft_model(copy.deepcopy(plain), config, low_cpu_mem_usage=True)  # PEFT wraps layers in place
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                for name in layer.adapter_layer_names:
                    if isinstance(part := getattr(layer, name, None), torch.nn.Module):
                        part.to_empty(device="cpu").float()
        try:
            copy_adapter(model, adapter)
        except ValueError as error:
            problem = f"the adapter does not fit its base: {error}"
            raise UserError(problem, str(adapter), code="export.cannot_merge") from error
        self.layers = adapted_parameters(model)

    def changes(self, parameter: str) -> bool:
        return parameter in self.layers or parameter in self.dequantized

    @torch.no_grad()
    def values(self, group: TensorGroup, base: CheckpointMap) -> dict[str, torch.Tensor]:
        values = {name: self.dequantized[name] for name in group.parameters if name in self.dequantized}
        if len(values) < len(group.parameters):
            values = base.parameters(group) | values
        for name in self.layers.keys() & values.keys():  # PEFT merges in float32
            layer, attribute = self.layers[name]
            module: Any = layer.get_base_layer()
            placeholder = getattr(module, attribute)
            setattr(module, attribute, torch.nn.Parameter(values[name].float(), requires_grad=False))
            try:
                layer.merge(safe_merge=True)
                values[name] = getattr(module, attribute).data
            finally:
                setattr(module, attribute, placeholder)
                layer.merged_adapters.clear()
        return values


def merge_obstacle(base: schema.Model, model: torch.nn.Module) -> str:
    """Why the model to train could not be exported as merged weights, '' if it can. Reads no weights.

    base: whose weights have just been loaded.
    """
    located = locate(base)
    config = config_at(located)
    if getattr(config, "quantization_config", None):
        return ""  # what it is dequantized to has the names that transformers writes
    plain = plain_model(config)
    try:
        if isinstance(model, peft.PeftModel):
            trained = set(adapted_parameters(model))
        else:
            trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        checkpoint = CheckpointMap(plain, CheckpointFiles(checkpoint_folder(located, cached=True)))
        for group in checkpoint.groups:
            if trained & set(group.parameters):
                checkpoint.check_reversible(group)
    except UserError as error:
        return error.problem
    return ""


class DequantizedWeights(Mapping[str, torch.Tensor]):
    """The weights that a QLoRA run trained on: by parameter, those that bitsandbytes quantized, dequantized."""

    def __init__(self, model: torch.nn.Module) -> None:
        import bitsandbytes as bnb  # takes a second to import, and only QLoRA needs it

        self.dequantize = bnb.functional.dequantize_4bit
        self.layers: dict[str, tuple[Any, str]] = {}
        for name, module in model.named_modules():
            if isinstance(module, bnb.nn.Linear4bit):
                self.layers[f"{name}.weight"] = module, "weight"
            elif isinstance(parametrized := getattr(module, "parametrizations", None), torch.nn.ModuleDict):
                self.layers |= {f"{name}.{key}": (module, key) for key in parametrized}  # experts

    def __getitem__(self, parameter: str) -> torch.Tensor:
        module, name = self.layers[parameter]
        weight = getattr(module, name)  # dequantized by its parametrization, if it has one
        state = getattr(weight, "quant_state", None)
        return (weight.detach() if state is None else self.dequantize(weight.data, state)).cpu()

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


def adapted_parameters(model: peft.PeftModel) -> dict[str, tuple[LoraLayer, str]]:
    """Parameter of the base model -> PEFT's layer around it, and its name in the module that the layer wraps.

    Raises UserError if a layer has no weight to merge into, or shares it with another layer.
    """
    base = model.get_base_model()
    tied = tied_names(base)
    parameters: dict[str, tuple[LoraLayer, str]] = {}
    for name, module in base.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        if not isinstance(module, LoraLayer):
            raise _cannot_merge(f"adapters of the type {type(module).__name__}")
        attribute = getattr(module, "parameter_name", "weight")
        parameter = f"{name.replace(BASE_LAYER, '')}.{attribute}"
        if not isinstance(getattr(module.get_base_layer(), attribute, None), torch.Tensor):
            raise _cannot_merge(f"an adapter on {name} ({type(module.get_base_layer()).__name__})")
        if others := tied.get(f"{name}{BASE_LAYER}.weight"):
            raise _cannot_merge(f"the adapter on {parameter}: {others[0]} has the same weights")
        parameters[parameter] = module, attribute
    return parameters


def _cannot_merge(what: str, where: str = "") -> UserError:
    hint = "export the adapter instead, or train other layers (adapter.target_modules)"
    return UserError(f"cannot merge {what}", where, hint, "export.cannot_merge")


class Merge:
    """The tensors of the base's checkpoint, with those that a run changed replaced."""

    def __init__(self, base: CheckpointMap, trained: FullWeights | AdapterWeights, dtype: torch.dtype) -> None:
        """dtype: of the written weights. Raises UserError if a changed weight cannot be stored as in the checkpoint,
        or is not in it.
        """
        self.base, self.trained, self.dtype = base, trained, dtype
        self.groups = base.groups
        changed = [group for group in self.groups if any(map(trained.changes, group.parameters))]
        for group in changed:
            base.check_reversible(group)
        in_float32 = [re.escape(name) for name in base.plain._get_dtype_plan(dtype)]
        self._stays_float32 = re.compile(rf"(^|\.)({'|'.join(in_float32)})($|\.)") if in_float32 else None

    def empty(self) -> dict[str, torch.Tensor]:
        """Every tensor as it is written, on the meta device; tensors of one group are consecutive."""
        stored = self.base.tensors.empty
        return {
            name: torch.empty_like(stored[name], dtype=self._written_dtype(group, name))
            for group in self.groups
            for name in group.stored
        }

    def read(self, group: TensorGroup) -> dict[str, torch.Tensor]:
        if any(map(self.trained.changes, group.parameters)):
            tensors = self.base.tensors_from(group, self.trained.values(group, self.base))
        else:
            tensors = dict(zip(group.stored, self.base.tensors.read(group.stored), strict=True))
        return {name: tensor.to(self._written_dtype(group, name)) for name, tensor in tensors.items()}

    def _written_dtype(self, group: TensorGroup, name: str) -> torch.dtype:
        """Tensors that the model does not load stay as they are, and so do those that it keeps in float32."""
        stored = self.base.tensors.empty[name].dtype
        if not group.parameters or not stored.is_floating_point:
            return stored
        pattern = self._stays_float32
        if stored == torch.float32 and pattern and any(map(pattern.search, group.parameters)):
            return stored
        return self.dtype


def write_weights(merge: Merge, folder: Path, progress: Callable[[str, int, int], None] | None = None) -> None:
    """Write the weights as safetensors, above SHARD_BYTES in several files with an index.

    `progress` gets a description, the number of tensors written and their total.
    """
    plan = merge.empty()
    group_of = {name: group for group in merge.groups for name in group.stored}
    split = split_torch_state_dict_into_shards(plan, max_shard_size=SHARD_BYTES)
    ready: dict[str, torch.Tensor] = {}
    """Tensors of a group that is in two files."""
    done = 0
    for file, names in split.filename_to_tensors.items():
        shard = {}
        for name in names:
            if name not in ready:
                ready |= merge.read(group_of[name])
            shard[name] = ready.pop(name).contiguous()
            if progress:
                progress("writing weights", done := done + 1, len(plan))
        save_file(shard, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2), "utf-8")
