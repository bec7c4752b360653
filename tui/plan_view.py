"""A plan on the terminal: bars against the card, the table below them, and what would make a method fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.text import Text

from engine.contract.schema import Config
from engine.contract.text import visible
from engine.planning.history import Takes
from engine.planning.outlook import Outlook, Plan
from engine.planning.room import Room
from tui.plan_bar import bar, legend
from tui.plan_words import NAMES, about_room, about_rows, change_words, drawn, heading, peak, table_rows, worth
from tui.show import size

STYLES = {"fits": "green", "tight": "yellow", "does not fit": "red"}
LEFT = 31
"""Cells before a bar: method, peak, verdict."""
LABEL, CELL = 20, 19


class View:
    """Lines of a plan for a terminal of some width."""

    def __init__(self, width: int, coloured: bool, ascii_only: bool) -> None:
        self.width, self.coloured, self.ascii = width, coloured, ascii_only

    def whole(self, plan: Plan, config: Config, preset: str, times: Mapping[str, Takes]) -> Iterator[Text]:
        """Everything."""
        yield from self.bars(plan, config, preset)
        yield Text()
        yield from self.table(plan, times)
        yield from self.unknown(times)
        for outlook in plan.outlooks:
            yield from self.changes(outlook, plan.room)
        yield Text()
        for line in [*plan.notes, *worth(plan)]:
            yield self.text(line, "dim")

    def bars(self, plan: Plan, config: Config, preset: str) -> Iterator[Text]:
        """What is asked, and a bar a method."""
        yield self.text(heading(config, preset), "bold")
        yield self.text(about_rows(plan, config))
        yield self.text(about_room(plan.room))
        yield Text()
        seen: dict[str, int] = {}
        for outlook in plan.outlooks:
            parts = drawn(outlook, plan.room)
            seen |= {name: size for name, size in parts.items() if size}
            line = Text(f"{NAMES[outlook.method]:<7}{size(peak(outlook).total):>9}  ")
            line.append(f"{outlook.verdict:<13}", style=STYLES[outlook.verdict])
            bars = max(10, min(self.width - LEFT - 1, 100))
            yield line + bar(parts, plan.room.total, bars, self.coloured, self.ascii)
            if outlook.refused:
                yield self.text(f"       formula: {outlook.refused}", "yellow")
        yield Text(" " * LEFT) + legend(seen, self.coloured) if self.width > 100 else legend(seen, self.coloured)

    def table(self, plan: Plan, times: Mapping[str, Takes]) -> Iterator[Text]:
        """A column a method."""
        names = [NAMES[outlook.method] for outlook in plan.outlooks]
        yield self.text(f"{'':<{LABEL}}" + "".join(f"{name:>{CELL}}" for name in names), "bold")
        for label, cells in table_rows(plan, times):
            yield self.text((f"{label:<{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)).rstrip())

    def unknown(self, times: Mapping[str, Takes]) -> Iterator[Text]:
        """Where time and cost come from, or why there are none."""
        reasons = dict.fromkeys(time.why for time in times.values() if time.why)
        for why in reasons:
            yield self.text(f"training time: {why}; `ftbench run` makes one", "dim")
        known = [time for time in times.values() if time.seconds is not None]
        for time in known[:1]:
            over = f"{time.runs} runs" if time.runs > 1 else "one run, its steps' middle four fifths"
            yield self.text(f"training time: of all steps, without scoring, from {over} here", "dim")
        for why in dict.fromkeys(time.why_no_cost for time in known if time.why_no_cost):
            yield self.text(f"cost: {why}", "dim")

    def changes(self, outlook: Outlook, room: Room) -> Iterator[Text]:
        """What makes one method fit, the smallest first."""
        if outlook.verdict != "does not fit":
            return
        missing = peak(outlook).total + room.beside - room.free
        found = outlook.changes
        name = NAMES[outlook.method]
        yield Text()
        if not found:
            yield self.text(f"{name} lacks {size(missing)}, and no change known here makes it fit.", "bold")
        else:
            how = "the smallest change first" if len(found) > 1 or len(found[0].settings) == 1 else "together"
            yield self.text(f"{name} lacks {size(missing)}. It fits with, {how}:", "bold")
        for change in found:
            setting, costs = change_words(change, outlook)
            line = Text(f"  {size(change.peak):>9}  ")
            line.append(f"{change.verdict:<6}", style=STYLES[change.verdict])
            yield line + Text(visible(f" {setting}")) + Text(visible(f"  {costs}"), style="dim")
        if outlook.card:
            yield self.text(f"  as it is: on {outlook.card}, the cheapest listed card that holds it")

    def text(self, text: str, style: str = "") -> Text:
        """Safe to show; without colours without style, and in ASCII where that is asked for."""
        shown = visible(text)
        if self.ascii:
            shown = shown.translate(_PLAIN)
        return Text(shown, style=style if self.coloured else "")


_PLAIN = str.maketrans({"–": "-", "·": ".", "│": "|", "…": "..."})
