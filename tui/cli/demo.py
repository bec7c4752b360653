"""`demo`: the whole ladder on the embedded model and data."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.config.preset import Flat
from engine.runs.ladder_plan import make_plan
from tui.cli import ladder

PRESET = "demo"
QUICK: Flat = {"train.epochs": 1.0, "evaluation.rows": 150}
"""One seed, half the training, half the test rows: enough to see the tool, too little to believe."""


def demo(runs: Path, seeds: int, quick: bool, fresh: bool, detach: bool, json: bool) -> int:
    """0 when the ladder finished."""
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
