"""TensorBoard event files in `tracking/` of the run, written by TensorBoard's own writer, which needs no torch.

`tensorboard --logdir` with the runs home shows every run. A later process writes another file in the same directory;
TensorBoard joins them to one curve.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from engine.extensions.trackers.metric_rows import MetricRow, TrackedRun


class TensorBoard:
    """One run as scalars by optimizer step, and its settings as hyperparameters."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._writer = EventFileWriter(str(run.folder))

    def log(self, rows: Sequence[MetricRow], first: int) -> None:
        if first == 0:
            settings = {
                key: value for key, value in self._run.config.items() if isinstance(value, bool | int | float | str)
            }
            hyperparameters = hparams_pb(settings, trial_id=self._run.name)
            self._writer.add_event(Event(wall_time=time.time(), summary=hyperparameters))
        for row in rows:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
            self._writer.add_event(Event(wall_time=row.t, step=row.step, summary=Summary(value=values)))
        self._writer.flush()

    def finish(self, summary: dict[str, Any]) -> None:
        self._writer.close()


def open_run(run: TrackedRun) -> TensorBoard:
    return TensorBoard(run)
