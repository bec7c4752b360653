"""Probes: a few steps of each rung, which tell whether it fits in memory and how long its runs will take."""

from __future__ import annotations

from statistics import median

from engine.config.preset import with_settings
from engine.config.schema import Config
from engine.ladder.results import worked_seconds
from engine.runs.events import Step
from engine.runs.follow import stream
from engine.runs.ladder import RungDuration, SharedWork
from engine.runs.result import Result
from engine.runs.run_dir import RunDir
from engine.runs.rungs import Rung

PROBE_STEPS = 4
"""The first step warms up and is not timed."""


def probe_config(config: Config) -> Config:
    """A few steps and one batch of answers; an upper bound, because an untrained model generates longer answers."""
    rows = min(config.evaluation.batch, config.evaluation.rows or config.evaluation.batch)
    return with_settings(
        config,
        {
            "train.steps": PROBE_STEPS,
            "train.evaluate_every": PROBE_STEPS + 1,
            "train.checkpoint_every": PROBE_STEPS + 1,
            "train.probe": False,  # the worker's own memory probe would take half as long again
            "evaluation.when": "after",
            "evaluation.rows": rows,
            "evaluation.forgetting_text": "none",
            "evaluation.benchmarks": [],
            "track.to": [],
        },
    )


def duration(rung: Rung, probe: RunDir, result: Result, work: SharedWork) -> RungDuration:
    """The expected duration of a rung's runs, from its timing probe."""
    events = stream(probe.events_file, Step)
    steps = [event.seconds for event in events if isinstance(event, Step)][1:] or [result.step_seconds]
    scored_items = result.after.score.rows if result.after else 0
    scoring = result.seconds.get("evaluation", 0.0)
    overhead = max(0.0, worked_seconds(result) - scoring - result.step_seconds)
    return RungDuration(
        rung=rung.name,
        low=overhead + work.steps * min(steps),
        high=overhead + work.steps * max(steps) + scoring * max(1.0, work.test / max(1, scored_items)),
        step_seconds=median(steps),
        steps_measured=len(steps),
    )
