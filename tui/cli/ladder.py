"""`ladder`: run every method on the same data and report the verdict; `report`: write the report again.

With `--vary` a sweep: a ladder for each value of one or two settings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import Notice, UserError
from engine.config.files import read_regular
from engine.config.quantities import percent
from engine.config.schema import Config
from engine.config.settings import Flat
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir
from engine.runs.ladder.ladder_plan import DEFAULT_MAX_SEEDS, describe_plan, forecast, forecast_rows
from engine.runs.ladder.ladder_state import Ladder, LadderPlan
from engine.runs.ladder.sweep import Axis, Sweep, SweepPoint, describe_sweep, value_text
from engine.runs.preference.judge_dir import with_preferences
from engine.runs.rpc_client import ask
from engine.runs.run.exports import parse_artifact
from engine.runs.run.usage import summarize_columns, summarize_rows
from engine.runs.score_format import percent_bounds, summary_lines, tradeoff_lines
from engine.runs.start import resume_ladder, start_ladder, start_sweep
from tui.cli.errors import show_notices
from tui.cli.following import Detached, follow_comparison
from tui.cli.run import check_disk, follow_started, print_detached
from tui.data_report import check_arguments
from tui.history.tables import show_benchmarks
from tui.output import streams
from tui.output.console import console, print_json, say, table

Cells = Sequence[tuple[dict[str, Any], LadderPlan]]
CHECKS = {"holds": "holds", "fails": "does not hold", "undecided": "undecided", "unknown": "cannot be checked"}
"""Whether the rule of thumb holds -> in words."""
FIRST_ROUNDS, MIN_FORECAST = 2, 5
"""Seeds from which, and at least up to which, hours and power are forecast."""


def refuse_missing_tools(ship: Sequence[str]) -> None:
    """Raise UserError, before anything is printed, if `--ship` names GGUF files and the tools for them are missing."""
    with contextlib.suppress(ValueError):  # an unknown word: the plan refuses it
        if any(parse_artifact(word.rpartition(":")[2]).kind == "gguf" for word in ship):
            ask("export.tools", {})


def seed_limit(until_decided: bool, most: int | None, vary: Sequence[str] | None) -> int | None:
    """Most seeds of a ladder that runs until its questions are decided; None for one with a fixed number.

    Raises UserError for options that cannot be combined.
    """
    if not until_decided:
        if most is not None:
            raise UserError(f"--max-seeds {most} limits --until-decided", hint="add it", code="ladder.until_decided")
        return None
    if vary:
        problem, hint = "the ladders of a sweep have a fixed number of seeds", "use --seeds with --vary"
        raise UserError(problem, "--until-decided", hint, code="ladder.until_decided")
    return DEFAULT_MAX_SEEDS if most is None else most


def show_forecast(plan: LadderPlan, runs: Path, json: bool) -> int:
    """Print hours and power by number of seeds, and what they are computed from.

    Raises UserError if the metric has to be decided from data that a run would refuse.
    """
    prediction = forecast(plan, runs, lambda: _automatic_metric(plan.rungs[0].config))
    counts = range(FIRST_ROUNDS if plan.until_decided else 1, max(len(plan.seeds), MIN_FORECAST) + 1)
    if json:
        rows = [
            {
                "seeds": count,
                "runs": count * len(prediction.rungs),
                "hours": prediction.hours(count),
                "power": {text: prediction.power(size, count) for text, size in prediction.differences.items()},
            }
            for count in counts
        ]
        print_json(
            {
                "source": prediction.source,
                "metric": prediction.metric,
                "items": prediction.items,
                "seed_std": prediction.seed_std,
                "seeds": rows,
            }
        )
        return 0
    say(describe_plan(plan))
    columns = ["seeds", "runs", "hours", *prediction.differences]
    title = f"{prediction.metric}: chance that this number of seeds shows a difference between two rungs"
    table(title, columns, forecast_rows(prediction, counts), right=range(len(columns)))
    say(prediction.source)
    return 0


def _automatic_metric(config: Config) -> str:
    """The metric that a run decides from its training answers. Raises UserError for data that a run would refuse."""
    report = ask("data.check", check_arguments(config))
    if report["refused"]:
        raise UserError(report["refused"], code=report["refusal_code"])
    return str(report["metric"])


def start(plan: LadderPlan, runs: Path, detach: bool, json: bool) -> int:
    """Start a ladder and follow it; its warnings are printed before it starts."""
    return _start(partial(start_ladder, runs, plan), [plan], describe_plan(plan), runs, detach, json)


def start_cells(axes: Sequence[Axis], cells: Cells, budget: float | None, runs: Path, detach: bool, json: bool) -> int:
    """Start a sweep and follow it."""
    plans = [plan for _, plan in cells]
    begin = partial(start_sweep, runs, axes, cells, budget, plans[0].command)
    return _start(begin, plans, describe_sweep(axes, cells), runs, detach, json)


def _start(
    start: Callable[..., object], plans: Sequence[LadderPlan], about: str, runs: Path, detach: bool, json: bool
) -> int:
    show_notices(plans[0].notices, json)
    check_disk([rung.config for plan in plans for rung in plan.rungs], runs, json)
    created: list[LadderDir | SweepDir] = []

    def begin() -> None:
        start(created=created.append)  # before any output: a closed pipe must not prevent it
        folder = created[0]
        if not json:
            was_killed = folder.plan().created < plans[0].created
            say(f"{folder.KIND} {folder.name}{': continues it, its process was killed' if was_killed else ''}")
            say(about)

    return follow_started(created, begin, lambda: watch(created[0], json, plans[0].notices, fresh=True), detach, json)


def watch(folder: LadderDir | SweepDir, json: bool, shown: Sequence[Notice] = (), fresh: bool = False) -> int:
    """Follow to the end, then print table, verdict and the report's path. Returns the exit status.

    `shown`: warnings that were printed before. A `fresh` ladder or sweep that is refused for invalid input is deleted.
    """
    try:
        state = follow_comparison(folder, json, [notice.text for notice in shown])
    except Detached:
        return print_detached(folder, json)
    if fresh and state.status == "failed" and not folder.has_runs():
        folder.remove()
        raise UserError(state.reason, code=state.reason_code or f"{folder.KIND}.refused")
    if json:
        print_json(msgspec.to_builtins(_rated(folder, state)))
    else:
        show(folder, state)
    return 0 if state.status in ("finished", "stopped") else 1


def resume(folder: LadderDir | SweepDir, detach: bool, json: bool, settings: Flat | None = None) -> int:
    """Resume a ladder or sweep; finished runs are not repeated. `settings`: as of `resume_ladder`."""
    begin = partial(resume_ladder, folder, settings)
    return follow_started([folder], begin, partial(watch, folder, json), detach, json)


def report(folder: LadderDir | SweepDir, json: bool, markdown: bool) -> int:
    """Write the report from the files; print its path, its Markdown, or the state as JSON.

    Raises UserError for a ladder or sweep without a state.
    """
    state = folder.state()
    if state is None:
        hint = f"`ftbench resume {folder.argument}` starts it"
        raise UserError(f"{folder.name} has not started yet", hint=hint, code=f"{folder.KIND}.not_started")
    if json:
        print_json(msgspec.to_builtins(_rated(folder, state)))
        return 0
    ask(f"{folder.KIND}.report", {"path": str(folder.path)})
    if markdown:
        streams.write(read_regular(folder.markdown).decode())
    else:
        say(f"report: {folder.page}")
        say(f"Markdown: {folder.markdown}")
    return 0


def _rated(folder: LadderDir | SweepDir, state: Ladder | Sweep) -> Ladder | Sweep:
    """A ladder with what judges and people prefer; a sweep unchanged."""
    return with_preferences(folder, state) if isinstance(folder, LadderDir) and isinstance(state, Ladder) else state


def show(folder: LadderDir | SweepDir, state: Ladder | Sweep) -> None:
    """Print the results and the report's path; of an unfinished ladder or sweep the parts that exist."""
    if state.status != "finished":
        say(f"{state.status}: {state.reason}")
    state = _rated(folder, state)
    if isinstance(state, Ladder):
        _show_ladder(state)
    else:
        _show_sweep(state)
    if folder.page.exists():
        say(f"report: {folder.page}")
    if isinstance(state, Sweep) and state.headline:
        say(state.headline, "bold")  # again: the table above it may be long


def _show_ladder(state: Ladder) -> None:
    """Print headline, table, figure and sentences."""
    if (summary := state.summary) is not None:
        say(summary.headline, "bold")
        for line in [*summary_lines(summary, console.width), *tradeoff_lines(summary, console.width)]:
            say(line)
    for sentence in state.verdict:
        say(f"{sentence.topic}: {sentence.text}")
    show_benchmarks(state)
    if state.work and state.work.data_usage:
        say(f"columns: {summarize_columns(state.work.columns)}")
        say(f"rows: {summarize_rows(state.work.data_usage)}")


def _show_sweep(state: Sweep) -> None:
    """Print the headline, a line per rung and ladder, and the sentences."""
    if state.headline:
        say(state.headline, "bold")
    keys = [axis.key for axis in state.axes]
    columns = [*keys, "rung", "share of gain", "95% CI", "cost ratio", "rule of thumb"]
    rows = [_sweep_row(state, point, keys) for point in state.points]
    if rows:
        table("", columns, rows, right=(len(keys) + 1, len(keys) + 3))
    for sentence in state.sentences:
        say(f"- {sentence}")


def _sweep_row(state: Sweep, point: SweepPoint, keys: Sequence[str]) -> list[str]:
    values, share = state.cells[point.cell].values, point.share_of_gain
    return [
        *(value_text(values[key]) for key in keys),
        point.rung,
        percent(share.mean) if share else "–",
        percent_bounds(share).strip("[]").replace(", ", "–") if share else "",
        f"{point.cost.mean:.2f}" if point.cost else "–",
        CHECKS[point.rule],
    ]


def shot_numbers(given: str | None) -> list[int]:
    """The numbers of `--base-shots 0,4`. Raises UserError for a word that is not a number."""
    words = [word.strip() for word in (given or "").split(",") if word.strip()]
    if wrong := [word for word in words if not (word.isascii() and word.isdigit())]:
        raise UserError(f"{wrong[0]!r} is not a number", "--base-shots", "for example 0,4", code="ladder.base_shots")
    return [int(word) for word in words]


def rung_words(given: Sequence[str] | None) -> list[str]:
    """The values of `--rung`, one rung each; bare names may be joined by commas: `--rung lora,full`."""
    words: list[str] = []
    for word in given or []:
        words += [word] if "=" in word or "://" in word else word.split(",")
    return words
