"""The directories of a sweep that has not started, and sweeps with results."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import Any

from made_ladder import made_ladder
from simulated import timed, with_times

from engine.extensions.sweeps.sweep import Axis, Sweep, SweepCell
from engine.extensions.sweeps.sweep_dir import SweepDir, create_sweep
from engine.extensions.sweeps.sweep_report import summarize_sweep
from engine.ladder.decisions import RULE_GAIN_SHARE, Decisions
from engine.ladder.recommendation import summarize_ladder
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.rung_results import SeedRange
from engine.runs.run.result import Z_95, Interval


def made_sweep(runs: Path) -> SweepDir:
    """A sweep of two ladders; a third ladder, finished with its runs, is in the same folder."""
    folder, _ = made_ladder(runs, seeds=[0])
    values = [4, 8]
    cells = [({"adapter.rank": value}, folder.plan()) for value in values]
    return create_sweep(runs, [Axis(key="adapter.rank", values=values)], cells)


RANKS = Axis(key="adapter.rank", values=[4, 8, 16, 32])


def ladder_with(share: float, qlora: float, half: float = 0.03, name: str = "") -> Ladder:
    """A ladder in which QLoRA keeps this share of the gain at this cost in percent of full's."""
    ladder = with_times(timed(), qlora=qlora, lora=40.0, full=100.0)
    for row in ladder.rows:
        if row.name == "qlora":
            row.share_of_gain = Interval(mean=share, low=share - half, high=share + half, rows=300)
            row.rule_p = 2 * NormalDist().cdf(-abs(share - RULE_GAIN_SHARE) * Z_95 / half)
        if row.training_seconds:
            mean = row.training_seconds.mean
            values = [mean * noise for noise in (0.98, 1.0, 1.02)]
            row.training_seconds = SeedRange(mean=mean, low=values[0], high=values[2], values=values)
    ladder.name = name
    ladder.summary = summarize_ladder(ladder, Decisions(ladder))
    return ladder


def sweep_of(ladders: list[Ladder | None], axes: list[Axis] | None = None, **cells: str) -> Sweep:
    axes = axes or [RANKS]
    values: list[dict[str, Any]] = [{axes[0].key: value} for value in axes[0].values]
    if len(axes) > 1:
        values = [{**cell_values, axes[1].key: value} for cell_values in values for value in axes[1].values]
    sweep = Sweep(name="s", preset="demo", command="ftbench ladder demo --vary x=1,2", created=0.0, axes=axes)
    statuses = [cells.get(f"cell_{number}", "finished") for number in range(len(values))]
    sweep.cells = [
        SweepCell(values=cell_values, ladder=f"ladder-{number}", status=status)
        for number, (cell_values, status) in enumerate(zip(values, statuses, strict=True))
    ]
    summarize_sweep(sweep, ladders)
    return sweep
