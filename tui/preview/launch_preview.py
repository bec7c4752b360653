"""The launch preview: what a run or ladder will do, and problems found before it starts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from engine.config.device_defaults import automatic_optimizer, describe_checkpointing
from engine.config.errors import Notice, UserError
from engine.config.method_specs import TrainedRung, lora_notices, method_spec, method_title, smaller_methods
from engine.config.metric_specs import metric_text
from engine.config.model_files import EMBEDDED, ModelFiles, find_model
from engine.config.preset import EffectiveConfig
from engine.config.preset_library import preset_name
from engine.config.quantities import count, rate, share_percent, size
from engine.config.schema import Config
from engine.config.text import amount
from engine.memory.formula.estimate import PARTS, MemoryEstimate, error_of
from engine.memory.formula.fit import find_remedies
from engine.memory.formula.formula import low_disk_notice, small_disk_error
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import packing_notes
from engine.runs.home import home_warnings, nearest_existing
from engine.runs.ladder.ladder_plan import describe_plan
from engine.runs.ladder.ladder_state import LadderPlan
from engine.runs.run.run_dir import continued_run_name, find_continued_run
from engine.runs.run.usage import (
    LEFT_OUT,
    account_lines,
    left_out_warning,
    summarize_columns,
    summarize_model,
    summarize_rows,
)
from tui.data_report import DataReport, overlap_in_short, warning_lines
from tui.preview.launch_context import DataCheck, LaunchContext
from tui.preview.method_estimate import (
    STYLES,
    MethodEstimate,
    disk_space,
    fitting_budgets,
    method_estimate,
    resolved_query,
)
from tui.preview.method_table import training_steps


@dataclass(frozen=True)
class LaunchProblem:
    """A problem and a suggested fix."""

    text: str
    hint: str = ""
    blocking: bool = False
    """Whether the run would fail."""
    code: str = ""
    """Stable dotted name, as in errors and warnings."""


def adapter_problems(
    predictions: Sequence[MethodEstimate], titles: Sequence[str], report: DataCheck
) -> Iterator[LaunchProblem]:
    """Settings of adapters that are known to cost quality; learning rates are compared where full is among them."""
    lengths = (report.answer or {}).get("lengths", {}).get("train", {})
    rungs = {
        title: TrainedRung.of(
            predicted.config, predicted.estimate.trainable if predicted.estimate else None, lengths.get("answer_total")
        )
        for title, predicted in zip(titles, predictions, strict=True)
        if predicted.config
    }
    yield from (LaunchProblem(notice.text, code=notice.code) for notice in lora_notices(rungs))


def memory_problems(
    predictions: Sequence[MethodEstimate], files: ModelFiles, context: LaunchContext
) -> Iterator[LaunchProblem]:
    """Methods that fit tightly or not at all, by the formula, with settings and methods that need less memory."""
    budget = context.budget
    for predicted in predictions:
        if predicted.estimate is None or budget is None or predicted.fit not in ("tight", "does not fit"):
            continue
        used = f", {size(budget.used)} of it in use by others" if budget.used else ""
        figures = f"{size(predicted.peak)} of {size(budget.total)}{used}"
        title, smaller = method_title(predicted.method), smaller_methods(predicted.method)
        hint = f"if it runs out of memory, reduce train.micro_batch or train.max_length, or use {smaller}"
        if predicted.fit == "tight":
            yield LaunchProblem(f"{title} is a tight fit (estimated): {figures}", hint, code="memory.tight")
            continue
        if predicted.config is not None and files.table is not None:
            rows, others = predicted.estimate.rows, {gpu.name: gpu for gpu in context.other_gpus}
            query = resolved_query(predicted.config, files.table, rows, budget)
            fitting = fitting_budgets(predicted.config, files, others, rows.length)
            ways = [f"use {name} ({size(gpu.free)} free)" for name, gpu in fitting.items()][:1]
            ways += [
                " and ".join(f"{key} = {str(value).lower()}" for key, value in way.settings.items())
                + f" ({size(way.peak)})"
                for way in find_remedies(query)
            ]
            hint = ", or ".join([*ways, smaller])
        yield LaunchProblem(f"{title} does not fit (estimated): {figures}", hint, code="memory.does_not_fit")


class Fact(NamedTuple):
    """One line of the preview: `memory  784 MiB of 23.5 GiB`."""

    name: str
    text: str
    style: str = ""


@dataclass(frozen=True)
class LaunchPreview:
    title: str
    facts: list[Fact]
    problems: list[LaunchProblem]
    queue: str = ""
    """When it starts: immediately, or what it waits for."""

    @property
    def blocked(self) -> bool:
        return any(problem.blocking for problem in self.problems)


def run_preview(name: str, chosen: EffectiveConfig, context: LaunchContext, report: DataCheck) -> LaunchPreview:
    config, files = chosen.config, find_model(chosen.config.model)
    predicted = method_estimate(config, files, context.budget, report.longest)
    space = disk_space([config], context.runs, context.budget)
    train = config.train
    optimizer: str = config.optimizer.name
    if optimizer == "auto" and predicted.estimate:
        optimizer = automatic_optimizer(predicted.estimate.device, predicted.estimate.paged)
    schedule = f"{train.schedule}, {share_percent(train.warmup_ratio)} warmup"
    facts = [
        *_what(config, files, predicted),
        *_weights(report),
        *_data(config.data.id, report),
        Fact("steps", _steps(config, predicted.estimate, report)),
        *_packing(config, files, report),
        Fact("optimizer", f"{optimizer}, learning rate {rate(train.learning_rate)}, {schedule}"),
        Fact("eval", _evaluation(config, report)),
        *_memory(predicted, context.budget, report.longest),
        _disk(*space, context.runs),
    ]
    problems = list(_problems({method_title(config.method): predicted}, files, context, report, space, chosen.notices))
    title, method = config.title or name, method_title(config.method)
    title = title if title.startswith(method) else f"{title} · {method}"
    return LaunchPreview(title, facts, problems, when_it_starts(context))


def ladder_preview(plan: LadderPlan, context: LaunchContext, report: DataCheck) -> LaunchPreview:
    """Preview of a ladder, which runs its rungs one after another."""
    first = plan.rungs[0].config
    files = find_model(first.model)
    predictions = [method_estimate(rung.config, files, context.budget, report.longest) for rung in plan.rungs]
    rates = (f"{rung.name} {rate(rung.config.train.learning_rate)} ({rung.rate_origin})" for rung in plan.rungs)
    facts = [
        *_what(first, files, None),
        *_data(first.data.id, report),
        Fact("rungs", describe_plan(plan)),
        Fact("rates", ", ".join(rates)),
        Fact("steps", f"{_steps(first, None, report)}; the same for all rungs"),
        *_packing(first, files, report),
        Fact("eval", _evaluation(first, report)),
    ]
    facts += _weights(report, [rung.name for rung in plan.rungs])
    for rung, predicted in zip(plan.rungs, predictions, strict=True):
        facts += _memory(predicted, context.budget, report.longest, rung.name, parts=False)
    space = disk_space([rung.config for rung in plan.rungs], context.runs, context.budget)
    facts.append(_disk(*space, context.runs))
    titles = [method_title(rung.name) if rung.name == rung.method else rung.name for rung in plan.rungs]
    named = dict(zip(titles, predictions, strict=True))
    problems = list(_problems(named, files, context, report, space, plan.notices))
    return LaunchPreview(f"ladder of {preset_name(plan.preset)}", facts, problems, when_it_starts(context))


def _problems(
    predictions: Mapping[str, MethodEstimate],
    files: ModelFiles,
    context: LaunchContext,
    report: DataCheck,
    space: tuple[int | None, int],
    notices: Sequence[Notice],
) -> Iterator[LaunchProblem]:
    """Everything wrong with runs of these titles and predictions, which train on the same data."""
    known = list(predictions.values())
    configs = [predicted.config for predicted in known if predicted.config]
    config = configs[0]
    try:
        find_continued_run(config)
    except UserError as error:
        yield LaunchProblem(error.problem, error.hint, blocking=True, code=error.code)
    if files.wrong:
        hint = f"`ftbench pull {config.model.id}`, or give a folder" if files.fetch else "check model.id"
        yield LaunchProblem(f"model {config.model.id}: {files.wrong}", hint, blocking=True, code="model.unusable")
    elif files.fetch:
        text = f"model {config.model.id} will be downloaded first"
        yield LaunchProblem(text, "requires network access", code="model.download")

    if report.error:
        yield LaunchProblem(report.error, blocking=True, code="data.check_failed")
    if report.answer is not None:
        if report.answer["refused"]:
            yield LaunchProblem(f"cannot train: {report.answer['refused']}", blocking=True, code="data.refused")
        warnings = DataReport.of(report.answer).warnings
        for notice, line in zip(warnings, warning_lines(warnings), strict=True):
            yield LaunchProblem(line.text, code=notice.code)

    for trained, weights in zip(configs, report.weights, strict=False):
        if weights.refused:
            yield LaunchProblem(weights.refused, blocking=True, code="model.refused")
        if weights.account and (text := left_out_warning(weights.account, method_spec(trained.method))):
            yield LaunchProblem(text, code=LEFT_OUT)
    yield from memory_problems(known, files, context)
    yield from adapter_problems(known, list(predictions), report)

    existing, (needed, free) = nearest_existing(context.runs), space
    if not os.access(existing, os.W_OK):
        yield LaunchProblem(f"cannot write to {existing}", "start ftbench with --runs DIR", True, "runs.not_writable")
    for notice in home_warnings(context.runs):
        yield LaunchProblem(notice.text, code=notice.code)
    if too_small := small_disk_error(needed, free, context.runs):
        yield LaunchProblem(f"{too_small.problem}: {too_small.location}", too_small.hint, True, too_small.code)
    elif low := low_disk_notice(needed, free, context.runs):
        yield LaunchProblem(low.text, code=low.code)

    for other in context.foreign:
        used = f" ({size(other.bytes)})" if other.bytes else ""
        text = f"process {other.pid} {other.name}{used} is using the GPU: measured time and memory will include it"
        yield LaunchProblem(text, "stop it, or measure later", code="gpu.in_use")
    for notice in notices:
        yield LaunchProblem(notice.text, code=notice.code)


def _what(config: Config, files: ModelFiles, predicted: MethodEstimate | None) -> Iterator[Fact]:
    if config.model.id == EMBEDDED:
        where = "shipped with ftbench"
    else:
        where = f"downloaded from the Hub: {files.fetch}" if files.fetch else str(files.folder or "")
    yield Fact("model", config.model.id if where == config.model.id else f"{config.model.id}  {where}")
    if config.model.from_run:
        part = "weights" if method_spec(config.method).trains_weights else "adapter"
        yield Fact("start", f"the {part} of {continued_run_name(config)}")
    if predicted:
        share = ""
        if predicted.estimate:
            total, trainable = predicted.estimate.parameters, predicted.estimate.trainable
            share = f"; {count(trainable)} trainable parameters ({share_percent(trainable / total)} of {count(total)})"
        yield Fact("method", f"{method_title(config.method)}: {method_spec(config.method).trains_summary}{share}")


def _weights(report: DataCheck, rungs: Sequence[str] = ()) -> Iterator[Fact]:
    """Use of the weights, of several rungs in a line each; nothing if only loading the model can tell."""
    if report.awaits_details:
        yield Fact("weights", "counting …")
    accounts = [weights.account for weights in report.weights][: len(rungs) or None]  # the check may be of more rungs
    for number, account in enumerate(accounts):
        if account and rungs:
            yield Fact("" if any(accounts[:number]) else "weights", f"{rungs[number]}: {summarize_model(account)}")
        elif account:
            yield Fact("weights", summarize_model(account))
            for part, use in account_lines(account):
                yield Fact("", f"{part}: {use}", "$foreground-muted")


def _data(name: str, report: DataCheck) -> Iterator[Fact]:
    """How columns and rows are used, once the data check is done."""
    if report.answer is None:
        progress = f"preparing … {report.progress}".rstrip()
        state = "cannot be used" if report.error else progress if report.running else "not checked"
        yield Fact("data", f"{name}  {state}")
        return
    known = DataReport.of(report.answer)
    yield Fact("data", f"{name}  {report.answer['format']}")
    yield Fact("columns", summarize_columns(known.columns))
    if known.data_usage:
        yield Fact("rows", summarize_rows(known.data_usage))
    for pair, split_overlap in known.overlap.items():
        if pair == "test/train" or split_overlap.prompt or split_overlap.near:
            yield Fact("overlap", overlap_in_short(pair, split_overlap))


def _steps(config: Config, estimate: MemoryEstimate | None, report: DataCheck) -> str:
    """`200 (2 epochs), batch size 16 (micro-batch 8)`."""
    train, rows = config.train, report.rows.get("train")
    planned_steps = training_steps(config, rows)
    steps = f"{planned_steps:,}" if planned_steps else "?"
    if not train.steps:
        steps += f" ({train.epochs:g} epoch{'s' if train.epochs != 1 else ''})"
    elif rows:
        steps += f" ({train.steps / math.ceil(rows / train.batch):.3g} epochs)"
    words = f"{steps}, batch size {train.batch}"
    if train.devices > 1:
        words += f" on {train.devices} devices"
    if estimate:
        words += f" (micro-batch {estimate.micro_batch})"
        if estimate.gradient_checkpointing:
            words += f", activation checkpointing of {describe_checkpointing(estimate.gradient_checkpointing)}"
    return words


def _packing(config: Config, files: ModelFiles, report: DataCheck) -> Iterator[Fact]:
    """What shared prefixes save; without them, why rows of this model are padded or first checked."""
    if report.sharing:
        yield Fact("packing", report.sharing)
        return
    for note in packing_notes(config, files.table) if files.table else ():
        yield Fact("packing", note)


def _evaluation(config: Config, report: DataCheck) -> str:
    evaluation = config.evaluation
    if evaluation.when == "never":
        return "none"
    if report.rows.get("test") == 0:
        return "none: no test rows, so the run is not evaluated"
    usage = DataReport.of(report.answer).data_usage if report.answer else None
    items = usage and usage.test_items
    scored = min(items, evaluation.rows or items) if items else evaluation.rows
    answer = report.answer or {}
    metric = metric_text(answer.get("metric") or evaluation.metric, answer.get("metric_reason", ""))
    when = {"both": "before and after", "after": "after"}[evaluation.when]
    return f"{when} training, {amount(scored, 'test item') if scored else 'all test items'}, {metric}"


def _memory(
    predicted: MethodEstimate,
    budget: MemoryBudget | None,
    longest: int | None,
    name: str = "memory",
    parts: bool = True,
) -> Iterator[Fact]:
    estimate = predicted.estimate
    if estimate is None or budget is None:
        yield Fact(name, predicted.why, "$foreground-muted")
        return
    rows = f"rows of {estimate.rows.length} tokens" + ("" if longest else ", the preset's max_length")
    head = f"{size(predicted.peak)} of {size(budget.total)} ({budget.name})"
    saved = f" with {predicted.savings}" if predicted.savings else ""
    yield Fact(name, f"{head}: {predicted.fit}{saved}", STYLES[predicted.fit])
    if not parts:
        return
    error = f"formula, ±{error_of('formula', estimate.device).worst:.0%}"
    yield Fact("", f"{error}; {rows}", "$foreground-muted")
    training = estimate.device == "cuda" or estimate.training.total >= estimate.evaluation.total  # as in `peak`
    peak = estimate.training if training else estimate.evaluation
    moment = "peak in training: " if training else "peak in evaluation: "
    inside = [f"{part} {size(peak.parts[part])}" for part in PARTS if part in peak.parts]
    overhead = f" · Python and libraries {size(budget.process_overhead)}" if budget.process_overhead else ""
    yield Fact("", moment + " · ".join(inside) + overhead, "$foreground-muted")


def _disk(needed: int | None, free: int, runs: Path) -> Fact:
    about = f"about {size(needed)}" if needed is not None else "unknown"
    return Fact("disk", f"{about} for checkpoints and model (estimated); {size(free)} free in {runs}")


def when_it_starts(context: LaunchContext) -> str:
    """`at once`, also beside other processes, or which run it waits for."""
    running = [turn for turn in context.turns if turn.place == 0]
    waiting = len({turn.pid for turn in context.turns if turn.place})  # one can wait for several devices
    if len(running) < context.devices and not waiting:
        beside = f"; {amount(len(context.foreign), 'other process')} on it" if context.foreign else ""
        return f"at once, {'a device' if running else 'the device'} is free of runs{beside}"
    names = ", ".join(turn.run.name for turn in running) or "a run that is about to start"
    more = f" and {amount(waiting, 'queued run')}" if waiting else ""
    return f"waits for {names}{more}"
