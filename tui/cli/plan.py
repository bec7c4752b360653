"""`plan`: memory, time and cost of the three methods before anything starts; how good earlier plans were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Group
from rich.live import Live

from engine.config.errors import UserError
from engine.config.method_specs import QLORA, method_names, reads
from engine.config.model_files import find_model, refuse_impossible
from engine.config.preset import Effective, Flat
from engine.config.preset_library import effective
from engine.config.schema import Config
from engine.config.text import amount
from engine.memory.formula import history
from engine.memory.formula.history import TimeEstimate
from engine.memory.formula.measured_error import MEASURED
from engine.memory.formula.memory_budget import listed_budget, local_budget
from engine.memory.formula.method_plan import MemoryPlan, PlanQuery, quick_plan
from engine.runs.result import Result
from engine.runs.rpc_client import ask
from engine.runs.run_dir import RunDir
from tui.cli.run import preset_name
from tui.format import size
from tui.output.console import console, print_json, say, table
from tui.preview.plan_view import View

UTF8 = ("utf-8", "utf8")


@dataclass(frozen=True)
class Wish:
    """The command line."""

    preset: str
    method: str | None
    overrides: Flat
    card: str | None
    length: int | None
    quick: bool
    runs: Path
    ascii: bool
    json: bool


def plan(wish: Wish) -> int:
    """Show the plan; 0 whether it fits or not, for that is the answer and not a failure."""
    question = make_question(wish)
    config = question.configs[0]
    view = View(console.width, _coloured(), wish.ascii or console.encoding.lower() not in UTF8)
    if wish.quick:
        found = quick_plan(question, model_table(config))
    elif wish.json or not console.is_terminal:
        found = _ask(question)
    else:
        found = _ask_meanwhile(question, view, preset_name(wish.preset))
    earlier = list(history.results(wish.runs))
    times = estimated_times(found, question.configs, earlier)
    if wish.json:
        print_json(as_json(found, times, wish, config))
        return 0
    here = history.tier_accuracy(
        history.prediction_errors(result for _, result in earlier if history.is_here(result, found.room))
    )
    for line in view.whole(found, config, preset_name(wish.preset), times, here):
        console.print(line)
    return 0


def make_question(wish: Wish) -> PlanQuery:
    """The preset by each method to show. Raises UserError for a key that none of them reads."""
    given = dict(wish.overrides)
    wanted: str | None = wish.method or given.pop("method", None)
    shown = (wanted,) if wanted else method_names()
    for key in given:
        if not any(_reads(method, key) for method in shown):
            raise UserError(f"{key} is not read by {' or '.join(shown)}", "--set", "drop it or choose another method")
    chosen = {method: _by_method(wish.preset, method, given) for method in {*shown, QLORA.name}}
    return PlanQuery(
        configs=[chosen[method].config for method in shown],
        qlora=chosen[QLORA.name].config,
        room=local_budget() if wish.card is None else listed_budget(wish.card),
        length=wish.length,
        data_given=chosen[shown[0]].origins["data.id"] != "default",
    )


def _by_method(preset: str, method: Any, given: Flat) -> Effective:
    return effective(preset, method, {key: value for key, value in given.items() if _reads(method, key)})


def _reads(method: str, key: str) -> bool:
    return reads(method, key)


def model_table(config: Config) -> Mapping[str, Any]:
    """The model's config.json. Raises UserError where it is not on this machine."""
    refuse_impossible(config.model)
    files = find_model(config.model)
    if files.table is None:
        do = "give a folder that holds a config.json; no weights are needed"
        raise UserError(files.wrong or files.why, config.model.id, do if files.wrong else "leave out --quick")
    return files.table


def _ask(question: PlanQuery, progress: Callable[[str], None] | None = None) -> MemoryPlan:
    files = find_model(question.configs[0].model)
    if files.wrong and files.folder:  # of a config.json: known without waiting for the engine's libraries
        model_table(question.configs[0])
    return msgspec.convert(ask("plan", msgspec.to_builtins(question), progress), MemoryPlan)


def _ask_meanwhile(question: PlanQuery, view: View, preset: str) -> MemoryPlan:
    """The formula's bars at once, while the dry run works; they go when it is done."""
    config = question.configs[0]
    table = find_model(config.model).table
    known = list(view.bars(quick_plan(question, table), config, preset)) if table else []
    if known:
        known.append(view.text("the formula's first answer; the data has not been read", "dim"))
    status = view.text("loading the libraries …", "dim")
    with Live(Group(*known, status), console=console, refresh_per_second=4, transient=True) as live:
        return _ask(question, lambda text: live.update(Group(*known, view.text(f"{text} …", "dim"))))


def estimated_times(
    plan: MemoryPlan, configs: list[Config], earlier: Sequence[tuple[RunDir, Result]]
) -> dict[str, TimeEstimate]:
    """By method, from the runs that have finished."""
    tokens = plan.work.tokens if plan.work else None
    times: dict[str, TimeEstimate] = {}
    for config in configs:
        mine = config.cost.price_per_hour is not None and plan.room.source != "listed"
        price = config.cost.price_per_hour if mine else plan.room.price_per_hour
        currency = config.cost.currency if mine else plan.room.currency
        pace = history.throughput(earlier, config.model.id, config.method, plan.room)
        times[config.method] = history.time_estimate(pace, tokens, price, currency)
    return times


def as_json(plan: MemoryPlan, times: Mapping[str, TimeEstimate], wish: Wish, config: Config) -> dict[str, Any]:
    """What docs/plan-json.md describes."""
    found: dict[str, Any] = msgspec.to_builtins(plan)
    for outlook in found["outlooks"]:
        outlook["time"] = msgspec.to_builtins(times[outlook["method"]])
    errors = [
        {"tier": tier, "device": device, "median": e.median, "worst": e.worst, "under": e.under, "against": e.against}
        for (tier, device), e in MEASURED.items()
    ]
    about = {"v": 1, "preset": preset_name(wish.preset), "model": config.model.id, "data": config.data.id}
    return {**about, "batch": config.train.batch, **found, "measured_errors": errors}


def show_history(runs: Path, json: bool) -> int:
    """Predicted against measured peaks of every run here, and how good each tier has been."""
    found = history.prediction_errors(result for _, result in history.results(runs))
    records = history.tier_accuracy(found)
    if json:
        print_json(
            {
                "runs": [{**msgspec.to_builtins(one), "error": one.error} for one in found],
                "tiers": [msgspec.to_builtins(record) for record in records],
            }
        )
        return 0
    if not found:
        say(f"no run in {runs} has both a predicted and a measured peak yet")
        say("every `ftbench run` that finishes its training leaves them; --runs DIR looks elsewhere")
        return 0
    cells = [
        [one.run, one.method, one.tier, size(one.predicted), size(one.measured), f"{one.error:+.1%}"] for one in found
    ]
    table("peak of training", ("run", "method", "tier", "predicted", "measured", "error"), cells, right=(3, 4, 5))
    for machine in dict.fromkeys(one.machine for one in found):
        for record in history.tier_accuracy(one for one in found if one.machine == machine):
            figures = f"median error {record.median:.1%}, worst {record.worst:+.1%}"
            say(f"{machine}, {record.tier}: {figures}, {amount(record.count, 'run')}")
    return 0


def _coloured() -> bool:
    return console.is_terminal and not console.no_color
