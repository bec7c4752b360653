"""The answer to "will it fit?" for several configurations: both estimates of each, as JSON-able values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from transformers import AutoConfig

from engine.contract import schema
from engine.contract.errors import UserError
from engine.methods.loading import config_of
from engine.methods.locate import Located, refused
from engine.methods.machine import Machine, this_machine
from engine.planning.dry_run import dry_run
from engine.planning.estimate import Device, Rows
from engine.planning.formula import formula

Progress = Callable[[str], None]


def plan(
    configs: Sequence[schema.Config], device: Device | None, rows: Rows | None, progress: Progress
) -> dict[str, Any]:
    """Per configuration its method, `formula` and `dry_run` (both `Estimate`s), and `dry_run_error` in place of the
    latter where a method cannot be run. `device` None is this machine; `rows` None the longest the preset allows,
    every token of them trained.

    Raises UserError where the model's configuration cannot be read or is not a decoder's.
    """
    machine = this_machine()
    if device and device != machine.device:
        machine = Machine(device, "a card" if device == "cuda" else "a CPU", bf16=True, flash_attention=False)
    return {
        "device": machine.device,
        "plans": [_planned(config, machine, rows or longest(config), progress) for config in configs],
    }


def longest(config: schema.Config) -> Rows:
    """A step of the longest rows that a preset lets through, all of them answer."""
    length = config.train.max_length
    return Rows(count=config.train.batch, length=length, answer=length - 1)


def _planned(config: schema.Config, machine: Machine, rows: Rows, progress: Progress) -> dict[str, Any]:
    architecture = architecture_of(config.model)
    light = formula(config, architecture.to_dict(), machine.device, rows, machine.bf16)
    progress(f"dry run of {config.method}")
    answer: dict[str, Any] = {"method": config.method, "formula": msgspec.to_builtins(light), "dry_run": None}
    try:
        answer["dry_run"] = msgspec.to_builtins(dry_run(config, architecture, machine, rows))
    except UserError as error:
        answer["dry_run_error"] = {"what": error.what, "where": error.where, "do": error.do}
    return answer


def architecture_of(model: schema.Model) -> Any:
    """transformers' configuration of a model: a folder needs its config.json alone, neither weights nor tokenizer.

    Raises UserError for an architecture that transformers does not know or that wants code of its own.
    """
    folder = Path(model.id)
    if not (folder / "config.json").is_file():
        return config_of(model)
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise refused(Located(str(folder), True), "configuration", error) from error
