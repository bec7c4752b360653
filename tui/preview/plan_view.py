"""A plan on the terminal: bars against the card, the table below them, and what would make a method fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.text import Text

from engine.config.method_specs import method_title
from engine.config.schema import Config
from engine.config.text import visible
from engine.memory.formula.history import TierAccuracy, TimeEstimate
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import MemoryPlan, MethodPlan
from tui.charts.plan_bar import bar, legend
from tui.format import size
from tui.preview.plan_words import (
    about_room,
    about_rows,
    change_words,
    drawn,
    heading,
    lacking,
    peak,
    table_rows,
    worth,
)

STYLES = {"fits": "green", "tight": "yellow", "does not fit": "red"}
LEFT = 31
"""Cells before a bar: method, peak, verdict."""
LABEL, CELL = 20, 19
COSTS = 20
"""Cells before a change's settings."""
ONE_RUN = "one finished run here, the range is that of the middle four fifths of its steps"
STRONG = ("training, peak", "left free")


class View:
    """Lines of a plan for a terminal of some width."""

    def __init__(self, width: int, coloured: bool, ascii_only: bool) -> None:
        self.width, self.coloured, self.ascii = width, coloured, ascii_only

    def whole(
        self,
        plan: MemoryPlan,
        config: Config,
        preset: str,
        times: Mapping[str, TimeEstimate],
        here: Sequence[TierAccuracy],
    ) -> Iterator[Text]:
        """Everything. `here`: how good plans have been on this machine."""
        yield from self.bars(plan, config, preset)
        yield Text()
        yield from self.table(plan, times)
        yield from self.unknown(times)
        for outlook in plan.outlooks:
            yield from self.changes(outlook, plan.room)
        yield Text()
        for line in [*plan.notes, *worth(plan, here)]:
            yield self.text(line, "dim")

    def bars(self, plan: MemoryPlan, config: Config, preset: str) -> Iterator[Text]:
        """What is asked, and a bar a method."""
        yield self.text(heading(config, preset), "bold")
        yield self.text(about_rows(plan, config))
        yield self.text(about_room(plan.room))
        yield Text()
        seen: dict[str, int] = {}
        for outlook in plan.outlooks:
            parts = drawn(outlook, plan.room)
            seen |= {name: held for name, held in parts.items() if held}
            line = Text(f"{method_title(outlook.method):<7}{size(peak(outlook).total):>9}  ")
            line.append(f"{outlook.verdict:<13}", style=STYLES[outlook.verdict])
            bars = max(10, min(self.width - LEFT - 1, 100))
            yield line + bar(parts, plan.room.total, bars, self.coloured, self.ascii)
            if outlook.refused:
                yield self.text(f"       formula: {outlook.refused}", "yellow")
        yield Text()
        yield from legend(seen, self.width, self.coloured)

    def table(self, plan: MemoryPlan, times: Mapping[str, TimeEstimate]) -> Iterator[Text]:
        """A column a method."""
        names = [method_title(outlook.method) for outlook in plan.outlooks]
        yield self.text(f"{'':<{LABEL}}" + "".join(f"{name:>{CELL}}" for name in names), "bold")
        for label, cells in table_rows(plan, times):
            text = f"{label:<{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)
            yield self.text(text.rstrip(), "bold" if label in STRONG else "")

    def unknown(self, times: Mapping[str, TimeEstimate]) -> Iterator[Text]:
        """Where time and cost come from, or why there are none."""
        unknown: dict[str, list[str]] = {}
        for method, time in times.items():
            if time.why:
                unknown.setdefault(time.why, []).append(method_title(method))
        for why, methods in unknown.items():
            yield self.text(f"training time of {', '.join(methods)}: {why}", "dim")
        known = [time for time in times.values() if time.seconds is not None]
        for runs, what in dict.fromkeys((time.runs, time.what) for time in known):
            over = f"{runs} finished runs here, the range is theirs" if what == "runs" else ONE_RUN
            yield self.text(f"training time: of all steps, without scoring; from {over}", "dim")
        for why in dict.fromkeys(time.why_no_cost for time in known if time.why_no_cost):
            yield self.text(f"cost: {why}", "dim")

    def changes(self, outlook: MethodPlan, room: MemoryBudget) -> Iterator[Text]:
        """What makes one method fit, the smallest first."""
        if outlook.verdict != "does not fit":
            return
        found = outlook.changes
        when = "" if peak(outlook) is outlook.best.training else " while scoring"
        lacks = f"{method_title(outlook.method)} lacks {size(lacking(outlook, room))}{when}"
        yield Text()
        if not found:
            yield self.text(f"{lacks}, and no change known here makes it fit.", "bold")
        else:
            how = "the smallest change first" if len(found) > 1 or len(found[0].settings) == 1 else "together"
            yield self.text(f"{lacks}. It fits with, {how}:", "bold")
        for change in found:
            line = Text(f"  {size(change.peak):>9}  ")
            line.append(f"{change.verdict:<7}", style=STYLES[change.verdict])
            for setting, costs in change_words(change, outlook):
                line.append(visible(setting))
                if line.cell_len + 2 + len(costs) > self.width:
                    yield line
                    line = Text(" " * (COSTS + 2))
                yield line + self.text(f"  {costs}" if line.plain.strip() else costs, "dim")
                line = Text(" " * COSTS)
        if outlook.card:
            yield self.text(f"  as it is: on {outlook.card}, the cheapest listed card that holds it")

    def text(self, text: str, style: str = "") -> Text:
        """Safe to show; without colours without style, and in ASCII where that is asked for."""
        shown = visible(text)
        if self.ascii:
            shown = shown.translate(_PLAIN)
        return Text(shown, style=style if self.coloured else "")


_PLAIN = str.maketrans({"–": "-", "·": ".", "│": "|", "…": "...", "−": "-"})
