"""Evaluate without gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

from engine.training import sharding

F = TypeVar("F", bound=Callable[..., Any])


def without_gradients(function: F) -> F:
    """A function that runs in torch's inference mode; with a sharded model only without gradients: the weights that its
    layers get in inference mode could not be used in training.
    """

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        with torch.no_grad() if sharding.in_use() else torch.inference_mode():
            return function(*arguments, **options)

    return run  # type: ignore[return-value]
