"""Write checkpoints, either while training waits or in a thread while it continues.

With a thread, weights and optimizer state are first copied to host memory, for which training waits; then a thread
writes, hashes and flushes the copy. One checkpoint is written at a time: the next one waits for it. The copy is made
by torch's stager for asynchronous checkpoints (`torch.distributed.checkpoint.staging`), whose memory is kept and reused
until training ends, because new memory takes longer to fill (`tests/bench/RESULTS.md`). The rest of
`torch.distributed.checkpoint` is not used: it has other file formats, no SHA-256, and no rename of a complete folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from engine.config.quantities import size
from engine.methods.machine import clear_cuda_error, is_out_of_memory
from engine.training import checkpoints
from engine.training.checkpoints import PendingCheckpoint, SavedCheckpoint, write_pickle, write_tensors
from engine.training.guards import first_line

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
        if self._disabled or not (self._stager or self._fits(contents)):
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

    def _fits(self, contents: Contents) -> bool:
        needed, available = _bytes(contents), self._available()
        if needed > available:
            free = size(max(0, available))
            self._disable(f"a copy of weights and optimizer state takes {size(needed)} of memory, and {free} is free")
        return needed <= available

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
        self,
        folder: Path,
        keep: int,
        saved: Callable[[SavedCheckpoint], None],
        copy: HostCopy | None,
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


def _bytes(content: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists."""
    if isinstance(content, torch.Tensor):
        return content.nbytes
    parts = content.values() if isinstance(content, Mapping) else content if isinstance(content, list | tuple) else ()
    return sum(map(_bytes, parts))
