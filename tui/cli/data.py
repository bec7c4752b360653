"""`data check` and `data show`: rows as they are prepared for training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.config.quantities import share_percent
from engine.config.text import amount, visible
from engine.runs.rpc_client import ask
from engine.runs.run.usage import SPLITS
from tui.cli import options
from tui.cli.progress import shown_progress
from tui.data_report import (
    DataReport,
    ReportLine,
    check_arguments,
    metric_lines,
    repeat_lines,
    result_line,
    usage_lines,
    warning_lines,
)
from tui.output.console import console, print_json, say

NAME_WIDTH = 12
"""Columns of a line's name."""
STYLES = {"good": "green", "warning": "yellow", "error": "red"}


def check(
    data: options.DataName,
    model: options.Model = None,
    preset: options.Preset = "demo-lora",
    settings: options.Set = None,
    json: options.Json = False,
) -> int:
    """Print the report. Returns 0 where a run would start, 2 where it would be refused."""
    with shown_progress(json) as (progress, counted):
        question = _question(data, model, preset, settings)
        report = ask("data.check", question, progress, counted=counted)
    if json:
        print_json(report)
    else:
        width = max(20, console.width - NAME_WIDTH) if console.is_terminal else 1_000_000
        for line in report_lines(report):
            for number, text in enumerate(line.wrapped(width)):  # with a hanging indent
                say(f"{'' if number else line.name:<{NAME_WIDTH}}{text}", STYLES.get(line.style, ""))
    return 2 if report["refused"] else 0


def show(
    data: options.DataName,
    model: options.Model = None,
    preset: options.Preset = "demo-lora",
    settings: options.Set = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=1000, help="Number of rows.")] = 3,
    split: Annotated[str, typer.Option("--split", help="Split: train, validation or test.")] = "train",
    json: options.Json = False,
) -> None:
    """Print rows token by token; tokens in the loss are green and underlined, in a pipe enclosed in brackets.

    Raises UserError where no row of the split can be shown.
    """
    with shown_progress(json) as (progress, counted):
        question = _question(data, model, preset, settings)
        samples = ask("data.show", {**question, "rows": rows, "split": split}, progress, counted=counted)
        if not samples:
            raise _nothing_to_show(ask("data.check", question), question["data"]["id"], split)
    if json:
        print_json(samples)
        return
    for sample in samples:
        head = f"── {sample['where']} · {amount(len(sample['tokens']), 'token')}, {sample['loss_tokens']:,} in the loss"
        console.print(Text(visible(head), style="bold"), soft_wrap=True)
        line, inside = Text(), False
        for token in [*sample["tokens"], {"text": "", "trained": False, "special": False}]:
            if not console.is_terminal and token["trained"] != inside:
                line.append("[" if token["trained"] else "]")
                inside = token["trained"]
            style = "green underline" if token["trained"] else "dim" if token["special"] else ""
            for number, part in enumerate(token["text"].split("\n")):
                if number:
                    line.append("⏎\n", style="dim")  # a symbol, and it breaks the line
                line.append(visible(part), style=style)
        console.print(line, soft_wrap=True)
        for note in sample["notes"]:
            say(f"   note: {note}", "yellow")


def _question(data: str, model: str | None, preset: str, settings: list[str] | None) -> dict[str, Any]:
    given = options.overrides(settings, model=model, data=data)
    return check_arguments(resolve_preset(preset, None, given).config)


def _nothing_to_show(report: dict[str, Any], data: str, split: str) -> UserError:
    """The error for a split without usable rows: how many were left out and why."""
    lost = report["data_usage"]["left_out"]
    if report["rows"][split] or not lost:
        splits = " or ".join(name for name, count in report["rows"].items() if count)
        hint = f"use --split {splits}" if splits else "`ftbench data check` shows the report"
        return UserError(f"no {split} rows", data, hint, "data.no_rows")
    reasons = "; ".join(
        f"{reason['rows']:,} {reason['reason']} (first: {reason['where'][0]})" for reason in lost.values()
    )
    total = amount(sum(reason["rows"] for reason in lost.values()), "row")
    problem = f"no usable {split} rows: {total} left out: {reasons}"
    return UserError(problem, data, "`ftbench data check` shows the report", "data.all_rows_refused")


def report_lines(report: dict[str, Any]) -> Iterator[ReportLine]:
    """The report of a data check: facts, then warnings, then whether a run would start."""
    known = DataReport.of(report)
    yield ReportLine("data", report["source"])
    yield from (ReportLine("", note) for note in report["notes"])
    yield ReportLine("format", report["why"])
    yield ReportLine("template", report["template"])
    yield from usage_lines(known)
    yield from (ReportLine("" if number else "split", text) for number, text in enumerate(report["split"]))
    yield from metric_lines(report)
    for number, name in enumerate(name for name in SPLITS if name in report["lengths"]):
        lengths = report["lengths"][name]
        tokens = f"{report['tokens'][name]:,} tokens, {report['loss_tokens'][name]:,} in the loss"
        length = lengths["tokens"]
        spread = f"per row: median {length['p50']:,}, p99 {length['p99']:,}, max {length['max']:,}"
        cut = f"; max_length {report['max_length']:,} truncates {share_percent(lengths['answers_cut'])} of the answers"
        text = f"{name}: {tokens}; {spread}{cut if lengths['answers_cut'] else ''}"
        yield ReportLine("" if number else "tokens", text)
    yield from repeat_lines(report)
    yield ReportLine("fingerprint", report["fingerprint"])
    yield from warning_lines(known.warnings)
    yield result_line(report)
