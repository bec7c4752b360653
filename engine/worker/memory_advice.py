"""What to change in a configuration that needs too much memory."""

from __future__ import annotations

import json

from engine.config.activation_checkpointing import EVERY_LAYER, OFFLOADED, resolve_checkpointing
from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.memory.formula.estimate import Device


def memory_advice(config: Config, device: Device) -> str:
    """Settings to change for lower memory use, given the current configuration."""
    ideas = []
    strongest = EVERY_LAYER if device == "cpu" else OFFLOADED
    if resolve_checkpointing(config.train.gradient_checkpointing, device) != strongest:
        value = json.dumps(strongest.setting)
        ideas.append(f"train.gradient_checkpointing = {value}")
    ideas.append(f"a train.max_length below {config.train.max_length}")
    ideas.append(method_spec(config.method).needs_less or "a smaller model")
    return "try " + ", or ".join(ideas)
