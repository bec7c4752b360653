"""Results of `peers.py`: a Markdown table, with machine, settings and versions."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

OURS = "ftbench"
MIB = 2**20


@dataclass(frozen=True)
class Run:
    """One process and its measurement, or the reason of its failure."""

    method: str
    tool: str
    round: int
    measured: dict[str, Any] | None
    error: str = ""


def step_seconds(run: dict[str, Any], warmup: int) -> float:
    """The median step after the warm-up."""
    return float(median(run["seconds"][warmup:]))


def token_rate(run: dict[str, Any], warmup: int) -> float:
    """Tokens without padding per second: the median over the steps after the warm-up."""
    rates = [tokens / seconds for tokens, seconds in zip(run["tokens"], run["seconds"], strict=True)]
    return float(median(rates[warmup:]))


def training_peak(run: dict[str, Any], warmup: int) -> float:
    """Highest resident set while training, on a GPU the peak reserved by torch's allocator, MiB."""
    return float(run["peak_training"] / MIB)


def row_loss(run: dict[str, Any], rows: int) -> float:
    """Loss of the first step in nats per row: comparable even if one tool has one more easy token in the loss."""
    return float(run["losses"][0] * run["answer_tokens"][0] / rows)


def progress(run: Run, warmup: int) -> str:
    """One progress line per measurement."""
    text = run.error
    if run.measured:
        seen = run.measured
        text = f"{step_seconds(seen, warmup):.2f} s/step, {seen['peak_training'] / MIB:.0f} MiB"
        text += f", loss {seen['losses'][0]:.4f}"
    return f"round {run.round + 1}  {run.method:5}  {run.tool:20}  {text}"


def report(options: argparse.Namespace, names: list[str], runs: list[Run]) -> list[str]:
    """The table in Markdown, and the measurement conditions."""
    peak = "peak reserved on the GPU" if options.gpu else "peak RSS"
    lines = [
        f"{options.workload}: median of {options.rounds} (lowest–highest); × is the ratio to {OURS}",
        "",
        f"| method | tool | s/step | × | tokens/s | × | {peak}, training, MiB | × "
        "| whole process | loss, first → last | first, nats/row | tokens/step | in the loss | weights |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in options.methods:
        good = {tool: measured(runs, method, tool) for tool in names}
        for tool in names:
            reasons = [run.error for run in runs if (run.method, run.tool) == (method, tool) and run.error]
            if good[tool]:
                lines.append(row(options, method, tool, good[tool], good.get(OURS, [])))
            if reasons:
                shown = reasons[-1].replace("|", "\\|")
                lines.append(f"| {method} | {tool} | failed {len(reasons)} × | {shown} |" + " |" * 10)
    return [*lines, "", *conditions(options, names, runs)]


def measured(runs: list[Run], method: str, tool: str) -> list[dict[str, Any]]:
    """The measurements of one cell."""
    return [run.measured for run in runs if (run.method, run.tool) == (method, tool) and run.measured]


def row(
    options: argparse.Namespace,
    method: str,
    tool: str,
    seen: list[dict[str, Any]],
    ours: list[dict[str, Any]],
) -> str:
    """One line of the table."""
    cells = [method, tool]
    for quantity, form in ((step_seconds, ".2f"), (token_rate, ".0f"), (training_peak, ".0f")):
        values, reference = ([quantity(run, options.warmup) for run in group] for group in (seen, ours))
        cells += compared(values, reference, form)
    cells += [spread([run["peak_process"] / MIB for run in seen], ".0f")]
    last = seen[-1]
    cells += [f"{last['losses'][0]:.4f} → {last['losses'][-1]:.4f}", f"{row_loss(last, options.batch):.2f}"]
    cells += [f"{sum(last[name]) / len(last['seconds']):.1f}" for name in ("tokens", "answer_tokens")]
    return "| " + " | ".join([*cells, last["dtype"]]) + " |"


def compared(values: list[float], ours: list[float], form: str) -> list[str]:
    """The spread of values, and the ratio of their median to ftbench's."""
    return [spread(values, form), f"{median(values) / median(ours):.2f}" if ours else "–"]


def spread(values: list[float], form: str) -> str:
    """Median and range."""
    return f"{median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def conditions(options: argparse.Namespace, names: list[str], runs: list[Run]) -> list[str]:
    """Machine, settings, versions, command."""
    gpu = f"{gpu_name()}, " if options.gpu else ""
    lines = [
        f"Machine: {gpu}{cpu_name()}, {os.cpu_count()} logical cores, {memory()} GiB, {platform.platform()}.",
        f"Settings: {options.steps} steps, {options.warmup} of them warm-up; batch size {options.batch} in "
        f"one micro-batch; at most {options.max_length} tokens per row; AdamW, constant rate; adapters of rank 16, "
        f"alpha 32, on all linear layers; full in {options.full_precision}.",
    ]
    for tool in names:
        seen = next((run.measured for run in runs if run.tool == tool and run.measured), None)
        if seen:
            versions = ", ".join(f"{name} {number}" for name, number in seen["versions"].items())
            lines.append(f"{tool}: {versions}; {seen['threads']} threads.")
    return [*lines, f"Command: `{shlex.join(['python', *sys.argv])}`"]


def gpu_name() -> str:
    """Name of the first GPU."""
    import torch

    return str(torch.cuda.get_device_name(0))


def cpu_name() -> str:
    """CPU model as reported by the kernel."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory() -> int:
    """Memory of the machine in GiB."""
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
