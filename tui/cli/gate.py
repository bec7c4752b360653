"""`gate`: exit with 0 only if the lower bound of a gain's 95% CI is at least a given value."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.config.text import visible
from engine.runs.ladder.ladder_dir import LadderDir, ladder_of_run
from engine.runs.ladder.ladder_state import Gain, gain_of_rung
from engine.runs.rpc_client import ask
from engine.runs.run import run_dir
from engine.runs.run.result import MIN_ITEMS
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import difference_with_bounds
from tui.output.console import print_json, say

BASE, START = "base", "start"


@dataclass(frozen=True)
class GateOptions:
    """The options of `ftbench gate`."""

    against: str
    rung: str | None
    metric: str | None
    least: float
    """In points of a share, else in the metric's unit."""
    json: bool


def gate(subject: RunDir | LadderDir, options: GateOptions) -> int:
    """Print the gain. Returns 0 if its lower bound is at least the required gain, else 1."""
    if not math.isfinite(options.least):
        raise UserError(f"invalid --min-gain {options.least}", hint="give a number", code="gate.invalid_gain")
    gain = _of_ladder(subject, options) if isinstance(subject, LadderDir) else _of_run(subject, options)
    least = options.least
    spec = metric_spec(gain.metric)
    passed = gain.clears(least / spec.scale)
    if options.json:
        print_json({"passed": passed, "min_gain": least / spec.scale, **msgspec.to_builtins(gain)})
        return 0 if passed else 1
    text = difference_with_bounds(gain.gain, gain.metric)
    wanted = f"{least:g} {'points' if spec.is_share else spec.unit}"
    bound = f"lower bound {'at least' if passed else 'below'} {wanted}"
    if gain.gain.low is None:
        bound = f"no interval: at least {MIN_ITEMS} test items are needed"
    say(f"{visible(gain.candidate)} against {visible(gain.reference)}, {spec.title}: gain {text}; {bound}")
    say("passed" if passed else "not passed", "green" if passed else "red")
    return 0 if passed else 1


def _of_run(run: RunDir, options: GateOptions) -> Gain:
    if options.rung is not None:
        raise UserError("--rung applies to ladders", run.name, "omit --rung", "gate.rung_of_run")
    other = None if options.against in (BASE, START) else run_dir.find(run.path.parent, options.against)
    against = str(other.path) if other else None
    question: dict[str, Any] = {"run": str(run.path), "against": against, "metric": options.metric}
    question["start"] = options.against == START
    try:
        return msgspec.convert(ask("gain", question), Gain)
    except UserError as error:
        if error.code != "gate.no_scores" or (ladder := ladder_of_run(run.path.parent, run.name)) is None:
            raise
        # The base is scored once per ladder, so that its runs have no scores of it.
        state = ladder.state()
        rung = next((entry.rung for entry in state.entries if entry.run == run.name), "RUNG") if state else "RUNG"
        hint = f"`{shlex.join(['ftbench', 'gate', ladder.name, '--rung', rung])}` compares its rung"
        raise UserError(error.problem, run.name, hint, "gate.run_of_ladder") from error


def _of_ladder(folder: LadderDir, options: GateOptions) -> Gain:
    state = folder.state()
    if state is None or state.status != "finished":
        status = folder.status_of(state) if state else "not started"
        hint = "wait until it finishes" if folder.is_active() else f"finish it with `ftbench resume {folder.argument}`"
        raise UserError(f"the ladder is not finished ({status})", folder.name, hint, "gate.not_finished")
    if options.metric is not None and state.work and options.metric != state.work.metric:
        hint = "omit --metric"
        raise UserError(f"the ladder was scored with {state.work.metric}", folder.name, hint, "gate.unknown_metric")
    return gain_of_rung(state, options.rung, options.against)
