"""The figures of a run, and tables of a ladder within 80 columns."""

from __future__ import annotations

from engine.config.quantities import ABSENT, count, decimal, duration, energy, integer, share_percent, size
from engine.config.text import amount, visible
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.run.result import TASK, TASKS, Result
from engine.runs.score_format import difference_with_bounds, loss, score, score_bounds, with_bounds
from tui.output.console import table

TASK_COLUMNS = 24
"""Columns of the name of a task or metric."""


def figures(result: Result) -> dict[str, str]:
    """Scores and costs of a run by label; a dash for what is not known.

    `training time` is that of the steps only, as in a ladder's table and in a plan.
    """
    metric, before, after = result.metric, result.before, result.after
    return {
        "metric": metric or ABSENT,
        "score before": score(before.score.mean if before else None, metric),
        "score after": score(after.score.mean if after else None, metric),
        "95% CI": score_bounds(after.score if after else None, metric) or ABSENT,
        "test loss": loss(after.loss.mean if after else None),
        "steps": integer(result.steps),
        "weights of step": integer(result.selected_step or result.steps),
        "training time": duration(result.training_seconds or None),
        "total time": duration(result.active_seconds),
        "tokens/s": decimal(result.tokens_per_second or None, 0),
        "computed tokens/s": decimal(result.computed_tokens_per_second or None, 0),
        "peak memory": size(result.peak.training),
        "trainable": f"{count(result.trainable)} ({share_percent(result.trainable / max(1, result.parameters))})",
        "artifact": size(result.artifact_bytes),
        "energy": energy(result.energy),
    }


def task_lines(result: Result) -> list[str]:
    """One line per task: `arc_easy: acc 61.3% [59.3, 63.2] → 58.9% [57.0, 60.9], 2,376 items`."""
    return [
        f"{TASK} {visible(name)}: {visible(task.metric)} "
        + " → ".join(with_bounds(score, task.is_share) for score in (task.before, task.after) if score)
        + f", {amount(max(score.rows for score in (task.before, task.after) if score), 'item')}"
        for name, task in result.tasks.items()
        if task.before or task.after
    ]


def show_tasks(ladder: Ladder) -> None:
    """Print one row per task and rung: score, and difference from the base model; nothing without tasks."""
    if not ladder.tasks:
        return
    rows = [
        [
            row.name,
            visible(task.name, TASK_COLUMNS),
            visible(task.metric, TASK_COLUMNS),
            with_bounds(row.score, task.is_share),
            difference_with_bounds(row.difference, task.is_share) if row.difference else "–",
            {"worse": "forgets", "better": "gains"}.get(row.finding or "", ""),
        ]
        for task in ladder.tasks
        for row in task.rows
    ]
    table(f"{TASKS} (95% CI)", ("rung", TASK, "metric", "score", "difference from base", ""), rows, right=(3, 4))
