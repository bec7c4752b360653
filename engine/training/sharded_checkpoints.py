"""Checkpoints of sharded full fine-tuning, by `torch.distributed.checkpoint`: every rank writes its part of a tensor.

They load at any number of ranks, also at one, whose weights are whole; and sharded training loads the checkpoint of a
model that was whole. Adapters are whole on every rank, and their checkpoints are those of one rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.utils import SAFE_WEIGHTS_NAME

from engine.config.errors import UserError
from engine.training.checkpoints import SHARDED
from engine.training.sharding import LocalShards

WEIGHTS, OPTIMIZER = "weights.", "optimizer."
"""Prefixes of the names of tensors in a checkpoint."""


def is_sharded_checkpoint(checkpoint: Path) -> bool:
    """Whether its weights and optimizer state were written by several ranks."""
    return (checkpoint / SHARDED).is_dir()


def save(checkpoint: Path, model: torch.nn.Module, optimizer: Any, shards: LocalShards, control: Any) -> None:
    """Write weights and optimizer state; all ranks call it. Raises OSError where the disk is full."""
    state = dict(_weights(model))
    for name, parameter, local in shards.named(model):
        for key, value in optimizer.state[local].items():
            state[f"{OPTIMIZER}{name}.{key}"] = _like(parameter, torch.as_tensor(value))
    with _plain_errors():
        dcp.save(state, checkpoint_id=checkpoint / SHARDED, process_group=control, no_dist=control is None)


def load_sharded_weights(checkpoint: Path, model: torch.nn.Module, control: Any) -> None:
    """Load weights into a model, whole or sharded. Raises ValueError, RuntimeError or KeyError for another model's."""
    _load(dict(_weights(model)), checkpoint, control)


def load_optimizer(checkpoint: Path, model: torch.nn.Module, optimizer: Any, shards: LocalShards, control: Any) -> None:
    """Load the state of an optimizer whose parameters are those of `shards`, which are whole without sharding."""
    reader = dcp.FileSystemReader(checkpoint / SHARDED)
    stored = reader.read_metadata().state_dict_metadata
    empty: dict[str, torch.Tensor] = {}
    for name, parameter, _ in shards.named(model):
        for key, facts in stored.items():
            if key.startswith(f"{OPTIMIZER}{name}.") and isinstance(facts, TensorStorageMetadata):
                whole = torch.empty(facts.size, dtype=facts.properties.dtype, device=parameter.device)
                empty[key] = _sliced(parameter, whole)
    _load(dict(empty), checkpoint, control)
    for name, _, local in shards.named(model):
        prefix = f"{OPTIMIZER}{name}."
        optimizer.state[local] = {
            key.removeprefix(prefix): _local(value) for key, value in empty.items() if key.startswith(prefix)
        }
    _restore_counts(optimizer)


def load_whole_weights(checkpoint: Path, model: torch.nn.Module) -> None:
    """Load the weights of a model that was whole into a sharded one: each rank reads all, and keeps its part."""
    with safe_open(checkpoint / SAFE_WEIGHTS_NAME, "pt") as file:
        names = set(file.keys())
        for name, tensor in _weights(model):
            if (stored := name.removeprefix(WEIGHTS)) in names:
                _local(tensor).copy_(_local(_sliced(tensor, file.get_tensor(stored))))


def load_whole_optimizer(checkpoint: Path, optimizer: Any, shards: LocalShards) -> None:
    """Load the optimizer state of a model that was whole. Raises UserError for 8-bit state, which has no parts."""
    state = torch.load(checkpoint / "optimizer.pt", map_location="cpu", mmap=True, weights_only=True)["state"]
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    originals = {id(local): parameter for parameter, local in shards.pairs}
    for place, local in enumerate(ordered):
        original = originals[id(local)]
        optimizer.state[local] = {}
        for key, value in state.get(place, {}).items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != original.shape:
                what, do = "8-bit optimizer state cannot be sharded across devices", "resume on one device"
                raise UserError(what, str(checkpoint), do, code="run.checkpoint_unusable")
            whole = isinstance(value, torch.Tensor) and value.shape == original.shape
            optimizer.state[local][key] = _local(_sliced(original, value)).clone() if whole else value


def _load(state: dict[str, Any], checkpoint: Path, control: Any) -> None:
    with _plain_errors():
        dcp.load(state, checkpoint_id=checkpoint / SHARDED, process_group=control, no_dist=control is None)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the error of a rank instead of CheckpointException, which is not an Exception."""
    try:
        yield
    except CheckpointException as error:
        cause: BaseException = next(iter(error.failures.values()))[0]
        raise cause from None


def _weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and buffers that a model stores; of tied ones only the first."""
    seen = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            yield f"{WEIGHTS}{name}", tensor.detach()
        seen.add(id(tensor))


def _like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Optimizer state of a local shard as a DTensor of the whole state; a step count is returned unchanged."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.to_local().shape:
        return value
    return DTensor.from_local(
        value,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _sliced(parameter: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """A whole tensor, equal on all ranks, with the placement of a parameter; a step count is returned unchanged."""
    if not isinstance(parameter, DTensor) or whole.shape != parameter.shape:
        return whole
    moved = whole.to(parameter.device)
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _restore_counts(optimizer: Any) -> None:
    """bitsandbytes counts steps in Python numbers, torch's fused AdamW in tensors."""
    if not hasattr(optimizer, "is_paged"):
        return
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = int(state["step"])
