"""Problems found before a run or ladder starts, each with a suggested fix."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config.errors import UserError
from engine.config.lora_advice import TrainedRung, lora_notices
from engine.config.method_specs import method_title, smaller_methods
from engine.config.model_files import ModelFiles
from engine.config.quantities import size
from engine.config.schema import Config
from engine.memory.formula.disk_space import low_disk_notice, small_disk_error
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.remedies import changes
from engine.runs.continued_run import find_continued_run
from engine.runs.home import home_warnings, nearest_existing
from tui.data_report import DataReport, warning_lines
from tui.preview.disk import free_disk, needed_disk
from tui.preview.launch_context import DataCheck, LaunchContext
from tui.preview.method_estimate import MethodEstimate, resolved_query


@dataclass(frozen=True)
class LaunchProblem:
    """A problem and a suggested fix."""

    text: str
    do: str = ""
    blocking: bool = False
    """Whether the run would fail."""
    code: str = ""
    """Stable dotted name, as in errors and warnings."""


def model_problems(config: Config, files: ModelFiles) -> Iterator[LaunchProblem]:
    """A model that is missing or has to be downloaded, and a run to start from that does not match."""
    try:
        find_continued_run(config)
    except UserError as error:
        yield LaunchProblem(error.what, error.do, blocking=True, code=error.code)
    if files.wrong:
        do = f"`ftbench pull {config.model.id}`, or give a folder" if files.fetch else "check model.id"
        yield LaunchProblem(f"model {config.model.id}: {files.wrong}", do, blocking=True, code="model.unusable")
    elif files.fetch:
        text = f"model {config.model.id} will be downloaded first"
        yield LaunchProblem(text, "requires network access", code="model.download")


def data_problems(config: Config, report: DataCheck) -> Iterator[LaunchProblem]:
    """Errors and warnings of the data check, each warning with its code."""
    if report.error:
        yield LaunchProblem(report.error, blocking=True, code="data.check_failed")
    if report.answer is None:
        return
    if report.answer["refused"]:
        yield LaunchProblem(f"cannot train: {report.answer['refused']}", blocking=True, code="data.refused")
    warnings = DataReport.of(report.answer).warnings
    for notice, line in zip(warnings, warning_lines(warnings), strict=True):
        yield LaunchProblem(line.text, code=notice.code)


def adapter_problems(
    found: Sequence[MethodEstimate], titles: Sequence[str], report: DataCheck
) -> Iterator[LaunchProblem]:
    """Settings of adapters that are known to cost quality; learning rates are compared where full is among them."""
    lengths = (report.answer or {}).get("lengths", {}).get("train", {})
    rungs = {
        title: TrainedRung.of(one.config, one.estimate.trainable if one.estimate else None, lengths.get("answer_total"))
        for title, one in zip(titles, found, strict=True)
        if one.config
    }
    yield from (LaunchProblem(notice.text, code=notice.code) for notice in lora_notices(rungs))


def memory_problems(
    found: Sequence[MethodEstimate], files: ModelFiles, context: LaunchContext
) -> Iterator[LaunchProblem]:
    """Methods that fit tightly or not at all, by the formula."""
    for one in found:
        if one.estimate is None or context.budget is None or one.fit not in ("tight", "does not fit"):
            continue
        title = method_title(one.method)
        what = f"{title} {'is a tight fit' if one.fit == 'tight' else 'does not fit'} (estimated): "
        used = f", {size(context.budget.used)} of it in use by others" if context.budget.used else ""
        what += f"{size(one.peak)} of {size(context.budget.total)}{used}"
        code = "memory.tight" if one.fit == "tight" else "memory.does_not_fit"
        yield LaunchProblem(what, _remedies(one, files, context.budget), code=code)


def _remedies(one: MethodEstimate, files: ModelFiles, budget: MemoryBudget) -> str:
    """Settings that make it fit by the formula, and methods that need less memory."""
    smaller = smaller_methods(one.method)
    if one.fit == "tight" or one.estimate is None or one.config is None or files.table is None:
        return f"if it runs out of memory, reduce train.micro_batch or train.max_length, or use {smaller}"
    ways = changes(resolved_query(one.config, files.table, one.estimate.rows, budget))
    words = [
        " and ".join(f"{key} = {str(value).lower()}" for key, value in way.settings.items()) + f" ({size(way.peak)})"
        for way in ways
    ]
    return ", or ".join([*words, smaller])


def disk_problems(found: Sequence[MethodEstimate], runs: Path) -> Iterator[LaunchProblem]:
    """A runs directory that is not writable, or too little disk space."""
    existing = nearest_existing(runs)
    if not os.access(existing, os.W_OK):
        yield LaunchProblem(f"cannot write to {existing}", "start ftbench with --runs DIR", True, "runs.not_writable")
    for notice in home_warnings(runs):
        yield LaunchProblem(notice.text, code=notice.code)
    if error := small_disk_error(needed_disk(found), free_disk(runs), runs):
        yield LaunchProblem(f"{error.what}: {error.where}", error.do, True, error.code)
    elif low := low_disk_notice(needed_disk(found), free_disk(runs), runs):
        yield LaunchProblem(low.text, code=low.code)


def foreign_problems(context: LaunchContext) -> Iterator[LaunchProblem]:
    """GPU processes that are not ftbench runs."""
    for other in context.foreign:
        used = f" ({size(other.bytes)})" if other.bytes else ""
        yield LaunchProblem(
            f"process {other.pid} {other.name}{used} is using the GPU: measured time and memory will include it",
            "stop it, or measure later",
            code="gpu.in_use",
        )
