"""Refuses a run or a ladder whose checkpoints and model do not fit on the disk, before anything is created."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.config.model_files import find_model
from engine.config.schema import Config
from engine.memory.formula.formula import low_disk_notice, needed_space, small_disk_error
from engine.memory.formula.memory_budget import local_budget
from engine.runs.home import check_home
from tui.cli.errors import show_notices
from tui.preview.disk import free_disk


def check_disk(configs: Sequence[Config], runs: Path, json: bool) -> None:
    """Raise UserError where the runs home is not writable or smaller than the formula's estimate for `configs`.

    Warns if little would be left.

    A model that is not on this machine has no estimate and is not refused.
    """
    check_home(runs)
    budget = local_budget(device=configs[0].hardware.device)
    needs = [needed_space(one, find_model(one.model).table, budget.device, budget.bf16) for one in configs]
    known = [need for need in needs if need is not None]
    needed, free = sum(known) if len(known) == len(needs) else None, free_disk(runs)
    if error := small_disk_error(needed, free, runs):
        raise error
    if notice := low_disk_notice(needed, free, runs):
        show_notices([notice], json)
