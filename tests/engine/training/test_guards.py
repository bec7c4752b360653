"""Errors that stand for a full disk or for too little memory, raised by any library."""

from __future__ import annotations

import errno

import pytest

from engine.methods.machine import is_out_of_memory
from engine.training.guards import is_disk_full


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("basic_ios::clear: iostream error"),  # torch.save's C++ stream
        RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_a_full_disk_is_recognized(error: Exception) -> None:
    assert is_disk_full(error) and not is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), OSError(errno.ENOENT, "No such file or directory")])
def test_other_errors_are_not_a_full_disk(error: Exception) -> None:
    assert not is_disk_full(error)
