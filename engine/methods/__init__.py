"""Fine-tuning methods: one module per method that loads the model and makes its parameters trainable; optimizers."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from engine.config.method_specs import method_spec


def method(name: str) -> ModuleType:
    """The module of a method, which defines `load`, `make_trainable` and `weight_dtype`."""
    return import_module(method_spec(name).module)
