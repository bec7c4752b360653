"""GPU memory, load, power and temperature now, and memory over the last five minutes."""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import MouseScrollDown, MouseScrollUp

from engine.config.quantities import size
from engine.config.text import visible
from tui.settings import app_settings
from tui.widgets.pane import BenchState
from tui.widgets.rows import Rows

if TYPE_CHECKING:  # imported where they are used: the first frame has no sample
    from tui.live.machine import GpuSample, MachineSample
    from tui.live.run_state import ExpectedPeak

MINUTES = 5
SIDE_BY_SIDE = 60
"""Columns from which figures are shown on one line."""
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#"
WHEEL_LINES = 3
"""Lines per notch of the mouse wheel."""


class MachinePane(Rows, can_focus=True):
    """Takes one sample per second. What does not fit is shortened, then scrolled with the arrow keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll(-1)", "up", show=False),
        Binding("down", "scroll(1)", "down", show=False),
        Binding("pageup", "scroll(-10)", "page up", show=False),
        Binding("pagedown", "scroll(10)", "page down", show=False),
        Binding("home", "scroll(-1000)", "first", show=False),
        Binding("end", "scroll(1000)", "last", show=False),
    ]

    pane_name: ClassVar[str] = "machine"

    def __init__(self, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.traces: dict[int, deque[float]] = {}
        """GPU index, or -1 for the system -> share of memory used, one value per second."""
        self.expected_peak: ExpectedPeak | None = None
        """Peak memory of the run or of the selection, probed or predicted."""
        self.sample: MachineSample | None = None
        self.above = 0
        """Lines above the visible ones."""

    def show_state(self, state: BenchState) -> None:
        changed, self.expected_peak = state.expected_peak != self.expected_peak, state.expected_peak
        if state.sample is not None and state.sample is not self.sample:
            self.feed(state.sample)
        elif changed:
            self.redraw()

    def feed(self, sample: MachineSample) -> None:
        """Add a sample to the traces and show it."""
        self.sample = sample
        shares = [(gpu.index, gpu.used, gpu.total) for gpu in sample.gpus]
        shares = shares or [(-1, sample.memory_used, sample.memory_total)]
        for index, used, total in shares:
            trace = self.traces.setdefault(index, deque(maxlen=MINUTES * 60))
            trace.append(used / total if used is not None and total else 0.0)
        self.redraw()

    def redraw(self) -> None:
        if self.sample is None:
            return
        width, height = self.content_size.width, self.content_size.height
        shown = (self.sample, width, self.traces, self.expected_peak, app_settings(self).ascii)
        lines = list(machine_lines(*shown))
        if len(lines) > height and len(self.sample.gpus) > 1:
            lines = list(machine_lines(*shown, short=True))
        last = max(0, len(lines) - height)
        self.above = min(self.above, last)
        self.show(lines[self.above : self.above + height])
        below = last - self.above
        hidden = f"{self.above} lines above, {below} below: tab, then arrows" if last else ""
        if hidden != (self.border_subtitle or ""):  # setting it redraws the complete pane
            self.border_subtitle = hidden

    def on_resize(self) -> None:
        self.redraw()

    def action_scroll(self, lines: int) -> None:
        self.above = max(0, self.above + lines)
        self.redraw()

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        event.stop()
        self.action_scroll(-WHEEL_LINES)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        event.stop()
        self.action_scroll(WHEEL_LINES)


def machine_lines(
    sample: MachineSample,
    width: int,
    traces: dict[int, deque[float]],
    expected: ExpectedPeak | None,
    ascii_only: bool,
    short: bool = False,
) -> Iterator[Content]:
    """Several lines per GPU; system memory if there is no GPU.

    `short`: the GPU of the watched run first, two lines for each of the others.
    """
    ours = next((gpu.index for gpu in sample.gpus if gpu.mine is not None), 0)
    gpus = sorted(sample.gpus, key=lambda gpu: gpu.index != ours) if short else sample.gpus
    for gpu in gpus:
        if short and gpu.index != ours:
            yield from short_lines(gpu, width, ascii_only)
        else:
            mine = expected if gpu.index == ours else None
            pool = sample.worker_pool if len(gpus) == 1 else None  # with several GPUs the run's is unknown here
            yield from gpu_lines(gpu, width, traces.get(gpu.index, deque()), mine, ascii_only, pool)
    if not sample.gpus:
        for text in textwrap.wrap(no_gpu(sample.why), max(10, width), max_lines=3, placeholder=" …"):
            yield Content.styled(text, "$foreground-muted")
        yield from _memory("system", sample.memory_used, sample.memory_total, width, ascii_only)
        own = ("this run", size(sample.worker_rss) if sample.worker_rss else "–")
        peak = (expected.label, size(expected.bytes)) if expected else ("predicted peak", "–")
        yield from _pairs([own, peak, ("CPU", f"{sample.load:.0f}%")], width)
        yield _trace(traces.get(-1, deque()), width, ascii_only)


def no_gpu(reason: str) -> str:
    """`no GPU detected (NVML not found): showing system memory`."""
    short = reason.replace("NVML Shared Library Not Found", "NVML not found")
    return f"no GPU detected ({visible(short)}): showing system memory"


def gpu_lines(
    gpu: GpuSample,
    width: int,
    trace: Sequence[float],
    expected: ExpectedPeak | None,
    ascii_only: bool,
    pool: int | None = None,
) -> Iterator[Content]:
    """One GPU, a dash for every unknown field. `pool` is a lower bound for this run where NVML does not report it."""
    name, wide = visible(f"{gpu.index} {gpu.name}"), width >= SIDE_BY_SIDE
    work = f"util {_work(gpu)}"
    gap = " " * max(1, width - len(name) - len(work))
    yield Content.assemble((name, "bold"), gap, work) if wide else Content.styled(name, "bold")
    yield from _memory("shared memory" if gpu.shared else "memory", gpu.used, gpu.total, width, ascii_only)
    at_least = f"≥ {size(pool)}" if pool else "–"
    own = ("this run", size(gpu.mine) if gpu.mine is not None else at_least)
    yield from _pairs([own, *([(expected.label, size(expected.bytes))] if expected else [])], width)
    for other in gpu.others:
        yield _pair(
            f"{other.pid} {visible(other.name)}", size(other.bytes) if other.bytes else "n/a", width, "$text-warning"
        )
    if not wide:
        yield Content(work)
    yield _trace(trace, width, ascii_only)


def short_lines(gpu: GpuSample, width: int, ascii_only: bool) -> Iterator[Content]:
    """Another GPU in two lines: name and load, then memory in use."""
    work = _work(gpu)
    name = visible(f"{gpu.index} {gpu.name}", max(8, width - len(work) - 2))
    yield _pair(name, work, width)
    used = f" {size(gpu.used)}"
    share = gpu.used / gpu.total if gpu.total and gpu.used is not None else 0.0
    bar = _bar(share, max(1, width - len(used)), ascii_only)
    yield Content.assemble(bar, (used, "$text-warning" if gpu.others else ""))


def _work(gpu: GpuSample) -> str:
    """Load, power, temperature."""
    load = "–" if gpu.load is None else f"{gpu.load}%"
    power = "–" if gpu.power is None else f"{gpu.power:.0f} W"
    heat = "–" if gpu.temperature is None else f"{gpu.temperature} °C"
    return f"{load}  {power}  {heat}"


def _memory(name: str, used: int | None, total: int | None, width: int, ascii_only: bool) -> Iterator[Content]:
    """Memory in use as figures and as a bar, on one line if the pane is wide."""
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
    """A bar filled by `share`."""
    filled = min(width, round(share * width))
    done, rest = ("#", "-") if ascii_only else ("█", "░")
    style = "$text-error" if share > 0.95 else "$primary"
    return Content.assemble((done * filled, style), (rest * (width - filled), "$foreground-muted"))


def _pairs(pairs: Sequence[tuple[str, str]], width: int) -> Iterator[Content]:
    """One line per pair, or all on one line if the pane is wide."""
    if width < SIDE_BY_SIDE:
        yield from (_pair(name, value, width) for name, value in pairs)
        return
    each = (width + 3) // len(pairs) - 3
    yield Content("   ").join(_pair(name, value, each) for name, value in pairs)


def _pair(name: str, value: str, width: int, style: str = "") -> Content:
    gap = max(1, width - len(name) - len(value))
    return Content.assemble((name, "$foreground-muted"), " " * gap, (value, style))


def _trace(shares: Sequence[float], width: int, ascii_only: bool) -> Content:
    """The last minutes as a row of blocks: the highest share of each column."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    values = list(shares)
    per = max(1, -(-MINUTES * 60 // max(1, width)))
    groups = [values[max(0, end - per) : end] for end in range(len(values), 0, -per)][::-1]
    marks = [blocks[min(len(blocks) - 1, round(max(group) * (len(blocks) - 1)))] for group in groups if group]
    return Content.styled("".join(marks)[-width:].rjust(width) if width else "", "$primary")
