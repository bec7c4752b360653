"""What may go wrong while training, as outcomes rather than tracebacks."""

from __future__ import annotations

import errno
import gc

import torch

from engine.config.files import no_room


class Diverged(Exception):
    """A loss or a gradient is not finite: nothing after this step can be trusted."""

    def __init__(self, step: int, what: str) -> None:
        self.step, self.what = step, what
        super().__init__(f"{what} is not finite at step {step}")


class OutOfMemory(Exception):
    """Not even one row fits."""


class DiskFull(Exception):
    """A file could not be written for want of space."""


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's out-of-memory, also where cuBLAS or cuDNN finds no room for itself; the CPU allocator's, and Python's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    signs = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign.lower() in text.lower() for sign in signs)


def first_line(error: BaseException) -> str:
    """What the error says, or its name where it says nothing (Python's own MemoryError)."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_disk_full(error: BaseException) -> bool:
    """ENOSPC or a quota, also where a library wraps it in an error of its own."""
    if no_room(error):
        return True
    text = str(error)
    # torch.save reports a short write as an unexpected position in its archive.
    rust = [f"os error {number}" for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]  # as safetensors says it
    signs = ("No space left", "Disk quota exceeded", *rust, "PytorchStreamWriter", "inline_container")
    return any(sign in text for sign in signs)


def free_memory() -> None:
    """Give torch's pool back to the card, so that a smaller attempt finds room; what only a cycle keeps goes first."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
