"""Training failures that become run outcomes instead of tracebacks."""

from __future__ import annotations

import errno
import gc

import torch

from engine.config.files import is_no_space_error
from engine.methods.machine import NVML_ASSERTION


class Diverged(Exception):
    """The loss or the gradient norm is not finite."""

    def __init__(self, step: int, what: str) -> None:
        self.step, self.what = step, what
        super().__init__(f"{what} is not finite at step {step}")


class OutOfMemory(Exception):
    """A single row does not fit in memory; of a sharded model, a micro-batch does not."""


class DiskFull(Exception):
    """A file could not be written because the disk is full."""


def first_line(error: BaseException) -> str:
    """First line of the error's message, or its type if the message is empty (Python's MemoryError)."""
    if NVML_ASSERTION in str(error):
        return "CUDA out of memory (NVML reports no details on this GPU)"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_disk_full(error: BaseException) -> bool:
    """Whether it is ENOSPC or an exceeded quota, also if a library wrapped it in another exception."""
    if is_no_space_error(error):
        return True
    text = str(error)
    # torch.save reports a short write as an unexpected position in its archive, or as an error of its C++ stream.
    rust = [f"os error {number}" for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]  # safetensors' wording
    signs = ("No space left", "Disk quota exceeded", *rust, "PytorchStreamWriter", "inline_container", "iostream error")
    return any(sign in text for sign in signs)


def free_memory() -> None:
    """Collect reference cycles and return torch's cached memory to the GPU, so that a smaller attempt can fit."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
