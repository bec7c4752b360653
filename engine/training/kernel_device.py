"""Which device's kernels a step uses: that of its tensors, or the device that a dry run on fake tensors predicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_predicted: str | None = None


@contextmanager
def kernels_of(device: str) -> Iterator[None]:
    """Context in which fake tensors on the CPU take the path of this device."""
    global _predicted
    before, _predicted = _predicted, device
    try:
        yield
    finally:
        _predicted = before


def kernel_device(tensor: torch.Tensor) -> str:
    """Device type whose kernels compute with this tensor."""
    return _predicted or tensor.device.type
