"""`demo`: the ladder of all methods on the embedded model and data."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.config.preset import Flat
from engine.runs.ladder_plan import make_plan
from tui.cli import ladder

PRESET = "demo"
QUICK: Flat = {"train.epochs": 1.0, "evaluation.rows": 150}
"""One seed, half the training steps, half the test rows: enough to try ftbench, too little for conclusions."""


def demo(runs: Path, seeds: int, quick: bool, fresh: bool, detach: bool, json: bool) -> int:
    """Run the demo ladder. Returns 0 when it finished or was stopped."""
    plan = make_plan(
        PRESET,
        [],
        QUICK if quick else {},
        seeds=1 if quick else seeds,
        probe=not quick,
        fresh=fresh,
        command=shlex.join(["ftbench", "demo", *(["--quick"] if quick else ["--seeds", str(seeds)])]),
    )
    return ladder.start(plan, runs, detach, json)
