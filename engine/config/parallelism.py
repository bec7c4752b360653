"""How several devices train one run (`train.parallelism`), as far as the configuration decides it."""

from __future__ import annotations

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.schema import Config

KEY = "train.parallelism"
FSDP = "fsdp"


def check_parallelism(config: Config) -> None:
    """Raise UserError for settings that contradict a configured FSDP."""
    if config.train.devices > 1 and config.train.parallelism == FSDP:
        refuse_whole_weights(config)


def refuse_whole_weights(config: Config) -> None:
    """Raise UserError for settings that need whole weights."""
    spec = method_spec(config.method)
    reasons = {
        "adapter.init": not spec.trains_weights and config.adapter.init == "pissa",
        "adapter.dora": not spec.trains_weights and config.adapter.dora,
        "train.compile": config.train.compile,
    }
    for key, applies in reasons.items():
        if applies:
            what = f"{key} needs whole weights, and {KEY} = fsdp divides them among the devices"
            raise UserError(what, key, f'set {KEY} = "ddp", or leave {key} out', code="train.not_sharded")
