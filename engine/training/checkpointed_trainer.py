"""The part of the Trainer that saves and loads checkpoints."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils.serialization import config as serialization
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from engine.config.errors import UserError
from engine.methods.optimizers import copy_mapped_state
from engine.training import checkpoints, sharded_checkpoints
from engine.training.checkpoint_files import load_safetensors, stored_tensors, write_configuration
from engine.training.checkpoint_writer import CheckpointWriter
from engine.training.guards import first_line, is_out_of_memory
from engine.training.ranks import Ranks
from engine.training.sharding import LocalShards, is_sharded, reshard


class CheckpointedTrainer(Trainer):
    """Saves checkpoints atomically, also from a thread or from several ranks, and loads them."""

    def __init__(self, *, writer: CheckpointWriter, ranks: Ranks, shards: LocalShards | None, **rest: Any) -> None:
        """`shards`: the optimizer's parameters, if they are not the model's."""
        super().__init__(**rest)
        self.writer, self.ranks = writer, ranks
        self.shards = shards or LocalShards(self.model)
        self.is_sharded = is_sharded(self.model)
        self.trains_parts = any(isinstance(one, DTensor) and one.requires_grad for one in self.model.parameters())
        """Whether the trained weights are sharded across the ranks; adapters are not."""

    def train(self, *args: Any, **rest: Any) -> Any:
        """Train; returns when the last checkpoint is complete. Raises what `training_step` does, and DiskFull."""
        with self.writer:
            return super().train(*args, **rest)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        weights = checkpoint / SAFE_WEIGHTS_NAME
        with _fitting(resume_from_checkpoint):
            if sharded_checkpoints.is_sharded_checkpoint(checkpoint):
                sharded_checkpoints.load_sharded_weights(checkpoint, self.model, self._loading_group)
            elif self.trains_parts:
                sharded_checkpoints.load_whole_weights(checkpoint, self.model)
            elif weights.is_file() and not _has_adapters(self.model):
                load_safetensors(self.model, weights)
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (
            self.trains_parts or sharded_checkpoints.is_sharded_checkpoint(Path(checkpoint))
        ):
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
            if sharded_checkpoints.is_sharded_checkpoint(checkpoint):
                sharded_checkpoints.load_optimizer(checkpoint, self.model, optimizer, self.shards, self._loading_group)
            else:
                sharded_checkpoints.load_whole_optimizer(checkpoint, optimizer, self.shards)
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
            sharded_checkpoints.save(folder, self.model, optimizer, self.shards, self.ranks.control)

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
        what = f"checkpoint does not match the run: {first_line(error)}"
        do = "delete it to resume from an older checkpoint"
        raise UserError(what, str(checkpoint), do, code="run.checkpoint_unusable") from error
