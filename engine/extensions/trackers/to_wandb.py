"""Weights & Biases, offline by default: `wandb sync` sends the run later.

Its step counts rows and never decreases, also over several processes; curves are drawn by `train/global_step`, as with
transformers' Trainer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from engine.config.settings import nested
from engine.extensions.trackers.metric_rows import MetricRow, TrackedRun


class Wandb:
    """One run; each process continues the run with its name as id."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb  # reads the environment, which `open_run` has set

        self._run = wandb.init(
            project=run.project,
            id=run.name,
            name=run.name,
            group=run.group or None,
            config=nested(run.config),
            dir=str(run.folder),
            resume="allow",
            mode=None if run.online else "offline",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,  # it would measure this process
                x_disable_meta=True,
                symlink=False,
            ),
        )
        self._run.define_metric("*", step_metric="train/global_step")
        for path in run.folder.rglob("*"):
            if path.is_symlink():  # to a log of W&B: nothing writes to a run with links in its directory
                path.unlink()

    def log(self, rows: Sequence[MetricRow], first: int) -> None:
        for number, row in enumerate(rows, first):
            self._run.log({**row.values, "_timestamp": row.t}, step=number, commit=True)

    def finish(self, summary: dict[str, Any]) -> None:
        self._run.summary.update(summary)
        self._run.finish(exit_code=0 if summary.get("status", "finished") in ("finished", "stopped") else 1)


def open_run(run: TrackedRun) -> Wandb:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    return Wandb(run)
