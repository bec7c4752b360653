"""Cards, memory, power: what the machine does now, and the last five minutes of it."""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import MouseScrollDown, MouseScrollUp

from engine.config.text import visible
from tui.format import size
from tui.widgets.rows import Rows

if TYPE_CHECKING:  # the first picture has no sample
    from tui.live.machine import CardSample, MachineSample

MINUTES = 5
SIDE_BY_SIDE = 60
"""Columns from which figures stand beside each other."""
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#"
WHEEL = 3
"""Lines a turn of the mouse wheel."""


class MachinePane(Rows, can_focus=True):
    """Fed a sample a second. What does not fit is shortened, then scrolled: by the arrows where it has the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll(-1)", "up", show=False),
        Binding("down", "scroll(1)", "down", show=False),
        Binding("pageup", "scroll(-10)", "page up", show=False),
        Binding("pagedown", "scroll(10)", "page down", show=False),
        Binding("home", "scroll(-1000)", "first", show=False),
        Binding("end", "scroll(1000)", "last", show=False),
    ]

    def __init__(self, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.ascii_only = ascii_only
        self.traces: dict[int, deque[float]] = {}
        """Card (or -1: the system) -> share of memory used, a second a value."""
        self.planned: int | None = None
        """Bytes that the run, or what is chosen, was foreseen to take."""
        self.sample: MachineSample | None = None
        self.above = 0
        """Lines scrolled away."""

    def feed(self, sample: MachineSample) -> None:
        self.sample = sample
        shares = [(card.index, card.used, card.total) for card in sample.cards]
        shares = shares or [(-1, sample.memory_used, sample.memory_total)]
        for index, used, total in shares:
            trace = self.traces.setdefault(index, deque(maxlen=MINUTES * 60))
            trace.append(used / total if used is not None and total else 0.0)
        self.redraw()

    def redraw(self) -> None:
        if self.sample is None:
            return
        width, height = self.content_size.width, self.content_size.height
        given = (self.sample, width, self.traces, self.planned, self.ascii_only)
        lines = list(machine_lines(*given))
        if len(lines) > height and len(self.sample.cards) > 1:
            lines = list(machine_lines(*given, short=True))
        last = max(0, len(lines) - height)
        self.above = min(self.above, last)
        self.show(lines[self.above : self.above + height])
        below = last - self.above
        said = f"{self.above} lines above, {below} below: tab, then arrows" if last else ""
        if said != (self.border_subtitle or ""):  # setting it draws the whole pane again
            self.border_subtitle = said

    def on_resize(self) -> None:
        self.redraw()

    def action_scroll(self, lines: int) -> None:
        self.above = max(0, self.above + lines)
        self.redraw()

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        event.stop()
        self.action_scroll(-WHEEL)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        event.stop()
        self.action_scroll(WHEEL)


def machine_lines(
    sample: MachineSample,
    width: int,
    traces: dict[int, deque[float]],
    planned: int | None,
    ascii_only: bool,
    short: bool = False,
) -> Iterator[Content]:
    """A block for each card; without one the system's memory, said plainly.

    `short`: ours first, two lines for the rest.
    """
    ours = next((card.index for card in sample.cards if card.mine is not None), 0)
    cards = sorted(sample.cards, key=lambda card: card.index != ours) if short else sample.cards
    for card in cards:
        if short and card.index != ours:
            yield from short_lines(card, width, ascii_only)
        else:
            mine = planned if card.index == ours else None
            pool = sample.worker_pool if len(cards) == 1 else None  # of several nobody here knows which is the run's
            yield from card_lines(card, width, traces.get(card.index, deque()), mine, ascii_only, pool)
    if not sample.cards:
        for text in textwrap.wrap(f"no card: {visible(sample.why)}", max(10, width), max_lines=2, placeholder=" …"):
            yield Content.styled(text, "$foreground-muted")
        yield from _memory("system", sample.memory_used, sample.memory_total, width, ascii_only)
        own = ("this run", size(sample.worker_rss) if sample.worker_rss else "–")
        foreseen = ("planned", size(planned) if planned else "–")
        yield from _pairs([own, foreseen, ("processor", f"{sample.load:.0f} %")], width)
        yield _trace(traces.get(-1, deque()), width, ascii_only)


def card_lines(
    card: CardSample,
    width: int,
    trace: Sequence[float],
    planned: int | None,
    ascii_only: bool,
    pool: int | None = None,
) -> Iterator[Content]:
    """One card; every field it cannot say is a dash. `pool` is the least of this run where the card cannot say it."""
    name, wide = visible(f"{card.index} {card.name}"), width >= SIDE_BY_SIDE
    work = f"load {_work(card)}"
    gap = " " * max(1, width - len(name) - len(work))
    yield Content.assemble((name, "bold"), gap, work) if wide else Content.styled(name, "bold")
    yield from _memory("shared memory" if card.shared else "memory", card.used, card.total, width, ascii_only)
    least = f"≥ {size(pool)}" if pool else "–"
    own = ("this run", size(card.mine) if card.mine is not None else least)
    yield from _pairs([own, *([("planned", size(planned))] if planned else [])], width)
    for other in card.others:
        yield _pair(
            f"{other.pid} {visible(other.name)}", size(other.bytes) if other.bytes else "n/a", width, "$text-warning"
        )
    if not wide:
        yield Content(work)
    yield _trace(trace, width, ascii_only)


def short_lines(card: CardSample, width: int, ascii_only: bool) -> Iterator[Content]:
    """A card that is not ours, where there are many: what it is and does, and how full it is."""
    work = _work(card)
    name = visible(f"{card.index} {card.name}", max(8, width - len(work) - 2))
    yield _pair(name, work, width)
    used = f" {size(card.used)}"
    share = card.used / card.total if card.total and card.used is not None else 0.0
    bar = _bar(share, max(1, width - len(used)), ascii_only)
    yield Content.assemble(bar, (used, "$text-warning" if card.others else ""))


def _work(card: CardSample) -> str:
    """Load, power, temperature."""
    load = "–" if card.load is None else f"{card.load} %"
    power = "–" if card.power is None else f"{card.power:.0f} W"
    heat = "–" if card.temperature is None else f"{card.temperature} °C"
    return f"{load}  {power}  {heat}"


def _memory(name: str, used: int | None, total: int | None, width: int, ascii_only: bool) -> Iterator[Content]:
    """In figures and as a bar: below each other, or on one line where the pane is low and wide."""
    figures = f"{size(used)} of {size(total)}" if total else "–"
    if width < SIDE_BY_SIDE or not total or used is None:
        yield _pair(name, figures, width)
        if total and used is not None:
            yield _bar(used / total, width, ascii_only)
        return
    room = width - len(name) - len(figures) - 4
    bar = _bar(used / total, room, ascii_only)
    yield Content.assemble((name, "$foreground-muted"), "  ", bar, "  ", figures)


def _bar(share: float, width: int, ascii_only: bool) -> Content:
    """How full."""
    full = min(width, round(share * width))
    done, rest = ("#", "-") if ascii_only else ("█", "░")
    style = "$text-error" if share > 0.95 else "$primary"
    return Content.assemble((done * full, style), (rest * (width - full), "$foreground-muted"))


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
