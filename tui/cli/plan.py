"""`plan`: predict memory, time and cost of each method; `plan --history`: compare predictions with measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Group
from rich.live import Live  # noqa: TID251 - it gets the console of tui.output

from engine.config.errors import Notice, UserError
from engine.config.method_specs import QLORA, TrainedRung, lora_notices, method_names, method_title, reads
from engine.config.model_files import check_model_config, find_model
from engine.config.preset import EffectiveConfig
from engine.config.preset_library import preset_name, resolve_preset
from engine.config.quantities import size
from engine.config.schema import Config
from engine.config.settings import Flat
from engine.config.text import amount
from engine.memory.formula import history
from engine.memory.formula.estimate import MEASURED, MemoryEstimate
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
from engine.runs.rpc_client import ask
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir
from tui.cli.plan_view import PlanView
from tui.output.console import console, print_json, say, table


@dataclass(frozen=True)
class PlanOptions:
    """The options of the command line."""

    preset: str
    method: str | None
    overrides: Flat
    gpu: str | None
    length: int | None
    quick: bool
    runs: Path
    json: bool


def plan(options: PlanOptions) -> int:
    """Print the plan. Returns 0 whether the run fits or not: both are valid results."""
    query = make_query(options)
    config = query.configs[0]
    view = PlanView(console.width, console.is_terminal and not console.no_color)
    if options.quick:
        memory_plan = quick_plan(query, model_table(config))
    elif options.json or not console.is_terminal:
        memory_plan = _ask(query)
    else:
        memory_plan = _ask_with_preview(query, view, preset_name(options.preset))
    planned = {method_plan.method for method_plan in memory_plan.methods}
    configs = [config for config in query.configs if config.method in planned]
    memory_plan.notes += device_notes(memory_plan)
    memory_plan.notes += (notice.text for notice in advice(memory_plan, configs))
    earlier = list(history.results(options.runs))
    times = estimated_times(memory_plan, configs, earlier)
    if options.json:
        print_json(msgspec.to_builtins(report(memory_plan, times, options, config)))
        return 0
    here = history.tier_accuracy(
        history.prediction_errors(result for _, result in earlier if history.is_here(result, memory_plan.budget))
    )
    for line in view.lines(memory_plan, config, preset_name(options.preset), times, here):
        console.print(line)
    return 0


def advice(plan: MemoryPlan, configs: Sequence[Config]) -> list[Notice]:
    """Warnings about settings of adapters that are known to cost quality."""
    tokens = plan.work.answer_tokens if plan.work else None
    trainable = {method_plan.method: method_plan.best.trainable for method_plan in plan.methods}
    return lora_notices(
        {
            method_title(config.method): TrainedRung.of(config, trainable.get(config.method), tokens)
            for config in configs
        }
    )


def make_query(options: PlanOptions) -> PlanQuery:
    """The preset with each method to plan. Raises UserError for a key that none of them reads."""
    given = dict(options.overrides)
    only: str | None = options.method or given.pop("method", None)
    shown = (only,) if only else method_names()
    for key in given:
        if not any(reads(method, key) for method in shown):
            problem = f"{key} is not read by {' or '.join(shown)}"
            raise UserError(problem, "--set", "remove it or choose another method", "plan.unread_key")
    chosen = {method: _by_method(options.preset, method, given) for method in {*shown, QLORA.name}}
    device = chosen[shown[0]].config.hardware.device
    return PlanQuery(
        configs=[chosen[method].config for method in shown],
        qlora=chosen[QLORA.name].config,
        budget=local_budget(device=device) if options.gpu is None else listed_budget(options.gpu),
        length=options.length,
        data_given=chosen[shown[0]].origins["data.id"] != "default",
    )


def _by_method(preset: str, method: Any, given: Flat) -> EffectiveConfig:
    return resolve_preset(preset, method, {key: value for key, value in given.items() if reads(method, key)})


def model_table(config: Config) -> Mapping[str, Any]:
    """Read the model's config.json. Raises UserError where it is missing or invalid."""
    check_model_config(config.model)
    files = find_model(config.model)
    if files.table is None:
        hint = "give a folder with a config.json (no weights needed)" if files.wrong else "remove --quick"
        raise UserError(files.wrong or files.why, config.model.id, hint, "plan.no_model_config")
    return files.table


def _ask(query: PlanQuery, progress: Callable[[str], None] | None = None) -> MemoryPlan:
    files = find_model(query.configs[0].model)
    if files.wrong and files.folder:  # an invalid config.json: reported before the engine imports its libraries
        model_table(query.configs[0])
    return msgspec.convert(ask("plan", msgspec.to_builtins(query), progress), MemoryPlan)


def _ask_with_preview(query: PlanQuery, view: PlanView, preset: str) -> MemoryPlan:
    """Show the formula's bars while the dry run is in progress; they are removed when it is done."""
    config = query.configs[0]
    table = find_model(config.model).table
    known = list(view.bars(quick_plan(query, table), config, preset)) if table else []
    if known:
        known.append(view.text("preliminary estimate by the formula; the data has not been read yet", "dim"))
    status = view.text("importing libraries …", "dim")
    with Live(Group(*known, status), console=console, refresh_per_second=4, transient=True) as live:
        return _ask(query, lambda text: live.update(Group(*known, view.text(f"{text} …", "dim"))))


def estimated_times(
    plan: MemoryPlan, configs: list[Config], earlier: Sequence[tuple[RunDir, Result]]
) -> dict[str, TimeEstimate]:
    """Training time and cost by method, from finished runs."""
    tokens = plan.work.tokens if plan.work else None
    times: dict[str, TimeEstimate] = {}
    planned = {method_plan.method: method_plan.best for method_plan in plan.methods}
    for config in configs:
        own_price = config.cost.price_per_hour is not None and plan.budget.source != "listed"
        price = config.cost.price_per_hour if own_price else plan.budget.price_per_hour
        currency = config.cost.currency if own_price else plan.budget.currency
        bound = partial(_least_seconds, config, planned.get(config.method), plan)
        pace = history.throughput(earlier, config.model.id, config.method, plan.budget)
        times[config.method] = history.time_estimate(pace, tokens, price, currency, bound)
    return times


def _least_seconds(config: Config, estimate: MemoryEstimate | None, plan: MemoryPlan) -> float | None:
    """A lower bound of the training time; None where rows, shape or peaks of the GPU are unknown."""
    table = find_model(config.model).table
    if table is None or plan.work is None or estimate is None:
        return None
    return least_seconds(config, table, estimate, plan.work, plan.budget)


def report(plan: MemoryPlan, times: Mapping[str, TimeEstimate], options: PlanOptions, config: Config) -> PlanReport:
    """The plan with its times and the planner's measured errors."""
    for method_plan in plan.methods:
        method_plan.time = times[method_plan.method]
    errors = [
        TierError(tier=tier, device=device, median=e.median, worst=e.worst, under=e.under, against=e.against)
        for (tier, device), e in MEASURED.items()
    ]
    return PlanReport(
        v=1,
        preset=preset_name(options.preset),
        model=config.model.id,
        data=config.data.id,
        batch=config.train.batch,
        measured_errors=errors,
        **{field: getattr(plan, field) for field in MemoryPlan.__struct_fields__},
    )


def show_history(runs: Path, json: bool) -> int:
    """Print predicted and measured peak memory of every run, and the error of each tier. Returns 0."""
    errors = history.prediction_errors(result for _, result in history.results(runs))
    records = history.tier_accuracy(errors)
    if json:
        print_json(
            {
                "runs": [{**msgspec.to_builtins(error), "error": error.error} for error in errors],
                "tiers": [msgspec.to_builtins(record) for record in records],
            }
        )
        return 0
    if not errors:
        say(f"no run in {runs} has both a predicted and a measured peak")
        say("every `ftbench run` that completes training records both; use --runs DIR for another directory")
        return 0
    cells = [
        [error.run, error.method, error.tier, size(error.predicted), size(error.measured), f"{error.error:+.1%}"]
        for error in errors
    ]
    table("peak training memory", ("run", "method", "tier", "predicted", "measured", "error"), cells, right=(3, 4, 5))
    for machine in dict.fromkeys(error.machine for error in errors):
        for record in history.tier_accuracy(error for error in errors if error.machine == machine):
            figures = f"median error {record.median:.1%}, worst {record.worst:+.1%}"
            say(f"{machine}, {record.tier}: {figures}, {amount(record.count, 'run')}")
    return 0
