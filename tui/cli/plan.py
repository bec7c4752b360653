"""`plan`: predict memory, time and cost of each method; `plan --history`: compare predictions with measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Group
from rich.live import Live  # noqa: TID251 - it gets the console of tui.output

from engine.config.errors import UserError
from engine.config.method_specs import QLORA, TrainedRung, lora_notices, method_names, method_title, reads
from engine.config.model_files import check_model_config, find_model
from engine.config.preset_library import preset_name, resolve_preset
from engine.config.quantities import size
from engine.config.schema import Config
from engine.config.settings import Flat
from engine.config.text import amount
from engine.memory.formula import history
from engine.memory.formula.estimate import MEASURED
from engine.memory.formula.history import TimeEstimate
from engine.memory.formula.memory_budget import listed_budget, local_budget
from engine.memory.formula.method_plan import (
    MemoryPlan,
    PlanQuery,
    PlanReport,
    TierError,
    device_notes,
    least_seconds,
    quick_plan,
)
from engine.runs.home import runs_home
from engine.runs.rpc_client import ask
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir
from tui.cli import completion, options
from tui.cli.plan_view import PlanView
from tui.output.console import console, print_json, say, table


def plan(
    preset: Annotated[
        str | None,
        typer.Argument(metavar="PRESET", help="Preset name or TOML file.", autocompletion=completion.presets),
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="Plan this method only.")] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help='Plan for a listed GPU: "A100 80GB".')
    ] = None,
    length: Annotated[
        int | None, typer.Option("--length", min=2, help="Tokens per row (default: the longest row of the data).")
    ] = None,
    micro_batch: Annotated[int | None, typer.Option("--micro-batch", min=1, help="Micro-batch size.")] = None,
    model: options.Model = None,
    data: options.Data = None,
    device: options.Device = None,
    settings: options.Set = None,
    quick: Annotated[bool, typer.Option("--quick", help="Use the formula only; takes milliseconds.")] = False,
    show_past: Annotated[
        bool, typer.Option("--history", help="Compare predicted with measured peak memory of earlier runs.")
    ] = False,
    runs: options.Runs = None,
    ascii_only: options.Ascii = False,
    json: options.Json = False,
) -> None:
    """Print the plan. The exit status is 0 whether the run fits or not: both are valid results."""
    folder = runs_home(runs)
    if show_past:
        show_history(folder, json)
        return
    if preset is None:
        hint = "name a preset (`ftbench presets list`), or use --history"
        raise UserError("missing preset", "ftbench plan", hint, "cli.missing_preset")
    given = options.overrides(settings, model=model, data=data, method=method, micro_batch=micro_batch, device=device)
    query = make_query(preset, options.chosen_method(method), given, gpu, length)
    config, name = query.configs[0], preset_name(preset)
    view = PlanView(console.width, console.is_terminal and not console.no_color)
    if quick:
        memory_plan = quick_plan(query, model_table(config))
    else:
        memory_plan = ask_for_plan(query, name, None if json or not console.is_terminal else view)
    planned = {method_plan.method: method_plan.best for method_plan in memory_plan.methods}
    configs = [config for config in query.configs if config.method in planned]

    work = memory_plan.work
    answer_tokens = work.answer_tokens if work else None
    rungs = {
        method_title(config.method): TrainedRung.of(config, planned[config.method].trainable, answer_tokens)
        for config in configs
    }
    memory_plan.notes += device_notes(memory_plan)
    memory_plan.notes += [notice.text for notice in lora_notices(rungs)]

    earlier = list(history.results(folder))
    times = estimated_times(memory_plan, configs, earlier)
    if not json:
        here = [result for _, result in earlier if history.is_here(result, memory_plan.budget)]
        accuracy = history.tier_accuracy(history.prediction_errors(here))
        for line in view.lines(memory_plan, config, name, times, accuracy):
            console.print(line)
        return
    for method_plan in memory_plan.methods:
        method_plan.time = times[method_plan.method]
    errors = [
        TierError(tier=tier, device=device, median=e.median, worst=e.worst, under=e.under, against=e.against)
        for (tier, device), e in MEASURED.items()
    ]
    report = PlanReport(
        v=1,
        preset=name,
        model=config.model.id,
        data=config.data.id,
        batch=config.train.batch,
        measured_errors=errors,
        **msgspec.structs.asdict(memory_plan),
    )
    print_json(msgspec.to_builtins(report))


def make_query(preset: str, method: str | None, overrides: Flat, gpu: str | None, length: int | None) -> PlanQuery:
    """The preset with each method to plan. Raises UserError for a key that none of them reads."""
    given = dict(overrides)
    only: str | None = method or given.pop("method", None)
    methods = (only,) if only else method_names()
    for key in given:
        if not any(reads(method, key) for method in methods):
            problem = f"{key} is not read by {' or '.join(methods)}"
            raise UserError(problem, "--set", "remove it or choose another method", "plan.unread_key")
    chosen = {
        method: resolve_preset(preset, method, {key: value for key, value in given.items() if reads(method, key)})
        for method in {*methods, QLORA.name}
    }
    device = chosen[methods[0]].config.hardware.device
    return PlanQuery(
        configs=[chosen[method].config for method in methods],
        qlora=chosen[QLORA.name].config,
        budget=local_budget(device=device) if gpu is None else listed_budget(gpu),
        length=length,
        data_given=chosen[methods[0]].origins["data.id"] != "default",
    )


def model_table(config: Config) -> Mapping[str, Any]:
    """Read the model's config.json. Raises UserError where it is missing or invalid."""
    check_model_config(config.model)
    files = find_model(config.model)
    if files.table is None:
        hint = "give a folder with a config.json (no weights needed)" if files.wrong else "remove --quick"
        raise UserError(files.wrong or files.why, config.model.id, hint, "plan.no_model_config")
    return files.table


def ask_for_plan(query: PlanQuery, preset: str, view: PlanView | None) -> MemoryPlan:
    """Plan by a dry run. With a `view`, the formula's bars are shown until the dry run is done."""
    config = query.configs[0]
    files = find_model(config.model)
    if files.wrong and files.folder:  # an invalid config.json: reported before the engine imports its libraries
        model_table(config)
    question = msgspec.to_builtins(query)
    if view is None:
        return msgspec.convert(ask("plan", question), MemoryPlan)
    known = list(view.bars(quick_plan(query, files.table), config, preset)) if files.table else []
    if known:
        known.append(view.text("preliminary estimate by the formula; the data has not been read yet", "dim"))
    status = view.text("importing libraries …", "dim")
    with Live(Group(*known, status), console=console, refresh_per_second=4, transient=True) as live:
        answer = ask("plan", question, lambda text: live.update(Group(*known, view.text(f"{text} …", "dim"))))
    return msgspec.convert(answer, MemoryPlan)


def estimated_times(
    plan: MemoryPlan, configs: list[Config], earlier: Sequence[tuple[RunDir, Result]]
) -> dict[str, TimeEstimate]:
    """Training time and cost by method, from finished runs."""
    work, budget = plan.work, plan.budget
    planned = {method_plan.method: method_plan.best for method_plan in plan.methods}

    def lower_bound(config: Config) -> float | None:
        """Of the training time, in seconds; None where rows, shape or peaks of the GPU are unknown."""
        table, estimate = find_model(config.model).table, planned.get(config.method)
        if table is None or work is None or estimate is None:
            return None
        return least_seconds(config, table, estimate, work, budget)

    times: dict[str, TimeEstimate] = {}
    for config in configs:
        own_price = config.cost.price_per_hour is not None and budget.source != "listed"
        price = config.cost.price_per_hour if own_price else budget.price_per_hour
        currency = config.cost.currency if own_price else budget.currency
        pace = history.throughput(earlier, config.model.id, config.method, budget)
        bound = partial(lower_bound, config)
        times[config.method] = history.time_estimate(pace, work.tokens if work else None, price, currency, bound)
    return times


def show_history(runs: Path, json: bool) -> None:
    """Print predicted and measured peak memory of every run, and the error of each tier."""
    errors = history.prediction_errors(result for _, result in history.results(runs))
    if json:
        listed = [{**msgspec.to_builtins(error), "error": error.error} for error in errors]
        print_json({"runs": listed, "tiers": msgspec.to_builtins(history.tier_accuracy(errors))})
        return
    if not errors:
        say(f"no run in {runs} has both a predicted and a measured peak")
        say("every `ftbench run` that completes training records both; use --runs DIR for another directory")
        return
    cells = [
        [error.run, error.method, error.tier, size(error.predicted), size(error.measured), f"{error.error:+.1%}"]
        for error in errors
    ]
    table("peak training memory", ("run", "method", "tier", "predicted", "measured", "error"), cells, right=(3, 4, 5))
    for machine in dict.fromkeys(error.machine for error in errors):
        for record in history.tier_accuracy(error for error in errors if error.machine == machine):
            figures = f"median error {record.median:.1%}, worst {record.worst:+.1%}"
            say(f"{machine}, {record.tier}: {figures}, {amount(record.count, 'run')}")
