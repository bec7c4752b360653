"""Checks when a run starts: settings that cannot be used with sharded weights."""

from __future__ import annotations

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.schema import Config


def refuse_whole_weights(config: Config) -> None:
    """Raise UserError for settings that need whole weights. Called for runs whose weights FSDP shards."""
    has_adapters = not method_spec(config.method).trains_weights
    for key, applies in (
        ("adapter.init", has_adapters and config.adapter.init == "pissa"),
        ("adapter.dora", has_adapters and config.adapter.dora),
        ("train.compile", config.train.compile),
    ):
        if applies:
            problem = f"{key} needs whole weights, and train.parallelism = fsdp divides them among the devices"
            hint = f'set train.parallelism = "ddp", or leave {key} out'
            raise UserError(problem, key, hint, code="train.not_sharded")
