"""`demo`: the ladder of all methods on the embedded model and data."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.config.settings import Flat
from engine.hardware.cpu import usable_cpus
from engine.hardware.devices import CPU, select_device
from engine.runs.ladder.ladder_plan import make_plan
from tui.cli import ladder
from tui.cli.options import OPTION_KEYS

PRESET = "demo"
SEEDS = 3
MAX_SLOTS = 4
"""Runs at a time on a CPU with more cores: the embedded model gains little from a second thread."""
QUICK: Flat = {"train.epochs": 1.0, "evaluation.rows": 150}
"""One seed, half the training steps, half the test rows: enough to try ftbench, too little for conclusions."""


def demo(runs: Path, seeds: int | None, quick: bool, fresh: bool, detach: bool, json: bool, where: Flat) -> int:
    """Run the demo ladder; `where` has the preset keys of its device and its Slurm jobs.

    Returns 0 when it finished or was stopped. Raises UserError for --quick with --seeds.
    """
    if quick and seeds is not None:
        hint = "keep one of them: --quick runs one seed"
        raise UserError("--quick and --seeds given together", hint=hint, code="cli.conflicting_values")
    seeds = 1 if quick else seeds or SEEDS
    given = where
    if resolve_preset(PRESET, None, {}).config.hardware.device == "auto":
        where = suited_devices(where)
    options = [word for option, key in OPTION_KEYS.items() if key in given for word in (option, str(given[key]))]
    plan = make_plan(
        PRESET,
        [],
        {**QUICK, **where} if quick else where,
        seeds=seeds,
        probe=not quick,
        fresh=fresh,
        command=shlex.join(["ftbench", "demo", *(["--quick"] if quick else ["--seeds", str(seeds)]), *options]),
    )
    return ladder.start(plan, runs, detach, json)


def suited_devices(where: Flat) -> Flat:
    """`where` with slots of the CPU, unless it names a device or a job, or the machine has a GPU or a single core."""
    cpus = len(usable_cpus())
    if "hardware.device" in where or where.get("executor.name", "local") != "local" or cpus == 1:
        return where
    if select_device().lock != CPU:
        return where
    return {**where, "hardware.device": f"{CPU}:{min(cpus, MAX_SLOTS)}"}
