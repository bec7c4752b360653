"""Cards, memory, power: what the machine does now, and the last five minutes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from textual.content import Content

from engine.contract.text import visible
from tui.machine import CardSample, MachineSample
from tui.show import size
from tui.widgets.rows import Rows

MINUTES = 5
SIDE_BY_SIDE = 60
"""Columns from which figures stand beside each other."""
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#"


class MachinePane(Rows):
    """Fed a sample a second."""

    def __init__(self, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.ascii_only = ascii_only
        self.traces: dict[int, deque[float]] = {}
        """Card (or -1: the system) -> share of memory used, a second a value."""
        self.planned: int | None = None

    def feed(self, sample: MachineSample) -> None:
        shares = [(card.index, card.used, card.total) for card in sample.cards]
        shares = shares or [(-1, sample.memory_used, sample.memory_total)]
        for index, used, total in shares:
            trace = self.traces.setdefault(index, deque(maxlen=MINUTES * 60))
            trace.append(used / total if used is not None and total else 0.0)
        width = self.content_size.width
        self.show(list(machine_lines(sample, width, self.traces, self.planned, self.ascii_only)))


def machine_lines(
    sample: MachineSample, width: int, traces: dict[int, deque[float]], planned: int | None, ascii_only: bool
) -> Iterator[Content]:
    """A block for each card; without one the system's memory, said plainly."""
    for card in sample.cards:
        yield from card_lines(card, width, traces.get(card.index, deque()), planned, ascii_only)
    if not sample.cards:
        yield Content.styled(f"no card: {visible(sample.why)}", "$foreground-muted")
        yield from _memory("system", sample.memory_used, sample.memory_total, width, ascii_only)
        own = ("this run", size(sample.worker_rss) if sample.worker_rss else "–")
        foreseen = ("planned", size(planned) if planned else "–")
        yield from _pairs([own, foreseen, ("processor", f"{sample.load:.0f} %")], width)
        yield _trace(traces.get(-1, deque()), width, ascii_only)


def card_lines(
    card: CardSample, width: int, trace: Sequence[float], planned: int | None, ascii_only: bool
) -> Iterator[Content]:
    """One card; every field it cannot say is a dash."""
    yield Content.styled(visible(f"{card.index} {card.name}"), "bold")
    yield from _memory("shared memory" if card.shared else "memory", card.used, card.total, width, ascii_only)
    own = ("this run", size(card.mine) if card.mine is not None else "–")
    yield from _pairs([own, *([("planned", size(planned))] if planned else [])], width)
    for other in card.others:
        yield _pair(
            f"{other.pid} {visible(other.name)}", size(other.bytes) if other.bytes else "n/a", width, "$text-warning"
        )
    load = "–" if card.load is None else f"{card.load} %"
    power = "–" if card.power is None else f"{card.power:.0f} W"
    heat = "–" if card.temperature is None else f"{card.temperature} °C"
    yield Content(f"load {load}  {power}  {heat}")
    yield _trace(trace, width, ascii_only)


def _memory(name: str, used: int | None, total: int | None, width: int, ascii_only: bool) -> Iterator[Content]:
    yield _pair(name, f"{size(used)} of {size(total)}" if total else "–", width)
    if total and used is not None:
        full = min(width, round(used / total * width))
        style = "$text-error" if used / total > 0.95 else "$primary"
        rest = "-" if ascii_only else "░"
        yield Content.assemble(
            (("#" if ascii_only else "█") * full, style), (rest * (width - full), "$foreground-muted")
        )


def _pairs(pairs: Sequence[tuple[str, str]], width: int) -> Iterator[Content]:
    """A line each, or all on one where the pane is low and wide."""
    if width < SIDE_BY_SIDE:
        yield from (_pair(name, value, width) for name, value in pairs)
        return
    each = (width + 3) // len(pairs) - 3
    yield Content("   ").join(_pair(name, value, each) for name, value in pairs)


def _pair(name: str, value: str, width: int, style: str = "") -> Content:
    gap = max(1, width - len(name) - len(value))
    return Content.assemble((name, "$foreground-muted"), " " * gap, (value, style))


def _trace(shares: Sequence[float], width: int, ascii_only: bool) -> Content:
    """The last minutes in as many columns as there are; the highest of each."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    values = list(shares)
    per = max(1, -(-MINUTES * 60 // max(1, width)))
    groups = [values[max(0, end - per) : end] for end in range(len(values), 0, -per)][::-1]
    marks = [blocks[min(len(blocks) - 1, round(max(group) * (len(blocks) - 1)))] for group in groups if group]
    return Content.styled("".join(marks)[-width:].rjust(width) if width else "", "$primary")
