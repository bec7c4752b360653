"""`gate`: exit with 0 only if the lower bound of a gain's 95% CI is at least a given value."""

from __future__ import annotations

import math
import shlex
from typing import Annotated

import msgspec
import typer

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.config.text import visible
from engine.runs.ladder.ladder_dir import LadderDir, ladder_of_run
from engine.runs.ladder.ladder_state import Gain, gain_of_rung
from engine.runs.rpc_client import ask
from engine.runs.run.result import MIN_ITEMS
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import difference_with_bounds
from tui.cli import options
from tui.cli.lookup import RUN_OR_LADDER, find_named
from tui.output.console import print_json, say

BASE, START = "base", "start"


def gate(
    name: options.Run = "last",
    against: Annotated[
        str, typer.Option("--against", metavar="NAME", help="base, start (of --from), another run, or another rung.")
    ] = "base",
    min_gain: Annotated[
        float, typer.Option("--min-gain", help="Required lower bound of the gain, in points or the metric's unit.")
    ] = 0.0,
    rung: Annotated[str | None, typer.Option("--rung", metavar="RUNG", help="Rung of the ladder.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Metric (default: the run's).")] = None,
    runs: options.Runs = None,
    json: options.Json = False,
) -> int:
    """Print the gain. Returns 0 if its lower bound is at least the required gain, else 1."""
    subject = find_named(runs, name, RUN_OR_LADDER)
    if not math.isfinite(min_gain):
        raise UserError(f"invalid --min-gain {min_gain}", hint="give a number", code="gate.invalid_gain")
    if isinstance(subject, LadderDir):
        gain = _of_ladder(subject, against, rung, metric)
    else:
        gain = _of_run(subject, against, rung, metric)
    spec = metric_spec(gain.metric)
    passed = gain.clears(min_gain / spec.scale)
    if json:
        print_json({"passed": passed, "min_gain": min_gain / spec.scale, **msgspec.to_builtins(gain)})
        return int(not passed)
    text = difference_with_bounds(gain.gain, spec.is_share)
    wanted = f"{min_gain:g} {'points' if spec.is_share else spec.unit}"
    bound = f"lower bound {'at least' if passed else 'below'} {wanted}"
    if gain.gain.low is None:
        bound = f"no interval: at least {MIN_ITEMS} test items are needed"
    say(f"{visible(gain.candidate)} against {visible(gain.reference)}, {spec.title}: gain {text}; {bound}")
    say("passed" if passed else "not passed", "green" if passed else "red")
    return int(not passed)


def _of_run(run: RunDir, against: str, rung: str | None, metric: str | None) -> Gain:
    if rung is not None:
        raise UserError("--rung applies to ladders", run.name, "omit --rung", "gate.rung_of_run")
    other = None if against in (BASE, START) else str(RunDir.find(run.path.parent, against).path)
    question = {"run": str(run.path), "against": other, "metric": metric, "start": against == START}
    try:
        return msgspec.convert(ask("gain", question), Gain)
    except UserError as error:
        if error.code != "gate.no_scores" or (ladder := ladder_of_run(run.path.parent, run.name)) is None:
            raise
        # The base is scored once per ladder, so that its runs have no scores of it.
        state = ladder.state()
        its = next((entry.rung for entry in state.entries if entry.run == run.name), "RUNG") if state else "RUNG"
        hint = f"`{shlex.join(['ftbench', 'gate', ladder.name, '--rung', its])}` compares its rung"
        raise UserError(error.problem, run.name, hint, "gate.run_of_ladder") from error


def _of_ladder(folder: LadderDir, against: str, rung: str | None, metric: str | None) -> Gain:
    state = folder.state()
    if state is None or state.status != "finished":
        status = folder.status_of(state) if state else "not started"
        hint = "wait until it finishes" if folder.is_active() else f"finish it with `ftbench resume {folder.argument}`"
        raise UserError(f"the ladder is not finished ({status})", folder.name, hint, "gate.not_finished")
    if metric is not None and state.work and metric != state.work.metric:
        hint = "omit --metric"
        raise UserError(f"the ladder was scored with {state.work.metric}", folder.name, hint, "gate.unknown_metric")
    return gain_of_rung(state, rung, against)
