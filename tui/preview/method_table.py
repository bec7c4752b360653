"""Table of all methods: trainable parameters, memory by component, settings, and when to use which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from textual.content import Content

from engine.config.errors import UserError
from engine.config.method_specs import method_spec, method_title, readers
from engine.config.preset import flatten
from engine.config.quantities import count, size
from engine.config.text import visible
from engine.memory.formula.estimate import PARTS
from engine.memory.formula.memory_budget import MemoryBudget
from tui.format import setting
from tui.preview.method_estimate import STYLES, MethodEstimate, error_label
from tui.selection import NOT_COMPARED, Selection

LABEL, COLUMN = 16, 15


def methods_text(selection: Selection, found: Sequence[MethodEstimate], budget: MemoryBudget | None) -> Content:
    """The table as one text, 60 columns wide."""
    lines = [*_memory(found, budget), Content(""), *_settings(selection, found), Content(""), *_why(found)]
    return Content("\n").join(lines)


def _memory(found: Sequence[MethodEstimate], budget: MemoryBudget | None) -> Iterator[Content]:
    yield _row("", [method_title(one.method) for one in found], "bold")
    estimates = [one.estimate for one in found]
    yield _row("trainable", [count(one.trainable) if one else "–" for one in estimates])
    yield _row("parameters", [count(one.parameters) if one else "–" for one in estimates], "$foreground-muted")
    for part in PARTS:
        if any(one and part in one.training.parts for one in estimates):
            sizes = [one.training.parts.get(part) if one else None for one in estimates]
            yield _row(part, [size(found) if found else "–" for found in sizes])
    yield _row("training", [size(one.training.total) if one else "–" for one in estimates])
    yield _row("evaluation", [size(one.evaluation.total) if one else "–" for one in estimates])
    if budget is not None and budget.process_overhead:
        overhead = [size(budget.process_overhead) if one else "–" for one in estimates]
        yield _row("Python, torch", overhead, "$foreground-muted")
    yield _row("process peak", [size(one.peak) for one in found], "bold")
    fits = [Content.styled(f"{one.fit:<{COLUMN}}", STYLES[one.fit]) for one in found]
    yield Content.assemble((f"{'fit':<{LABEL}}", "$foreground-muted"), *fits)
    yield _row("micro-batch", [f"{one.micro_batch}" if one else "–" for one in estimates], "$foreground-muted")
    length = next((one.rows.length for one in estimates if one), None)
    if budget is not None and length is not None:
        taken = f", about {size(budget.used)} of it in use by others" if budget.used else ""
        by = f"Estimated by {error_label(found)}, rows of {length} tokens."
        text = f"Budget: {size(budget.total)} ({budget.name}){taken}. {by}"
        yield Content.styled(visible(text), "$foreground-muted")
    yield from _explained(budget)
    for why in dict.fromkeys(one.why for one in found if one.why):
        yield Content.styled(visible(why), "$text-warning")


def _explained(budget: MemoryBudget | None) -> Iterator[Content]:
    """What each figure of memory means and where it is measured."""
    if budget is None:
        return
    cpu = budget.process_overhead > 0
    measured = "resident set of its process" if cpu else "GPU memory of its process, by NVML"
    added = "plus Python, torch and other libraries" if cpu else "plus the CUDA context"
    later = "; the process grows further during training" if cpu else ""
    for name, text in (
        ("training, evaluation", "tensors at the peak of each phase; `ftbench plan` and results use these figures"),
        ("process peak", f"the {'larger of the two' if cpu else 'training peak'}, {added}"),
        ("predicted peak", "the process peak in the method list, on the launch screen and in the machine pane"),
        ("memory probe", f"the process at the longest training batch, measured before the first step{later}"),
        ("this run", f"{measured}, measured once a second"),
    ):
        yield Content.assemble((f"{name}: ", "$foreground-muted"), text)


def _settings(selection: Selection, found: Sequence[MethodEstimate]) -> Iterator[Content]:
    """Settings in which the methods differ, because each has its own defaults."""
    flats = []
    for one in found:
        try:
            flats.append(flatten(selection.with_method(one.method).effective().config))
        except UserError as error:
            yield Content.styled(visible(error.line), "$text-error")
            return
    yield Content.styled("settings", "bold")
    for key in flats[0]:
        values = [flat[key] if one.method in readers(key) else "–" for one, flat in zip(found, flats, strict=True)]
        if key not in (*NOT_COMPARED, "method") and any(value != values[0] for value in values):
            name = key.rpartition(".")[2] if len(key) >= LABEL else key
            yield _row(name, [setting(value) for value in values])


def _why(found: Sequence[MethodEstimate]) -> Iterator[Content]:
    for one in found:
        yield Content.assemble((f"{method_title(one.method)}  ", "bold"), method_spec(one.method).description)


def _row(name: str, values: Sequence[str], style: str = "") -> Content:
    cells = "".join(f"{visible(value, COLUMN - 1):<{COLUMN}}" for value in values)
    return Content.assemble((f"{name:<{LABEL}}", "$foreground-muted"), (cells, style))
