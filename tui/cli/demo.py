"""`demo`: the ladder of all methods on the embedded model and data."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.config.errors import UserError
from engine.config.preset import Flat
from engine.runs.ladder_plan import make_plan
from tui.cli import ladder

PRESET = "demo"
SEEDS = 3
QUICK: Flat = {"train.epochs": 1.0, "evaluation.rows": 150}
"""One seed, half the training steps, half the test rows: enough to try ftbench, too little for conclusions."""


def demo(runs: Path, seeds: int | None, quick: bool, fresh: bool, detach: bool, json: bool, executor: Flat) -> int:
    """Run the demo ladder; `executor` has the preset keys of its Slurm jobs.

    Returns 0 when it finished or was stopped. Raises UserError for --quick with --seeds.
    """
    if quick and seeds is not None:
        do = "keep one of them: --quick runs one seed"
        raise UserError("--quick and --seeds given together", do=do, code="cli.conflicting_values")
    seeds = 1 if quick else seeds or SEEDS
    plan = make_plan(
        PRESET,
        [],
        {**QUICK, **executor} if quick else executor,
        seeds=seeds,
        probe=not quick,
        fresh=fresh,
        command=shlex.join(["ftbench", "demo", *(["--quick"] if quick else ["--seeds", str(seeds)])]),
    )
    return ladder.start(plan, runs, detach, json)
