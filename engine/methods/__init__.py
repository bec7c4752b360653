"""QLoRA, LoRA, full: how each loads a model, what it trains, and with which optimizer."""

from __future__ import annotations

from types import ModuleType

from engine.config.schema import Method


def method(name: Method) -> ModuleType:
    """The module of a method: `load(config, machine)` and `make_trainable(model, config)`."""
    from engine.methods import full, lora, qlora

    return {"qlora": qlora, "lora": lora, "full": full}[name]
