"""trackio: the project's SQLite database in its own folder ($TRACKIO_DIR), which `trackio show` displays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from engine.config.settings import nested
from engine.extensions.trackers.metric_rows import MetricRow, TrackedRun

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_WEBHOOK_URL")
"""Variables that make trackio send what it logs."""


class Trackio:
    """One run; it is resumed by its name."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio  # reads the environment, which `open_run` has set

        self._run = trackio.init(
            project=run.project,
            name=run.name,
            group=run.group or None,
            config=nested(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,  # the events have the samples of the worker; here it would sample this process
            auto_log_cpu=False,
        )

    def log(self, rows: Sequence[MetricRow], first: int) -> None:
        for row in rows:
            self._run.log(row.values, step=row.step)

    def finish(self, summary: dict[str, Any]) -> None:
        self._run.finish()


def open_run(run: TrackedRun) -> Trackio:
    if not run.online:
        os.environ["HF_HUB_OFFLINE"] = "1"
        for name in REMOTE:
            os.environ.pop(name, None)
    return Trackio(run)
