"""Read the weights of a base model one tensor at a time, so that a merge needs the memory of one shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open

from engine.config import schema
from engine.methods.loading import load_pretrained
from engine.methods.locate import ModelLocation, locate
from engine.methods.machine import Machine

INDEX = "model.safetensors.index.json"


class Tensors(Protocol):
    """Weights by the parameter's name in the transformers model."""

    def __call__(self, name: str) -> torch.Tensor: ...


class CheckpointTensors:
    """The tensors in the safetensors files of a folder."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        self.files = _index(folder)

    def stored_name(self, name: str) -> str | None:
        """The tensor's name in the files; checkpoints of the decoder alone (GPT-2's) lack the model's prefix."""
        return next((one for one in (name, name.removeprefix(self.prefix)) if one in self.files), None)

    def has(self, name: str, shape: torch.Size) -> bool:
        """Whether the files hold this parameter in the shape of the model."""
        stored = self.stored_name(name)
        if stored is None:
            return False
        with safe_open(self.folder / self.files[stored], "pt") as file:
            return bool(file.get_slice(stored).get_shape() == list(shape))

    def __call__(self, name: str) -> torch.Tensor:
        stored = self.stored_name(name)
        assert stored is not None, name
        with safe_open(self.folder / self.files[stored], "pt") as file:
            return file.get_tensor(stored)


class LoadedTensors:
    """The parameters of a loaded model, for checkpoints that transformers converts while it loads them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.state: dict[str, torch.Tensor] = model.state_dict()

    def __call__(self, name: str) -> torch.Tensor:
        return self.state[name]


class DequantizedTensors:
    """The weights that a QLoRA run trained on: 4-bit layers dequantized, the others as loaded."""

    def __init__(self, model: torch.nn.Module) -> None:
        import bitsandbytes as bnb  # takes a second to import, and only QLoRA needs it

        self.quantized = {
            f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)
        }
        self.dequantize = bnb.functional.dequantize_4bit
        self.state: dict[str, Any] = {
            name: tensor for name, tensor in model.state_dict().items() if name not in self.quantized
        }

    def __call__(self, name: str) -> torch.Tensor:
        module = self.quantized.get(name)
        if module is None:
            return self.state[name].cpu()
        return self.dequantize(module.weight.data, module.weight.quant_state).cpu()


def base_tensors(model: schema.Model, plain: torch.nn.Module) -> Tensors:
    """The base model's weights: from its files if they hold every parameter of `plain` by name and shape.

    plain: the model on the meta device.
    """
    folder = checkpoint_folder(locate(model))
    found = CheckpointTensors(folder, f"{plain.base_model_prefix}.")
    if all(found.has(name, tensor.shape) for name, tensor in stored_parameters(plain).items()):
        return found
    return LoadedTensors(load_pretrained(model, Machine("cpu", "", False, False), torch.float32))


def stored_parameters(plain: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers that a checkpoint stores: of tied ones only the first."""
    kept: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    state = plain.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if id(tensor) not in seen:
            kept[name] = tensor
            seen.add(id(tensor))
    return kept


def checkpoint_folder(located: ModelLocation) -> Path:
    """The local folder with the weights of a model; of a Hub model its snapshot in the cache."""
    if located.is_folder:
        return Path(located.source)
    from huggingface_hub import snapshot_download  # only models from the Hub need it

    patterns = ["*.safetensors", INDEX, "config.json"]
    return Path(snapshot_download(located.source, revision=located.revision, allow_patterns=patterns))


def _index(folder: Path) -> dict[str, str]:
    """Tensor name -> file name."""
    if (folder / INDEX).exists():
        weights: dict[str, str] = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
        return weights
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= dict.fromkeys(file.keys(), path.name)
    return found
