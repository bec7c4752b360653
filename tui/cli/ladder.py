"""`ladder`: run every method on the same data and report the verdict; `report`: write the report again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from engine.config.errors import Notice, UserError
from engine.config.files import read_regular
from engine.config.preset import Flat
from engine.config.schema import Config
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.forecast import forecast, forecast_rows
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir
from engine.runs.ladder.ladder_plan import DEFAULT_MAX_SEEDS, describe_plan
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.rungs import LadderPlan
from engine.runs.ladder.sweep import Sweep
from engine.runs.preference.judge_dir import with_preferences
from engine.runs.rpc_client import ask
from engine.runs.run.data_usage import summarize_columns, summarize_rows
from engine.runs.run.exports import parse_artifact
from engine.runs.score_format import summary_lines, tradeoff_lines
from engine.runs.start import resume_ladder, start_ladder
from tui.cli.errors import show_notices
from tui.cli.following import Detached, follow_ladder
from tui.cli.run import check_disk, follow_started, print_detached
from tui.data_report import check_arguments
from tui.history.tables import show_benchmarks
from tui.output import streams
from tui.output.console import console, print_json, say, table

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
    show_notices(plan.notices, json)
    check_disk([rung.config for rung in plan.rungs], runs, json)
    created: list[LadderDir] = []

    def begin() -> None:
        start_ladder(runs, plan, created=created.append)  # before any output: a closed pipe must not prevent it
        if not json:
            say(f"ladder {created[0].name}{continues(created[0].plan().created, plan.created)}")
            say(describe_plan(plan))

    return follow_started(created, begin, lambda: watch(created[0], json, plan.notices, fresh=True), detach, json)


def continues(created: float, planned: float) -> str:
    """What to add to the name of a ladder or sweep that was created before it was planned now; '' if it is new."""
    return "" if created >= planned else ": continues it, its process was killed"


def watch(folder: LadderDir, json: bool, shown: Sequence[Notice] = (), fresh: bool = False) -> int:
    """Follow to the end, then print table, verdict and the report's path. Returns the exit status.

    `shown`: warnings that were printed before. A `fresh` ladder that is refused for invalid input is deleted.
    """
    try:
        state = follow_ladder(folder, json, [notice.text for notice in shown])
    except Detached:
        return print_detached(folder, json)
    if fresh and state.status == "failed" and not folder.has_runs():
        ladder_dir.remove(folder)
        raise UserError(state.reason, code=state.reason_code or "ladder.refused")
    if json:
        print_json(msgspec.to_builtins(with_preferences(folder, state)))
    else:
        show(folder, state)
    return 0 if state.status in ("finished", "stopped") else 1


def show(folder: LadderDir, state: Ladder) -> None:
    """Print headline, table, figure, sentences and the report's path; of an unfinished ladder the parts that exist."""
    state = with_preferences(folder, state)
    if state.status != "finished":
        say(f"{state.status}: {state.reason}")
    show_summary(state)
    for sentence in state.verdict:
        say(f"{sentence.topic}: {sentence.text}")
    show_benchmarks(state)
    if state.work and state.work.data_usage:
        say(f"columns: {summarize_columns(state.work.columns)}")
        say(f"rows: {summarize_rows(state.work.data_usage)}")
    if folder.page.exists():
        say(f"report: {folder.page}")


def show_summary(state: Ladder) -> None:
    """Print headline, table and figure."""
    summary = state.summary
    if summary is None:
        return
    say(summary.headline, "bold")
    for line in [*summary_lines(summary, console.width), *tradeoff_lines(summary, console.width)]:
        say(line)


def resume(folder: LadderDir, detach: bool, json: bool, settings: Flat | None = None) -> int:
    """Resume a ladder; finished runs are not repeated. `settings`: as of `resume_ladder`."""
    return follow_started(
        [folder], partial(resume_ladder, folder, settings), partial(watch, folder, json), detach, json
    )


def report(folder: LadderDir, json: bool, markdown: bool) -> int:
    """Write the report from the ladder's files and print its path, its Markdown, or the ladder as JSON."""
    state = folder.state()
    return print_report(folder, state and with_preferences(folder, state), json, markdown)


def print_report(folder: LadderDir | SweepDir, state: Ladder | Sweep | None, json: bool, markdown: bool) -> int:
    """Write the report of a ladder or sweep and print it. Raises UserError for one without a state."""
    if state is None:
        hint = f"`ftbench resume {folder.argument}` starts it"
        raise UserError(f"{folder.name} has not started yet", hint=hint, code=f"{folder.KIND}.not_started")
    if json:
        print_json(msgspec.to_builtins(state))
        return 0
    ask(f"{folder.KIND}.report", {"path": str(folder.path)})
    if markdown:
        streams.write(read_regular(folder.markdown).decode())
    else:
        say(f"report: {folder.page}")
        say(f"Markdown: {folder.markdown}")
    return 0


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
