"""A plan as text for the terminal: memory bars, a table, and the changes that make a method fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.text import Text

from engine.config.method_specs import method_title
from engine.config.quantities import size
from engine.config.schema import Config
from engine.config.text import visible
from engine.memory.formula.history import TierAccuracy, TimeEstimate
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import MemoryPlan, MethodPlan
from tui.charts.bars import legend, memory_bar
from tui.output.streams import SUBSTITUTES
from tui.preview.plan_words import (
    about_budget,
    about_rows,
    accuracy_notes,
    bar_components,
    change_words,
    heading,
    peak,
    shortfall,
    table_rows,
)

STYLES = {"fits": "green", "tight": "yellow", "does not fit": "red"}
LEFT = 31
"""Columns before a bar: method, peak, whether it fits."""
LABEL, CELL = 20, 19
COSTS = 20
"""Columns before a change's settings."""
ONE_RUN = "one finished run; the range covers the middle 80% of its steps"
BOUND = "≥: lower bound by the GPU's peak FLOP/s and memory bandwidth; real runs take longer"
BOLD_ROWS = ("training peak", "headroom")


class PlanView:
    """Formats a plan for a terminal of `width` columns."""

    def __init__(self, width: int, colored: bool, ascii_only: bool) -> None:
        self.width, self.colored, self.ascii = width, colored, ascii_only

    def lines(
        self,
        plan: MemoryPlan,
        config: Config,
        preset: str,
        times: Mapping[str, TimeEstimate],
        here: Sequence[TierAccuracy],
    ) -> Iterator[Text]:
        """The complete plan. `here` is the accuracy of earlier plans on this machine."""
        yield from self.bars(plan, config, preset)
        yield Text()
        yield from self.table(plan, times)
        yield from self.unknown(times)
        for method_plan in plan.methods:
            yield from self.changes(method_plan, plan.budget)
        yield Text()
        for line in [*plan.notes, *accuracy_notes(plan, here)]:
            yield self.text(line, "dim")

    def bars(self, plan: MemoryPlan, config: Config, preset: str) -> Iterator[Text]:
        """Preset, rows and budget, then one bar per method."""
        yield self.text(heading(config, preset), "bold")
        yield self.text(about_rows(plan, config))
        yield self.text(about_budget(plan.budget))
        yield Text()
        present: dict[str, int] = {}
        for method_plan in plan.methods:
            parts = bar_components(method_plan, plan.budget)
            present |= {name: used for name, used in parts.items() if used}
            line = Text(f"{method_title(method_plan.method):<7}{size(peak(method_plan).total):>9}  ")
            line.append(f"{method_plan.fit:<13}", style=STYLES[method_plan.fit])
            bars = max(10, min(self.width - LEFT - 1, 100))
            yield line + memory_bar(parts, plan.budget.total, bars, self.colored, self.ascii)
            if method_plan.refused:
                yield self.text(f"       formula: {method_plan.refused}", "yellow")
        yield Text()
        yield from legend(present, self.width, self.colored)

    def table(self, plan: MemoryPlan, times: Mapping[str, TimeEstimate]) -> Iterator[Text]:
        """The table, one column per method."""
        names = [method_title(method_plan.method) for method_plan in plan.methods]
        yield self.text(f"{'':<{LABEL}}" + "".join(f"{name:>{CELL}}" for name in names), "bold")
        for label, cells in table_rows(plan, times):
            text = f"{label:<{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)
            yield self.text(text.rstrip(), "bold" if label in BOLD_ROWS else "")

    def unknown(self, times: Mapping[str, TimeEstimate]) -> Iterator[Text]:
        """Where time and cost estimates come from, or why they are unknown."""
        unknown: dict[str, list[str]] = {}
        for method, time in times.items():
            if time.why:
                unknown.setdefault(time.why, []).append(method_title(method))
        for why, methods in unknown.items():
            yield self.text(f"training time of {', '.join(methods)}: {why}", "dim")
        if any(time.at_least is not None for time in times.values()):
            yield self.text(BOUND, "dim")
        known = [time for time in times.values() if time.seconds is not None]
        for runs, what in dict.fromkeys((time.runs, time.what) for time in known):
            source = f"{runs} finished runs; the range covers them" if what == "runs" else ONE_RUN
            yield self.text(f"training time: all steps, without evaluation; estimated from {source}", "dim")
        for why in dict.fromkeys(time.why_no_cost for time in known if time.why_no_cost):
            yield self.text(f"cost: {why}", "dim")

    def changes(self, method_plan: MethodPlan, budget: MemoryBudget) -> Iterator[Text]:
        """Changes that make one method fit, smallest first."""
        if method_plan.fit != "does not fit":
            return
        found = method_plan.changes
        when = "" if peak(method_plan) is method_plan.best.training else " in evaluation"
        lacks = f"{method_title(method_plan.method)} exceeds the budget by {size(shortfall(method_plan, budget))}{when}"
        yield Text()
        if not found:
            yield self.text(f"{lacks}; no known change makes it fit.", "bold")
        else:
            several = "one of these, smallest change first" if len(found) > 1 else "all of these"
            how = f"use {several}" if len(found) > 1 or len(found[0].settings) > 1 else "use"
            yield self.text(f"{lacks}. To make it fit, {how}:", "bold")
        for change in found:
            line = Text(f"  {size(change.peak):>9}  ")
            line.append(f"{change.fit:<7}", style=STYLES[change.fit])
            for setting, costs in change_words(change, method_plan):
                line.append(visible(setting))
                if line.cell_len + 2 + len(costs) > self.width:
                    yield line
                    line = Text(" " * (COSTS + 2))
                yield line + self.text(f"  {costs}" if line.plain.strip() else costs, "dim")
                line = Text(" " * COSTS)
        if method_plan.listed_gpu:
            yield self.text(
                f"  unchanged: fits on {method_plan.listed_gpu}, the cheapest listed GPU with enough memory"
            )

    def text(self, text: str, style: str = "") -> Text:
        """Text with control characters visible; without style on a terminal without colors, in ASCII with --ascii."""
        shown = visible(text)
        if self.ascii:
            shown = shown.translate(SUBSTITUTES)
        return Text(shown, style=style if self.colored else "")
