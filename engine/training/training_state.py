"""What training changes, and how it is saved to checkpoints, loaded, and selected.

Those of sharded full fine-tuning are written by `torch.distributed.checkpoint`: every rank writes its part of a tensor.
They load at any number of ranks, also at one, whose weights are whole; and sharded training loads the checkpoint of a
model that was whole. Adapters are whole on every rank, and their checkpoints are those of one rank.

One rank writes checkpoints while training waits, or in a thread while it continues. With a thread, weights and
optimizer state are first copied to host memory, for which training waits; then the thread writes, hashes and flushes
the copy. One checkpoint is written at a time: the next one waits for it. The copy is made by torch's stager for
asynchronous checkpoints (`torch.distributed.checkpoint.staging`), whose memory is kept and reused until training ends,
because new memory takes longer to fill (`tools/RESULTS.md`). The rest of `torch.distributed.checkpoint` is not
used there: it has other file formats, no SHA-256, and no rename of a complete folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.utils import SAFE_WEIGHTS_NAME

from engine.config.errors import UserError
from engine.config.files import read_regular
from engine.config.quantities import size
from engine.methods.adapters import copy_adapter
from engine.methods.machine import clear_cuda_error, is_out_of_memory
from engine.methods.optimizers import copy_mapped_state
from engine.training import checkpoints
from engine.training.checkpoints import (
    LAST_WEIGHTS,
    OPTIMIZER_FILE,
    PROGRESS_FILE,
    RANDOM_FILE,
    SCHEDULE_FILE,
    SHARDED,
    PendingCheckpoint,
    SavedCheckpoint,
    WeightSelection,
    load_safetensors,
    losses_of_checkpoint,
    stored_tensors,
    write_configuration,
    write_pickle,
    write_tensors,
)
from engine.training.guards import first_line
from engine.training.ranks import SINGLE_RANK, LocalShards, Ranks, is_sharded, reshard, trains_parts

WEIGHTS, OPTIMIZER = "weights.", "optimizer."
"""Prefixes of the names of tensors in a sharded checkpoint."""
PINNING = ("cudaHost", "pin_memory", "pinned", "Registering memory failed")
"""Words of CUDA's and torch's errors for host memory that cannot be pinned."""
Contents = Mapping[str, Any]
"""Large files by name: tensors by name for `*.safetensors`, else what `torch.save` writes."""


class HostCopy:
    """Copies of tensors in host memory, which is kept and reused until `close`."""

    def __init__(self, available: Callable[[], int], warn: Callable[[str, str], None]) -> None:
        """`available`: bytes of host memory that a copy may take; `warn`: called with code and text of a warning."""
        self._available, self._warn = available, warn
        self._stager: DefaultStager | None = None
        self._disabled = False

    def of(self, contents: Contents) -> Contents | None:
        """A copy; None if there is too little memory for one: this warns once, and every later call returns None."""
        if self._disabled:
            return None
        if self._stager is None and (needed := _bytes(contents)) > (available := self._available()):
            free = size(max(0, available))
            self._disable(f"a copy of weights and optimizer state takes {size(needed)} of memory, and {free} is free")
            return None
        cuda = torch.cuda.is_available()
        self._stager = self._stager or DefaultStager(
            StagingOptions(
                use_pinned_memory=cuda, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=cuda
            )
        )
        try:
            copied: Contents = self._stager.stage(dict(contents))
        except (RuntimeError, MemoryError) as error:
            if not (is_out_of_memory(error) or any(word in str(error) for word in PINNING)):
                raise
            self.close()
            clear_cuda_error()
            self._disable(first_line(error))
            return None
        return copied

    def _disable(self, why: str) -> None:
        self._disabled = True
        self._warn("checkpoint.synchronous", f"training waits while checkpoints are written: {why}")

    def close(self) -> None:
        if self._stager is not None:
            self._stager.close()
        self._stager = None


class CheckpointWriter:
    """Writes the checkpoints of one training; a context that waits for the last one."""

    def __init__(
        self, folder: Path, keep: int, saved: Callable[[SavedCheckpoint], None], copy: HostCopy | None
    ) -> None:
        """`keep`: number of checkpoints to keep; `saved`: called in the thread of the training for each complete
        checkpoint; `copy`: None to write while training waits.
        """
        self.folder, self._keep, self._saved, self._copy = folder, keep, saved, copy
        self.best: Callable[[int], int | None] = lambda step: None
        """As in `checkpoints.rotate`; called from any thread."""
        self._pool: ThreadPoolExecutor | None = None
        self._writing: Future[SavedCheckpoint] | None = None
        self._blocked = 0.0

    def save(
        self, step: int, write_small: Callable[[Path], None], contents: Callable[[], Contents], continues: bool
    ) -> None:
        """Save a checkpoint atomically; raises DiskFull, also for an earlier one that was still being written.

        `write_small` writes the small files to a folder; `contents` returns the large ones; `continues`: whether
        training continues, or has to wait for this checkpoint.
        """
        started = time.monotonic()
        self.finish()
        with contextlib.ExitStack() as stack:
            pending = stack.enter_context(checkpoints.writing(self.folder, step))
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # paged optimizer state is read by the CPU, which does not wait for the GPU
            write_small(pending.folder)
            large = contents()
            copied = self._copy.of(large) if self._copy and continues else None
            self._pool = self._pool or ThreadPoolExecutor(1, "checkpoint")
            cleanup = stack.pop_all()
            stack.push(cleanup)  # until the thread has it: no thread may be available
            self._writing = self._pool.submit(self._write, cleanup, pending, copied or large)
            stack.pop_all()
        self._blocked = time.monotonic() - started
        if copied is None:
            self.finish(started)

    def save_together(self, step: int, write: Callable[[Path], None]) -> None:
        """Save a checkpoint atomically that other ranks write too, while training waits. Raises DiskFull."""
        started = time.monotonic()
        with checkpoints.writing(self.folder, step) as pending:
            write(pending.folder)
        checkpoints.rotate(self.folder, self._keep, step, self.best)
        self._saved(dataclasses.replace(pending.done, blocked=time.monotonic() - started))

    def _write(self, stack: contextlib.ExitStack, pending: PendingCheckpoint, large: Contents) -> SavedCheckpoint:
        with stack:
            for name, content in large.items():
                write = write_tensors if name.endswith(".safetensors") else write_pickle
                pending.hashed[name] = write(pending.folder / name, content)
        checkpoints.rotate(self.folder, self._keep, pending.done.step, self.best)
        return pending.done

    def report(self) -> None:
        """Report the checkpoint that was being written if it is complete now. Raises DiskFull as `save` does."""
        if self._writing and self._writing.done():
            self.finish()

    def finish(self, started: float | None = None) -> None:
        """Wait for the checkpoint that is being written, and report it. Raises DiskFull as `save` does.

        `started`: time at which the checkpoint was started, if training waits for all of it.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        saved = writing.result()
        blocked = self._blocked if started is None else time.monotonic() - started
        self._saved(dataclasses.replace(saved, blocked=blocked))

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: object) -> None:
        try:
            self.finish()
        except Exception as own:
            if error is None:
                raise
            error.add_note(f"the checkpoint that was being written then failed too: {own}")
        finally:
            if self._pool:
                self._pool.shutdown()
            self._pool = None
            if self._copy:
                self._copy.close()


class TrainingState:
    """What training changes: weights, optimizer state, learning rate, random state, validation losses; all of it is in
    a checkpoint, which is saved atomically, also from a thread or from several ranks.
    """

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        writer: CheckpointWriter,
        ranks: Ranks = SINGLE_RANK,
        shards: LocalShards | None = None,
        selection: WeightSelection = LAST_WEIGHTS,
    ) -> None:
        """`schedule`: torch's scheduler of the learning rate; `shards`: the optimizer's parameters, if they are not the
        model's.
        """
        self.model, self.optimizer, self.schedule, self.writer = model, optimizer, schedule, writer
        self.ranks, self.selection, self.shards = ranks, selection, shards or LocalShards(model)
        self.step = 0
        """Steps done so far."""
        self.losses: list[tuple[int, float]] = []
        """(step, validation loss) so far."""
        self.has_adapters = hasattr(model, "peft_config")
        self.is_sharded, self.trains_parts = is_sharded(model), trains_parts(model)
        writer.best = lambda step: selection.best_step(self.losses, step)

    def load_best(self) -> int | None:
        """Load the weights of the selected step, on all ranks, and return it; None if the last weights are kept."""
        step = self.selection.best_step(self.losses)
        if step is not None and step != self.losses[-1][0]:
            self.ranks.barrier()  # rank 0 has written it
            self.load_weights(self.writer.folder / f"{checkpoints.PREFIX}{step}")
        return step

    def save(self, continues: bool) -> None:
        """Save a checkpoint of this step (see `checkpoints`), in a thread if training continues."""
        if self.is_sharded:
            reshard(self.model)  # on all ranks: the state dict that rank 0 saves reshards its own
        if self.trains_parts and self.ranks.is_first:
            self.writer.save_together(self.step, self._write_parts)
        elif self.trains_parts:
            self._write_parts(self.writer.folder / f"{checkpoints.WRITING}{self.step}")
        elif self.ranks.is_first:  # all ranks have the same weights and optimizer state
            self.writer.save(self.step, self._write_small_files, self._large_files, continues)

    def _write_small_files(self, folder: Path) -> None:
        """Everything but the weights of a full model and the optimizer's state."""
        if self.has_adapters:
            self.model.save_pretrained(folder)
        else:
            write_configuration(self.model, folder)
        torch.save(self.schedule.state_dict(), folder / SCHEDULE_FILE)
        random_states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random_states["cuda"] = torch.cuda.get_rng_state()
        torch.save(random_states, folder / RANDOM_FILE)
        history = [{"eval_loss": loss, "step": step} for step, loss in self.losses]
        (folder / PROGRESS_FILE).write_text(json.dumps({"global_step": self.step, "log_history": history}))

    def _large_files(self) -> Contents:
        weights = {} if self.has_adapters else {SAFE_WEIGHTS_NAME: stored_tensors(self.model)}
        return {**weights, OPTIMIZER_FILE: self.optimizer.state_dict()}

    def _write_parts(self, folder: Path) -> None:
        """Write a checkpoint to which every rank adds its part of weights and optimizer state; all ranks call it."""
        if self.ranks.is_first:
            self._write_small_files(folder)
        self.ranks.barrier()  # the folder exists
        state, control = _weights(self.model), self.ranks.control
        for name, parameter, local in self.shards.named(self.model):
            for key, value in self.optimizer.state[local].items():
                part = torch.as_tensor(value)
                if isinstance(parameter, DTensor) and part.shape == parameter.to_local().shape:  # not a step count
                    part = DTensor.from_local(
                        part,
                        parameter.device_mesh,
                        parameter.placements,
                        run_check=False,
                        shape=parameter.shape,
                        stride=parameter.stride(),
                    )
                state[f"{OPTIMIZER}{name}.{key}"] = part
        with _plain_errors():
            dcp.save(state, checkpoint_id=folder / SHARDED, process_group=control, no_dist=control is None)

    def load_weights(self, checkpoint: Path) -> None:
        """Load the weights of a checkpoint. Raises UserError if it belongs to another model."""
        weights = checkpoint / SAFE_WEIGHTS_NAME
        with _fitting(checkpoint):
            if (checkpoint / SHARDED).is_dir():
                self._load_parts(_weights(self.model), checkpoint)
            elif self.trains_parts:  # the checkpoint has whole weights: each rank reads all, and keeps its part
                with safe_open(weights, "pt") as file:
                    names = set(file.keys())
                    for name, tensor in stored_tensors(self.model).items():
                        if name in names:
                            _local(tensor).copy_(_local(_sliced(tensor, file.get_tensor(name))))
            elif self.has_adapters:
                copy_adapter(self.model, checkpoint)
            else:
                load_safetensors(self.model, weights)

    def load_progress(self, checkpoint: Path) -> None:
        """Load all but the weights. Raises UserError if the checkpoint does not match the optimizer."""
        optimizer = self.optimizer
        with _fitting(checkpoint):
            if (checkpoint / SHARDED).is_dir():
                self._load_sharded_optimizer(checkpoint)
            elif self.trains_parts:
                self._load_whole_optimizer(checkpoint)
            else:
                # Mapped into memory: bitsandbytes copies all state; a second copy would be in memory meanwhile.
                optimizer.load_state_dict(_loaded(checkpoint / OPTIMIZER_FILE, mmap=True))
                copy_mapped_state(optimizer)
            self.schedule.load_state_dict(_loaded(checkpoint / SCHEDULE_FILE))
            for group, rate in zip(optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
                group["lr"] = rate  # otherwise loaded with the optimizer's groups
            random_states = _loaded(checkpoint / RANDOM_FILE)
            torch.set_rng_state(random_states["cpu"])
            if torch.cuda.is_available() and "cuda" in random_states:
                torch.cuda.set_rng_state(random_states["cuda"])
        self.step = json.loads(read_regular(checkpoint / PROGRESS_FILE))["global_step"]
        self.losses = list(losses_of_checkpoint(checkpoint))

    def _load_sharded_optimizer(self, checkpoint: Path) -> None:
        """Load the optimizer state of a sharded checkpoint, into parameters that are whole without sharding."""
        optimizer = self.optimizer
        stored = dcp.FileSystemReader(checkpoint / SHARDED).read_metadata().state_dict_metadata
        state: dict[str, torch.Tensor] = {}
        for name, parameter, _ in self.shards.named(self.model):
            for key, facts in stored.items():
                if key.startswith(f"{OPTIMIZER}{name}.") and isinstance(facts, TensorStorageMetadata):
                    whole = torch.empty(facts.size, dtype=facts.properties.dtype, device=parameter.device)
                    state[key] = _sliced(parameter, whole)
        self._load_parts(dict(state), checkpoint)
        for name, _, local in self.shards.named(self.model):
            prefix = f"{OPTIMIZER}{name}."
            optimizer.state[local] = {
                key.removeprefix(prefix): _local(value) for key, value in state.items() if key.startswith(prefix)
            }
        if hasattr(optimizer, "is_paged"):  # bitsandbytes counts steps in Python numbers, torch in tensors
            for values in optimizer.state.values():
                if isinstance(values.get("step"), torch.Tensor):
                    values["step"] = int(values["step"])

    def _load_whole_optimizer(self, checkpoint: Path) -> None:
        """Load the optimizer state of a model that was not sharded; each rank keeps its part.

        Raises UserError for 8-bit state, which cannot be sharded.
        """
        optimizer = self.optimizer
        state = torch.load(checkpoint / OPTIMIZER_FILE, map_location="cpu", mmap=True, weights_only=True)["state"]
        ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        originals = {id(local): parameter for parameter, local in self.shards.pairs}
        for place, local in enumerate(ordered):
            original = originals[id(local)]
            optimizer.state[local] = {}
            for key, value in state.get(place, {}).items():
                whole = isinstance(value, torch.Tensor) and value.shape == original.shape
                if isinstance(value, torch.Tensor) and value.ndim and not whole:
                    problem, hint = "8-bit optimizer state cannot be sharded across devices", "resume on one device"
                    raise UserError(problem, str(checkpoint), hint, code="run.checkpoint_unusable")
                optimizer.state[local][key] = _local(_sliced(original, value)).clone() if whole else value

    def _load_parts(self, state: dict[str, Any], checkpoint: Path) -> None:
        """Load a sharded checkpoint into the tensors of `state`, by their names.

        Raises ValueError, RuntimeError or KeyError if the checkpoint belongs to another model.
        """
        control = self.ranks.control if self.trains_parts else None  # None: every rank loads all of it
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


@contextlib.contextmanager
def _fitting(checkpoint: Path | str | None) -> Iterator[None]:
    """Raise UserError if a complete checkpoint cannot be loaded: it belongs to another model or configuration."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError, IndexError, pickle.UnpicklingError) as error:
        if is_out_of_memory(error):
            raise
        problem = f"checkpoint does not match the run: {first_line(error)}"
        hint = "delete it to resume from an older checkpoint"
        raise UserError(problem, str(checkpoint), hint, code="run.checkpoint_unusable") from error


def _loaded(path: Path, mmap: bool = False) -> Any:
    """What `torch.save` wrote, in host memory, without executing code."""
    return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"{WEIGHTS}{name}": tensor for name, tensor in stored_tensors(model).items()}


def _sliced(parameter: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """A whole tensor, equal on all ranks, with the placement of a parameter; a step count is returned unchanged."""
    if not isinstance(parameter, DTensor) or whole.shape != parameter.shape:
        return whole
    moved = whole.to(parameter.device)
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _bytes(content: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists."""
    if isinstance(content, torch.Tensor):
        return content.nbytes
    parts = content.values() if isinstance(content, Mapping) else content if isinstance(content, list | tuple) else ()
    return sum(map(_bytes, parts))
