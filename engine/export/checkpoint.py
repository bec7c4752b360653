"""The tensors of a checkpoint, and the parameters of a model that transformers makes from them.

transformers renames and converts weights while it loads them: it stacks the experts of a mixture into one parameter,
or splits a fused projection. An artifact must have the names of its base, so the conversion of each group of tensors is
reversed where its parameters were trained, and every other tensor is copied. Only one group is in memory at a time.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    apply_renamings,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.modeling_utils import load_state_dict

from engine.config import schema
from engine.config.errors import UserError
from engine.methods.loading import load_pretrained
from engine.methods.machine import Machine
from engine.methods.model_source import ModelLocation, config_at, locate
from engine.methods.pull import OTHER_FORMATS
from engine.training.checkpoints import stored_tensors

INDEX = "model.safetensors.index.json"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
"""What a multimodal model needs next to its tokenizer (`transformers.AutoProcessor`)."""


class CheckpointFiles:
    """The tensors in the safetensors files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.empty: dict[str, torch.Tensor] = {}
        """Every tensor on the meta device: shapes and data types."""
        self.files: dict[str, str] = {}
        if (folder / INDEX).exists():
            names = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
        else:
            names = sorted(path.name for path in folder.glob("*.safetensors"))
        for name in names:
            tensors = load_state_dict(folder / name, map_location="meta")
            self.empty |= tensors
            self.files |= dict.fromkeys(tensors, name)

    def read(self, names: Sequence[str]) -> list[torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for path in dict.fromkeys(self.files[name] for name in names):
            with safe_open(self.folder / path, "pt") as file:
                tensors |= {name: file.get_tensor(name) for name in names if self.files[name] == path}
        return [tensors[name] for name in names]


class LoadedTensors:
    """The weights of a loaded model, for a checkpoint that is quantized: they are dequantized while it is loaded."""

    def __init__(self, model: Any, plain: torch.nn.Module) -> None:
        kept = stored_tensors(plain)
        state = {name: tensor for name, tensor in model.state_dict().items() if name in kept}
        self.state: dict[str, torch.Tensor] = revert_weight_conversion(plain, state)
        self.empty = {name: tensor.to("meta") for name, tensor in self.state.items()}

    def read(self, names: Sequence[str]) -> list[torch.Tensor]:
        return [self.state[name] for name in names]


@dataclass(frozen=True)
class TensorGroup:
    """Tensors of a checkpoint, and the parameters that are made from them together."""

    stored: tuple[str, ...]
    parameters: tuple[str, ...]
    """Names in the model; () for tensors that the model's class does not load."""
    converter: WeightConverter | None = None
    patterns: tuple[str, ...] = ()
    """For each stored tensor the source pattern of the converter that it matches."""
    converted_names: tuple[str, ...] = ()
    """The stored names as the converter reads and, reversed, writes them: after the renamings."""


class CheckpointMap:
    """Which tensors of a checkpoint make which parameters of a model, by the rules with which transformers loads it."""

    def __init__(self, plain: Any, tensors: CheckpointFiles | LoadedTensors) -> None:
        """plain: the model on the meta device."""
        self.plain, self.tensors = plain, tensors
        self.groups = self._groups()
        self.by_parameter = {name: group for group in self.groups for name in group.parameters}
        self.tied = tied_names(plain)

    @property
    def unused(self) -> list[str]:
        """The tensors that the class of the model does not load: heads for multi-token prediction, or, for a class of
        text alone, the vision tower.
        """
        return [name for group in self.groups if not group.parameters for name in group.stored]

    def group_of(self, parameter: str) -> TensorGroup | None:
        """The tensors of a parameter, or of one that is tied to it; None if the checkpoint has none."""
        names = [parameter, *self.tied.get(parameter, ())]
        return next((self.by_parameter[name] for name in names if name in self.by_parameter), None)

    def parameter(self, name: str) -> torch.Tensor:
        """The value of one parameter. Raises KeyError if the checkpoint does not have it."""
        group = self.group_of(name)
        if group is None:
            raise KeyError(name)
        values = self.parameters(group)
        return next(values[alias] for alias in (name, *self.tied.get(name, ())) if alias in values)

    def parameters(self, group: TensorGroup) -> dict[str, torch.Tensor]:
        if group.converter is None:
            return {group.parameters[0]: self.tensors.read(group.stored[:1])[0]}
        return _convert(self.plain, group, self.tensors.read(group.stored))

    def tensors_from(self, group: TensorGroup, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of a group as the checkpoint stores them, from the values of its parameters.

        Raises UserError if the conversion cannot be reversed.
        """
        if group.converter is None:
            return dict.fromkeys(group.stored, values[group.parameters[0]])
        self.plain._weight_conversions = [group.converter]  # where transformers keeps what it reverses
        try:
            converted = revert_weight_conversion(self.plain, dict(values))
        except (ValueError, NotImplementedError, RuntimeError, AttributeError) as error:
            raise irreversible(group) from error
        finally:
            del self.plain._weight_conversions
        if converted.keys() != set(group.converted_names):
            raise irreversible(group)
        return {stored: converted[name] for stored, name in zip(group.stored, group.converted_names, strict=True)}

    def check_reversible(self, group: TensorGroup) -> None:
        """Raise UserError unless the group's parameters can be stored as in the checkpoint; reads no weights."""
        if group.converter is None:
            return
        empty = [self.tensors.empty[name] for name in group.stored]
        values = _convert(self.plain, group, empty)
        back = self.tensors_from(group, values)
        if any(back[name].shape != tensor.shape for name, tensor in zip(group.stored, empty, strict=True)):
            raise irreversible(group)

    def _groups(self) -> list[TensorGroup]:
        """The groups in the order of the checkpoint's names."""
        conversions = get_model_conversion_mapping(self.plain)
        renamings = [conversion for conversion in conversions if isinstance(conversion, WeightRenaming)]
        converters = [conversion for conversion in conversions if isinstance(conversion, WeightConverter)]
        by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        state, prefix = self.plain.state_dict(), self.plain.base_model_prefix
        matched: dict[str, list[tuple[str, str | None]]] = {}
        for stored in sorted(self.tensors.empty, key=dot_natural_key):
            name, pattern = rename_source_key(stored, renamings, converters, prefix, state)
            if name not in state and stored in state:
                name, pattern = stored, None
            matched.setdefault(name, []).append((stored, pattern))
        groups = []
        for name, members in matched.items():
            tensors, pattern = tuple(stored for stored, _ in members), members[0][1]
            if name not in state:
                groups.append(TensorGroup(tensors, ()))
            elif pattern is None:
                groups.append(TensorGroup(tensors, (name,)))
            else:
                # The renamed tensors have the prefix of the base model if their parameter has it.
                start = f"{prefix}." if name.startswith(f"{prefix}.") else ""
                renamed = [apply_renamings(stored, renamings).removeprefix(f"{prefix}.") for stored in tensors]
                patterns = tuple(str(pattern) for _, pattern in members)
                converted_names = tuple(start + without for without in renamed)
                group = TensorGroup(tensors, (name,), by_pattern[pattern], patterns, converted_names)
                with contextlib.suppress(ValueError, RuntimeError, AttributeError, NotImplementedError):
                    # Every parameter that the converter makes, found on empty tensors.
                    made = _convert(self.plain, group, [self.tensors.empty[stored] for stored in tensors])
                    group = dataclasses.replace(group, parameters=tuple(made))
                groups.append(group)
        return groups


def irreversible(group: TensorGroup) -> UserError:
    problem = f"cannot merge: the conversion of {group.stored[0]} while it is loaded cannot be reversed"
    return UserError(problem, hint="export the adapter instead, or train other layers", code="export.cannot_merge")


def _convert(plain: Any, group: TensorGroup, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The parameters that transformers' converter makes from a group's tensors."""
    converter, name = copy.deepcopy(group.converter), group.parameters[0]
    assert converter is not None
    for stored, pattern, tensor in zip(group.stored, group.patterns, tensors, strict=True):
        converter.add_tensor(name, stored, pattern, tensor)
    converted = converter.convert(name, model=plain, config=plain.config)
    return {name: value[0] if isinstance(value, list) else value for name, value in converted.items()}


def base_checkpoint(model: schema.Model, plain: Any) -> CheckpointMap:
    """The checkpoint of a base model; of a quantized one its weights as transformers dequantizes them.

    plain: the model on the meta device.
    """
    located = locate(model)
    if getattr(config_at(located), "quantization_config", None):
        loaded = load_pretrained(model, Machine("cpu", "", False, False), torch.bfloat16)
        return CheckpointMap(plain, LoadedTensors(loaded, plain))
    return CheckpointMap(plain, CheckpointFiles(checkpoint_folder(located)))


def checkpoint_folder(located: ModelLocation, cached: bool = False) -> Path:
    """The local folder with the weights of a model; of a Hub model its snapshot in the cache.

    cached: nothing is asked of the Hub, because the weights have just been loaded.
    """
    if located.is_folder:
        return Path(located.source)
    from huggingface_hub import snapshot_download  # only models from the Hub need it

    patterns = ["*.safetensors", INDEX, "config.json", *PROCESSOR_FILES]
    return Path(
        snapshot_download(
            located.source,
            revision=located.revision,
            allow_patterns=patterns,
            ignore_patterns=OTHER_FORMATS,  # `ftbench pull` does not download them, and offline they would be missed
            local_files_only=cached,
        )
    )


def tied_names(plain: torch.nn.Module) -> dict[str, tuple[str, ...]]:
    """Parameter -> the other names of the same tensor."""
    by_tensor: dict[int, list[str]] = {}
    for name, tensor in plain.state_dict(keep_vars=True).items():
        by_tensor.setdefault(id(tensor), []).append(name)
    return {
        name: tuple(other for other in names if other != name)
        for names in by_tensor.values()
        if len(names) > 1
        for name in names
    }
