"""`ladder` and `demo`: run every method on the same data and report the verdict; `report`: write the report again."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import typer

from engine.config.errors import Notice, UserError
from engine.config.files import read_regular
from engine.config.metric_specs import DEFAULT_MARGIN, POINT
from engine.config.preset_library import resolve_preset
from engine.config.settings import Flat
from engine.hardware.cpu import usable_cpus
from engine.hardware.devices import CPU, select_device
from engine.runs.home import runs_home
from engine.runs.ladder.ladder_dir import ComparisonDir, LadderDir, comparison_kinds, comparisons
from engine.runs.ladder.ladder_plan import DEFAULT_MAX_SEEDS, Forecast, describe_plan, forecast_rows, make_plan
from engine.runs.ladder.ladder_state import FIRST_LOOK, ComparisonState, Ladder, LadderPlan
from engine.runs.ladder.report_hooks import extended, extended_json
from engine.runs.ladder.summary_drawing import plain_lines, summary_lines, tradeoff_lines
from engine.runs.rpc_client import ask
from engine.runs.run.export_formats import kinds_with_tools
from engine.runs.run.exports import artifact_words, parse_artifact
from engine.runs.run.usage import summarize_columns, summarize_rows
from engine.runs.start import start_ladder
from tui.cli import completion, options
from tui.cli.comparisons import view_of
from tui.cli.errors import show_notices
from tui.cli.following import Detached, follow_comparison
from tui.cli.lookup import find_named, home_for_launch, show_origin
from tui.cli.run import check_disk, follow_started, print_detached
from tui.data_report import check_arguments
from tui.history.tables import show_tasks
from tui.output import streams
from tui.output.console import console, print_json, say, table

MIN_FORECAST = 5
"""Hours and power are forecast up to this number of seeds, or up to the plan's if it has more."""
DEMO = "demo"
"""Preset of the demo."""
DEMO_SEEDS = 3
DEMO_SLOTS = 4
"""Runs at a time on a CPU with more cores: the embedded model gains little from a second thread."""
QUICK: Flat = {"train.epochs": 1.0, "evaluation.rows": 150}
"""One seed, half the training steps, half the test rows: enough to try ftbench, too little for conclusions."""


def demo(
    runs: options.Runs = None,
    seeds: options.DemoSeeds = None,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, half the training steps and test rows.")] = False,
    fresh: options.Fresh = False,
    device: options.Devices = None,
    share: options.Share = None,
    executor: options.Executor = None,
    partition: options.Partition = None,
    time: options.Time = None,
    gres: options.Gres = None,
    detach: options.Detach = False,
    json: options.Json = False,
) -> int:
    """Run the demo ladder. Returns 0 when it finished or was stopped. Raises UserError for --quick with --seeds."""
    job = {"executor": executor, "partition": partition, "time": time, "gres": gres}
    where = options.overrides(None, share, device=device, **job)
    folder = home_for_launch(runs, json)
    if quick and seeds is not None:
        hint = "keep one of them: --quick runs one seed"
        raise UserError("--quick and --seeds given together", hint=hint, code="cli.conflicting_values")
    seeds = 1 if quick else seeds or DEMO_SEEDS
    if resolve_preset(DEMO, None, {}).config.hardware.device == "auto":
        where = suited_devices(where)
    command = shlex.join(["ftbench", *sys.argv[1:]])
    settings = {**QUICK, **where} if quick else where
    plan = make_plan(DEMO, [], settings, seeds=seeds, probe=not quick, fresh=fresh, command=command)
    return start(plan, folder, detach, json)


def suited_devices(where: Flat) -> Flat:
    """`where` with slots of the CPU, unless it names a device or a job, or the machine has a GPU or a single core."""
    cpus = len(usable_cpus())
    if "hardware.device" in where or where.get("executor.name", "local") != "local" or cpus == 1:
        return where
    if select_device().lock != CPU:
        return where
    return {**where, "hardware.device": f"{CPU}:{min(cpus, DEMO_SLOTS)}"}


class LadderFamily(Protocol):
    """What options of an extension make of the ladder that the other options describe: several."""

    def plan(self, settings: Flat, make: Callable[[Flat], LadderPlan], dry_run: bool) -> Sequence[LadderPlan]:
        """The plans of its ladders; `make` makes one of the settings that hold.

        Raises UserError for what the options do not allow, such as a dry run.
        """

    def about(self) -> str:
        """One line about them."""

    def start(self, runs: Path, *, created: Callable[[Any], object]) -> object:
        """As `start_ladder`."""


def ladder(
    preset: options.PresetName,
    rungs: Annotated[
        list[str] | None,
        typer.Option(
            "--rung",
            metavar="RUNG",
            help="Method, NAME=METHOD,KEY=VALUE or http://HOST/v1#MODEL; repeatable (default: all methods).",
            autocompletion=completion.methods,
        ),
    ] = None,
    seeds: options.Seeds = 1,
    learning_rates: Annotated[
        int,
        typer.Option("--learning-rates", min=1, max=9, help="Learning rates to try per rung on validation rows."),
    ] = 1,
    until_decided: Annotated[
        bool,
        typer.Option("--until-decided", help="Run further seeds only for rungs with an open question; 2 seeds first."),
    ] = False,
    max_seeds: Annotated[
        int | None, typer.Option("--max-seeds", min=2, max=20, help="With --until-decided: seeds at most (default: 8).")
    ] = None,
    margin: options.Margin = DEFAULT_MARGIN / POINT,
    ship: Annotated[
        list[str] | None,
        typer.Option(
            "--ship",
            metavar="ARTIFACT",
            help=f"Export, score and compare: {', '.join(artifact_words())}.",
            autocompletion=completion.offers(lambda home: [*kinds_with_tools(), *artifact_words()]),
        ),
    ] = None,
    model: options.Model = None,
    data: options.Data = None,
    settings: options.Set = None,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Run a timing probe of every rung first.")] = True,
    base_shots: options.Shots = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            "--price", metavar="[NAME=]IN,OUT", help="Price of served rungs per million tokens, of prompts and answers."
        ),
    ] = None,
    added: Sequence[LadderFamily] = (),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the expected hours and power by number of seeds; start nothing.")
    ] = False,
    fresh: options.Fresh = False,
    retime: options.Retime = False,
    device: options.Devices = None,
    share: options.Share = None,
    executor: options.Executor = None,
    partition: options.Partition = None,
    time: options.Time = None,
    gres: options.Gres = None,
    runs: options.Runs = None,
    detach: options.Detach = False,
    json: options.Json = False,
) -> int:
    """Start a ladder, or several by options of extensions, and follow. Returns 0 when it finished or was stopped."""
    job = {"executor": executor, "partition": partition, "time": time, "gres": gres}
    given = options.overrides(settings, share, model=model, data=data, device=device, **job)
    words = rung_words(rungs)
    artifacts = ",".join(ship).split(",") if ship else []
    refuse_missing_tools(artifacts)
    make = partial(
        make_plan,
        preset,
        words,
        seeds=seeds,
        learning_rates=learning_rates,
        probe=probe,
        fresh=fresh,
        command=shlex.join(["ftbench", *sys.argv[1:]]),
        ship=artifacts,
        margin=margin * POINT,
        max_seeds=_seed_limit(until_decided, max_seeds),
        retime=retime,
        base_shots=_shot_numbers(base_shots),
        prices=price or [],
    )
    if not added:
        plan = make(given)
        if dry_run:
            return show_forecast(plan, runs_home(runs), json)
        return start(plan, home_for_launch(runs, json), detach, json)
    family = added[0]
    plans = family.plan(given, make, dry_run)
    folder = home_for_launch(runs, json)
    return _start(partial(family.start, folder), plans, family.about(), folder, detach, json)


def refuse_missing_tools(ship: Sequence[str]) -> None:
    """Raise UserError, before anything is printed, if tools for an artifact of `--ship` are missing."""
    with contextlib.suppress(ValueError):  # an unknown word: the plan refuses it
        named = [parse_artifact(word.rpartition(":")[2]) for word in ship]
        for kind in {artifact.kind for artifact in named if artifact.format.needs_tools}:
            ask("export.tools", {"kind": kind})


def _seed_limit(until_decided: bool, most: int | None) -> int | None:
    """Most seeds of a ladder that runs until its questions are decided; None for one with a fixed number.

    Raises UserError for options that cannot be combined.
    """
    if not until_decided:
        if most is not None:
            raise UserError(f"--max-seeds {most} limits --until-decided", hint="add it", code="ladder.until_decided")
        return None
    return DEFAULT_MAX_SEEDS if most is None else most


def show_forecast(plan: LadderPlan, runs: Path, json: bool) -> int:
    """Print hours and power by number of seeds, and what they are computed from.

    Raises UserError if the metric has to be decided from data that a run would refuse.
    """

    def automatic_metric() -> str:
        report = ask("data.check", check_arguments(plan.rungs[0].config))
        if report["refused"]:
            raise UserError(report["refused"], code=report["refusal_code"])
        return str(report["metric"])

    prediction = Forecast(plan, runs, automatic_metric)
    counts = range(FIRST_LOOK if plan.until_decided else 1, max(len(plan.seeds), MIN_FORECAST) + 1)
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
        facts = {name: getattr(prediction, name) for name in ("source", "metric", "items", "seed_std")}
        print_json({**facts, "seeds": rows})
        return 0
    say(describe_plan(plan))
    columns = ["seeds", "runs", "hours", *prediction.differences]
    title = f"{prediction.metric}: chance that this number of seeds shows a difference between two rungs"
    table(title, columns, forecast_rows(prediction, counts), right=range(len(columns)))
    say(prediction.source)
    return 0


def start(plan: LadderPlan, runs: Path, detach: bool, json: bool) -> int:
    """Start a ladder and follow it; its warnings are printed before it starts."""
    return _start(partial(start_ladder, runs, plan), [plan], describe_plan(plan), runs, detach, json)


def _start(
    launch: Callable[..., object], plans: Sequence[LadderPlan], about: str, runs: Path, detach: bool, json: bool
) -> int:
    show_notices(plans[0].notices, json)
    check_disk([rung.config for plan in plans for rung in plan.rungs], runs, json)
    created: list[ComparisonDir] = []

    def begin() -> None:
        known = {folder.path for folder in comparisons(runs)}
        launch(created=created.append)  # before any output: a closed pipe must not prevent it
        folder = created[0]
        if not json:
            was_killed = folder.path in known
            say(f"{folder.KIND} {folder.name}{': continues it, its process was killed' if was_killed else ''}")
            say(about)

    return follow_started(created, begin, lambda: watch(created[0], json, plans[0].notices, fresh=True), detach, json)


def watch(folder: ComparisonDir, json: bool, shown: Sequence[Notice] = (), fresh: bool = False) -> int:
    """Follow to the end, then print table, verdict and the report's path. Returns the exit status.

    `shown`: warnings that were printed before. A `fresh` one that is refused for invalid input is deleted.
    """
    try:
        state = follow_comparison(folder, json, [notice.text for notice in shown])
    except Detached:
        return print_detached(folder, json)
    if fresh and state.status == "failed" and not folder.has_runs():
        folder.remove()
        raise UserError(state.reason, code=state.reason_code or f"{folder.KIND}.refused")
    if json:
        print_json(as_json(folder, state))
    else:
        show(folder, state)
    return 0 if state.status in ("finished", "stopped") else 1


def report(
    name: Annotated[
        str,
        typer.Argument(
            metavar="LADDER",
            help="Ladder name, part of it, path, or 'last'.",
            autocompletion=completion.ladders,
        ),
    ],
    runs: options.Runs = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the report as Markdown.")] = False,
    json: options.Json = False,
) -> None:
    """Write the report from the files; print its path, its Markdown, or the state as JSON.

    Raises UserError for one without a state.
    """
    folder = find_named(runs, name, comparison_kinds())
    show_origin(folder, quiet=json or markdown)
    state = folder.state()
    if state is None:
        hint = f"`ftbench resume {folder.argument}` starts it"
        raise UserError(f"{folder.name} has not started yet", hint=hint, code=f"{folder.KIND}.not_started")
    if json:
        print_json(as_json(folder, state))
        return
    ask(f"{folder.KIND}.report", {"path": str(folder.path)})
    if markdown:
        streams.write(read_regular(folder.markdown).decode())
    else:
        say(f"report: {folder.page}")
        say(f"Markdown: {folder.markdown}")


def as_json(folder: ComparisonDir, state: ComparisonState) -> dict[str, Any]:
    """The state; of a ladder with what extensions add to it."""
    if isinstance(folder, LadderDir) and isinstance(state, Ladder):
        return extended_json(folder, state)
    return dict(msgspec.to_builtins(state))


def show(folder: ComparisonDir, state: ComparisonState) -> None:
    """Print the results and the report's path; of one that is unfinished the parts that exist."""
    if state.status != "finished":
        say(f"{state.status}: {state.reason}")
    if isinstance(folder, LadderDir) and isinstance(state, Ladder):
        _show_ladder(extended(folder, state))
        show_report_path(folder)
    else:
        view_of(folder).show(folder, state)


def show_report_path(folder: ComparisonDir) -> None:
    if folder.page.exists():
        say(f"report: {folder.page}")


def _show_ladder(ladder: Ladder) -> None:
    """Print the decision, the rungs, the verdict, and what was read."""
    if (summary := ladder.summary) is not None:
        say(" · ".join(summary.decision), "bold green" if summary.ship else "bold yellow")
        lines = [*summary_lines(summary, console.width), *tradeoff_lines(summary, console.width)]
        for line in plain_lines(lines):
            say(line)
        say(summary.headline, "bold")
    for sentence in ladder.verdict:
        say(f"{sentence.topic}: {sentence.text}")
    show_tasks(ladder)
    if ladder.work and ladder.work.data_usage:
        say(f"columns: {summarize_columns(ladder.work.columns)}")
        say(f"rows: {summarize_rows(ladder.work.data_usage)}")


def _shot_numbers(given: str | None) -> list[int]:
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
