"""The part of the Trainer that saves, loads and selects checkpoints.

Those of sharded full fine-tuning are written by `torch.distributed.checkpoint`: every rank writes its part of a tensor.
They load at any number of ranks, also at one, whose weights are whole; and sharded training loads the checkpoint of a
model that was whole. Adapters are whole on every rank, and their checkpoints are those of one rank.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.serialization import config as serialization
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from engine.config.errors import UserError
from engine.methods.adapters import copy_adapter
from engine.methods.machine import is_out_of_memory
from engine.methods.optimizers import copy_mapped_state
from engine.training import checkpoints
from engine.training.checkpoint_writer import CheckpointWriter
from engine.training.checkpoints import (
    SHARDED,
    Losses,
    WeightSelection,
    load_safetensors,
    stored_tensors,
    validation_losses,
    write_configuration,
)
from engine.training.guards import first_line
from engine.training.ranks import Ranks
from engine.training.sharding import LocalShards, is_sharded, reshard

WEIGHTS, OPTIMIZER = "weights.", "optimizer."
"""Prefixes of the names of tensors in a checkpoint."""


def is_sharded_checkpoint(checkpoint: Path) -> bool:
    """Whether its weights and optimizer state were written by several ranks."""
    return (checkpoint / SHARDED).is_dir()


def save(checkpoint: Path, model: torch.nn.Module, optimizer: Any, shards: LocalShards, control: Any) -> None:
    """Write weights and optimizer state; all ranks call it. Raises OSError where the disk is full."""
    state = _weights(model)
    for name, parameter, local in shards.named(model):
        for key, value in optimizer.state[local].items():
            state[f"{OPTIMIZER}{name}.{key}"] = _like(parameter, torch.as_tensor(value))
    with _plain_errors():
        dcp.save(state, checkpoint_id=checkpoint / SHARDED, process_group=control, no_dist=control is None)


def load_sharded_weights(checkpoint: Path, model: torch.nn.Module, control: Any) -> None:
    """Load weights into a model, whole or sharded. Raises ValueError, RuntimeError or KeyError for another model's."""
    _load(_weights(model), checkpoint, control)


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
        for name, tensor in stored_tensors(model).items():
            if name in names:
                _local(tensor).copy_(_local(_sliced(tensor, file.get_tensor(name))))


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
                problem, hint = "8-bit optimizer state cannot be sharded across devices", "resume on one device"
                raise UserError(problem, str(checkpoint), hint, code="run.checkpoint_unusable")
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


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"{WEIGHTS}{name}": tensor for name, tensor in stored_tensors(model).items()}


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


class CheckpointedTrainer(Trainer):
    """Saves checkpoints atomically, also from a thread or from several ranks, and loads them."""

    def __init__(
        self,
        *,
        writer: CheckpointWriter,
        ranks: Ranks,
        shards: LocalShards | None,
        selection: WeightSelection,
        **rest: Any,
    ) -> None:
        """`shards`: the optimizer's parameters, if they are not the model's."""
        super().__init__(**rest)
        self.writer, self.ranks, self.selection = writer, ranks, selection
        writer.best = lambda step: selection.best_step(validation_losses(self.state.log_history), step)
        self.shards = shards or LocalShards(self.model)
        self.is_sharded = is_sharded(self.model)
        self.trains_parts = any(
            isinstance(weight, DTensor) and weight.requires_grad for weight in self.model.parameters()
        )
        """Whether the trained weights are sharded across the ranks; adapters are not."""

    def train(self, *args: Any, **rest: Any) -> Any:
        """Train; returns when the last checkpoint is complete. Raises what `training_step` does, and DiskFull."""
        with self.writer:
            return super().train(*args, **rest)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        weights = checkpoint / SAFE_WEIGHTS_NAME
        with _fitting(resume_from_checkpoint):
            if is_sharded_checkpoint(checkpoint):
                load_sharded_weights(checkpoint, self.model, self._loading_group)
            elif self.trains_parts:
                load_whole_weights(checkpoint, self.model)
            elif _has_adapters(self.model):
                copy_adapter(self.model, checkpoint)
            elif weights.is_file():
                load_safetensors(self.model, weights)
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (self.trains_parts or is_sharded_checkpoint(Path(checkpoint))):
            self._load_parts(Path(checkpoint))
            return
        # Mapped into memory: bitsandbytes copies all state, and a second copy of it would be in memory meanwhile.
        with _fitting(checkpoint), serialization.patch("load.mmap", True):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            copy_mapped_state(self.optimizer)

    def _load_parts(self, checkpoint: Path) -> None:
        """Load optimizer and scheduler where model or checkpoint are sharded."""
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        with _fitting(str(checkpoint)):
            if is_sharded_checkpoint(checkpoint):
                load_optimizer(checkpoint, self.model, optimizer, self.shards, self._loading_group)
            else:
                load_whole_optimizer(checkpoint, optimizer, self.shards)
            self.lr_scheduler.load_state_dict(torch.load(checkpoint / SCHEDULER_NAME, weights_only=True))
            for group, rate in zip(optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
                group["lr"] = rate  # otherwise loaded with the optimizer's groups

    @property
    def _loading_group(self) -> Any:
        """The process group for loading a sharded checkpoint; None where every rank loads all of it."""
        return self.ranks.control if self.trains_parts else None

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _fitting(checkpoint):
            super()._load_rng_state(checkpoint)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any = None) -> None:
        """Save a checkpoint atomically (see `checkpoints`), in a thread if training continues (`checkpoint_writer`)."""
        if self.is_sharded:
            reshard(self.model)  # on all ranks: the state dict that rank 0 saves reshards its own
        if self.trains_parts:
            self._save_parts()
            return
        if not self.ranks.is_first:  # all ranks have the same weights and optimizer state
            return
        continues = not self.control.should_training_stop
        self.writer.save(self.state.global_step, self._write_small_files, self._large_files, continues)

    def _save_parts(self) -> None:
        """Save a checkpoint to which every rank adds its part of weights and optimizer state."""
        step = self.state.global_step
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)

        def write(folder: Path) -> None:
            if self.ranks.is_first:
                self._write_small_files(folder)
            self.ranks.barrier()  # the folder exists
            save(folder, self.model, optimizer, self.shards, self.ranks.control)

        if self.ranks.is_first:
            self.writer.save_together(step, write)
        else:
            write(self.writer.folder / f"{checkpoints.WRITING}{step}")

    def _write_small_files(self, folder: Path) -> None:
        """Everything but the weights of a full model and the optimizer's state."""
        if _has_adapters(self.model):
            self.save_model(str(folder), _internal_call=True)
        else:
            write_configuration(self.model, folder)
        torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
        self._save_rng_state(str(folder))
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _large_files(self) -> dict[str, Any]:
        weights = {} if _has_adapters(self.model) else {SAFE_WEIGHTS_NAME: stored_tensors(self.model)}
        return {**weights, OPTIMIZER_NAME: self.optimizer.state_dict()}

    def load_best(self, losses: Losses) -> int | None:
        """Load the weights of the selected step, on all ranks, and return it; None if the last weights are kept.

        `losses`: all of the training.
        """
        step = self.selection.best_step(losses)
        if step is not None and step != losses[-1][0]:
            self.ranks.barrier()  # rank 0 has written it
            self._load_from_checkpoint(str(self.writer.folder / f"{checkpoints.PREFIX}{step}"))
        return step


def _has_adapters(model: Any) -> bool:
    return hasattr(model, "peft_config")


@contextlib.contextmanager
def _fitting(checkpoint: str | None) -> Iterator[None]:
    """Raise UserError if a complete checkpoint cannot be loaded: it belongs to another model or configuration."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError, IndexError, pickle.UnpicklingError) as error:
        if is_out_of_memory(error):
            raise
        problem = f"checkpoint does not match the run: {first_line(error)}"
        hint = "delete it to resume from an older checkpoint"
        raise UserError(problem, str(checkpoint), hint, code="run.checkpoint_unusable") from error
