"""Memory of each GPU: this run, others, free and the predicted peak, over time, by process and by part."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, ClassVar

from textual.content import Content

from engine.config.quantities import duration, size
from engine.config.text import visible
from engine.runs.run.folder import short_name
from tui.selection import MARK
from tui.settings import app_keys
from tui.widgets.memory_history import (
    FREE,
    GIB,
    MINE,
    MUTED,
    OTHERS,
    PEAK,
    Band,
    MemoryHistory,
    Moment,
    draw_history,
)
from tui.widgets.pane import BenchState
from tui.widgets.text_rows import ScrolledRows

if TYPE_CHECKING:  # imported where they are used: the first frame has no sample
    from tui.live.machine import GpuSample, MachineSample, ProcessSample
    from tui.live.run_state import ExpectedPeak

SIDE_BY_SIDE = 104
"""Columns from which processes and parts are listed beside the history."""
LISTED_COLUMNS = 54
"""Columns of the list of processes, at least."""
MIN_LISTED = 3
"""Rows from which there is room for a list of processes."""
MOST_ROWS = 12
"""Rows of the history, at most."""
MAX_ROWS_OF_SEVERAL = 4
"""Rows of the history, at most, where there are several GPUs."""
SPARK_WIDTH = 8
"""Columns of a sparkline."""


@dataclass(frozen=True)
class Use:
    """How the memory of one device is used; None for what it does not report."""

    total: int | None
    used: int | None
    mine: int | None
    peak: int | None = None
    """Predicted peak of the watched run, or of the next run, without what others use."""
    reported: bool = True
    """Whether `mine` is exact; else a lower bound."""

    @property
    def others(self) -> int:
        return max(0, (self.used or 0) - (self.mine or 0))

    @property
    def free(self) -> int:
        return max(0, (self.total or 0) - (self.used or 0))

    @property
    def expected(self) -> int | None:
        """Memory in use at the peak."""
        return None if self.peak is None else self.peak + self.others


def bar(use: Use, width: int) -> Content:
    """Cells for this run, others, free memory; the mark of the peak, at the end where it does not fit."""
    if not use.total or use.used is None:
        return Content.styled(FREE[0] * width, FREE[1])
    mine = min(width, round((use.mine or 0) / use.total * width))
    others = max(0, min(width, round(use.used / use.total * width)) - mine)
    cells = [MINE] * mine + [OTHERS] * others + [FREE] * (width - mine - others)
    if use.expected is not None:
        cells[min(width - 1, round(use.expected / use.total * width))] = PEAK
    return Content.assemble(*((character * len(list(run)), style) for (character, style), run in groupby(cells)))


class MemoryPane(ScrolledRows):
    """Takes one sample per second. What does not fit is scrolled with the arrow keys."""

    pane_name: ClassVar[str] = "memory"
    letter: ClassVar[str] = "v"

    view: MemoryView | None = None
    """What is drawn; None before the first sample."""
    above = 0
    """Lines above the visible ones."""

    def __init__(self, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.traces: dict[str, MemoryHistory] = {}
        """Of each GPU by its label; of the system under ''."""

    def show_state(self, state: BenchState) -> None:
        if state.sample is None:
            return
        run, device_key = state.run, app_keys(self).of("bench.device")
        before, self.view = (
            self.view,
            MemoryView(
                state.sample,
                self.traces,
                state.expected_peak,
                state.processes,
                state.next_gpu,
                run is not None and state.live,
                device_key,
                short_name(run.name) if run else "",
                state.on_cpu,
                run.training_peak if run else 0,
            ),
        )
        if before is None or state.sample is not before.sample:
            self.feed(self.view)
        if self.view != before:
            self.redraw()

    def feed(self, view: MemoryView) -> None:
        for label, moment in view.moments():
            self.traces.setdefault(label, MemoryHistory()).add(moment)

    def redraw(self) -> None:
        view = self.view
        if view is None:
            return
        width, height = self.content_size
        lines = list(view.lines(width, height))
        last = max(0, len(lines) - height)
        self.above = min(self.above, last)
        self.show(lines[self.above : self.above + height])
        below = last - self.above
        hidden = f"{self.above} lines above, {below} below: tab, then arrows" if last else view.note
        self.set_titles(view.title, view.load(width - len(view.title) - 4), hidden)

    def action_move(self, lines: int) -> None:
        self.above = max(0, self.above + lines)
        self.redraw()


@dataclass(frozen=True)
class MemoryView:
    """One sample as lines of text."""

    sample: MachineSample
    traces: Mapping[str, MemoryHistory]
    expected: ExpectedPeak | None = None
    names: Mapping[int, str] | None = None
    """The run of each process of ftbench."""
    next_gpu: str | None = None
    """Label of the GPU that the next run uses."""
    live: bool = False
    """Whether the watched run is running; else the peak is that of the next run."""
    device_key: str = ""
    """The key that selects the device of the next run."""
    run: str = ""
    """Short name of the watched run, '' for none."""
    on_cpu: bool = False
    """Whether that run, or the next one if none is running, uses the CPU: the memory is then the system's."""
    training_peak: int = 0
    """Peak that the watched run measured while training."""

    @property
    def gpus(self) -> Sequence[GpuSample]:
        """The GPUs that are shown."""
        return () if self.on_cpu else self.sample.gpus

    @property
    def ours(self) -> GpuSample | None:
        """The GPU of the watched run, else that of the next run."""
        gpus = self.gpus
        gpu_of_run = next((gpu for gpu in gpus if gpu.mine is not None), None)
        return gpu_of_run or next((gpu for gpu in gpus if gpu.label == self.next_gpu), gpus[0] if gpus else None)

    @property
    def history(self) -> MemoryHistory:
        return self.traces.get(self.ours.label if self.ours else "", MemoryHistory())

    def moments(self) -> Iterator[tuple[str, Moment]]:
        """The sample of each GPU by its label, and of the system under ''."""
        sample, names = self.sample, self.names or {}

        def by_run(known: Iterable[tuple[int, int | None]], mine: int | None) -> dict[str, int]:
            runs = {names[pid]: bytes_ for pid, bytes_ in known if bytes_ is not None and pid in names}
            return runs | ({self.run: mine} if self.run and mine is not None else {})

        for gpu in sample.gpus:
            runs = by_run(((process.pid, process.bytes) for process in gpu.others), self.use(gpu).mine)
            yield gpu.label, Moment(gpu.used or 0, runs, gpu.load, gpu.power, gpu.clock)
        workers = ((worker.pid, worker.rss) for worker in sample.workers)
        yield "", Moment(sample.memory_used, by_run(workers, sample.worker_rss), sample.load)

    @property
    def title(self) -> str:
        """`VRAM`, or `shared memory` where the GPU has none of its own."""
        if not self.gpus:
            return "system memory"
        return "shared memory" if self.gpus[0].shared else "VRAM"

    @property
    def note(self) -> str:
        """`no GPU detected (NVML not found): showing system memory`; '' if there is one."""
        short = self.sample.why.replace("NVML Shared Library Not Found", "NVML not found")
        return "" if self.sample.gpus else f"no GPU detected ({visible(short)}): showing system memory"

    def load(self, room: int) -> str:
        """Name, load, power, temperature and clock of the GPU, with sparklines where there is room; of several the
        number; of none the load of the CPU.
        """
        gpu = self.ours

        def curve(shown: str, value: Callable[[Moment], float | None], most: float | None) -> str:
            return f"{shown} {self.history.spark(value, most, SPARK_WIDTH)}".rstrip() if most else shown

        if gpu is None:
            return curve(f"CPU {self.sample.load:.0f}%", lambda moment: moment.load, 100)
        load, *rest = _work(gpu)
        name, loads = visible(gpu.name), curve(load, lambda moment: moment.load, 100)
        if len(self.gpus) > 1:
            names = dict.fromkeys(visible(gpu.name) for gpu in self.gpus)
            name, loads = f"{len(self.gpus)} GPUs: {', '.join(names)}", f"GPU {gpu.label}: {loads}"
        power = curve(rest[0], lambda moment: moment.power, gpu.power_limit)
        clock = [curve(f"{gpu.clock:,} MHz", lambda moment: moment.clock, gpu.max_clock)] if gpu.clock else []
        shown = ([name, loads, power, *rest[1:], *clock], [name, loads, *rest], [loads, *rest], [loads], [load])
        return next((text for parts in shown if len(text := "  ".join(parts)) <= room), load)

    def use(self, gpu: GpuSample | None) -> Use:
        """The use of a GPU, or of the system's memory."""
        sample = self.sample
        peak = self.expected.bytes if self.expected and gpu is self.ours else None
        if gpu is None:
            return Use(sample.memory_total, sample.memory_used, sample.worker_rss, peak)
        pool = sample.worker_pool if len(sample.gpus) == 1 else None  # of several the run's is unknown here
        mine = gpu.mine if gpu.mine is not None else pool
        return Use(gpu.total, gpu.used, mine, peak, reported=gpu.mine is not None or not pool)

    def lines(self, width: int, height: int) -> Iterator[Content]:
        """All lines; history and lists only where there is room."""
        gpus = self.gpus
        if len(gpus) > 1:
            for gpu in gpus:
                yield self._gpu_line(gpu, width)
            marks = [(MINE, "this run"), (OTHERS, "others"), (FREE, "free")][0 if self.live else 1 :]
            if self.expected:
                marks.append((PEAK, f"{self.expected.label if self.live else 'next run'} {_gib(self.expected.bytes)}"))
            parts = [Content.assemble(mark, (f" {name}", MUTED)) for mark, name in marks]
            yield Content.assemble("   ", Content("   ").join(parts))
            rows = min(MAX_ROWS_OF_SEVERAL, height - len(gpus) - 2)
        else:
            use = self.use(self.ours)
            figures = f" {_gib(use.used)}/{_whole(use.total)} GiB"
            yield Content.assemble(bar(use, max(4, width - len(figures))), figures)
            yield self._legend(use, width)
            rows = min(MOST_ROWS, height - 3)
        if rows <= 0 or not width:
            return
        listed, details = max(LISTED_COLUMNS, width * 2 // 5), list[Content]()
        if width >= SIDE_BY_SIDE and rows >= MIN_LISTED:
            details = list(self._processes_and_parts(listed, rows + 1))
        chart = list(self._chart(width - listed - 3 if details else width, rows))
        room = max((line.cell_length for line in chart), default=0)
        for line, other in zip_longest(chart, details, fillvalue=Content()):
            yield Content.assemble(line, " " * (room - line.cell_length + 3), other) if details else line

    def _gpu_line(self, gpu: GpuSample, width: int) -> Content:
        """`0 ████▓▓░░  49.6/80   97%  ▸ mike qlora-51b3 39.4 · ann vllm 10.2`."""
        use = self.use(gpu)
        share = max(10, min(44, width // 3))
        figures = f" {_gib(use.used):>5}/{_whole(use.total):<4}{_percent(gpu.load):>4}  "
        holders = self._holders(gpu)
        style_of_holders = "" if holders else "$text-success"
        if not use.total:
            holders = [visible(gpu.name)]
        elif not holders:
            free = [other.label for other in self.gpus if other.total and not self._holders(other)]
            hint = " · next run" if gpu.label == self.next_gpu else ""
            if self.device_key and self.next_gpu not in free and gpu.label == free[0]:
                hint = f"   {self.device_key}: select it"  # on the first free one, if the next run's is in use
            holders = [f"{_gib(use.free)} free{hint}"]
        wide = max(2, *(len(other.label) for other in self.gpus))
        style = "bold" if gpu is self.ours else ""
        ours = gpu.mine is not None
        return Content.assemble(
            (f"{gpu.label:>{wide}} ", style),
            bar(use, share),
            (figures, style),
            (f"{MARK} " if ours else "  ", MINE[1]),
            (" · ".join(holders), style_of_holders),
        )

    def _holders(self, gpu: GpuSample) -> list[str]:
        """`mike qlora-51b3 39.4` for each process on a GPU, the watched run first."""
        return [f"{_who(process, self.names)} {_gib(process.bytes)}" for process in gpu.processes]

    def _legend(self, use: Use, width: int) -> Content:
        """`█ this run 39.4   ▓ ann vllm 10.2   ░ free 30.4      ┃ peak will be 54.1 (fits)`."""
        gpu = self.ours
        known = [process for process in gpu.others if process.bytes] if gpu else []
        single = len(known) == 1 and use.others - (known[0].bytes or 0) < GIB
        name = _who(known[0], self.names) if single else f"others ({len(known)})" if known else "others"
        own = "–" if use.mine is None else f"{'' if use.reported else '≥ '}{_gib(use.mine)}"
        parts = [
            Content.assemble(MINE, f" this run {own}"),
            Content.assemble(OTHERS, f" {name} {_gib(use.others)}"),
            Content.assemble(FREE, f" free {_gib(use.free)}"),
        ]
        left = Content("   ").join(parts if use.mine is not None or self.live else parts[1:])
        peak, expected = use.peak, use.expected
        if self.expected is None or peak is None or expected is None or not use.total:
            return left

        # where the peak will be, in the longest words that fit
        spare, name = use.total - expected, self.expected.label if self.live else "next run"
        error = f" ±{self.expected.error:.0%}" if self.expected.error else ""
        fits, style = ("fits", "") if spare >= 0 else ("does not fit", "$text-error")
        measured = max(use.mine or 0, self.training_peak, self.history.peak(self.run)) if self.live else 0
        if measured > peak:  # a warning only beyond the error of the prediction
            style = OTHERS[1] if measured > self.expected.highest else ""
            told, of = _in_one_unit(measured, peak)
            of = f"{'probe' if self.expected.is_probed else 'predicted'} {of}{error}"
            texts = [f"measured {told}, {of}", of]
        else:
            texts = [f"{name} {_gib(peak)}{error}, {fits}", f"peak {_gib(expected)}"]
            if use.others:
                left_over = f"{_gib(spare)} to spare" if spare >= 0 else f"{_gib(-spare)} too much"
                sum_text = f"{name} {_gib(peak)}{error} + others = {_gib(expected)}: {left_over}"
                texts = [sum_text, f"peak will be {_gib(expected)} ({fits})", *texts]
            if measured:
                texts = [f"peak so far {_gib(measured)}, {texts[0]}", *texts]
        room = width - left.cell_length - 4
        text = next((text for text in texts if len(text) <= room), texts[-1])
        right = Content.assemble(PEAK, " ", (text, style))
        gap = max(2, width - left.cell_length - right.cell_length)
        return Content.assemble(left, " " * gap, right)

    def _chart(self, width: int, rows: int) -> Iterator[Content]:
        gpu, expected = self.ours, self.expected
        band = Band(expected.lowest, expected.bytes, expected.highest) if expected else None
        note = f" of GPU {gpu.label}" if gpu and len(self.gpus) > 1 else ""
        total = (gpu.total if gpu else self.sample.memory_total) or 0
        return draw_history(self.history, total, self.run, band, width, rows, note)

    def _processes_and_parts(self, width: int, rows: int) -> Iterator[Content]:
        """Processes on the GPU, then the parts of the predicted peak."""
        parts = self.expected.parts if self.expected else {}
        texts = [f"{name} {_gib(value)}" for name, value in parts.items() if value >= GIB // 20]
        wrapped = textwrap.wrap(f"by the formula: {' · '.join(texts)}", width) if texts else []
        wrapped = wrapped[: max(0, rows - 2)]
        gpu = self.ours
        processes = list(gpu.processes)[: max(0, rows - 1 - len(wrapped))] if gpu else []
        if processes:
            yield Content.styled(f"{'PID':>7}   {'USER':<8} {'WHAT':<15} {'GiB':>5} {'SM%':>3} TIME", MUTED)
        for process in processes:
            mine = gpu is not None and process is gpu.own
            what = (self.names or {}).get(process.pid) or process.name
            load = "–" if process.load is None else str(process.load)
            time = duration(process.seconds) if process.seconds is not None else "–"
            yield Content.assemble(
                f"{process.pid:>7} ",
                (f"{MARK if mine else ' '} ", MINE[1]),
                f"{visible(process.user, 8):<8} {visible(what, 15):<15} {_gib(process.bytes):>5} {load:>3} {time}",
            )
        for text in wrapped:
            yield Content.styled(text, MUTED)


def _who(process: ProcessSample, names: Mapping[int, str] | None) -> str:
    """`ann vllm`: user and name of a process, the run's where it is one of ftbench's."""
    what = (names or {}).get(process.pid) or process.name
    return visible(f"{process.user} {what}".strip(), 28)


def _gib(value: int | None) -> str:
    """GiB with one decimal, or smaller units below a tenth."""
    if value is None:
        return "–"
    return f"{value / GIB:.1f}" if value >= GIB // 10 or not value else size(value)


def _whole(value: int | None) -> str:
    return "–" if not value else f"{value / GIB:.3g}"


def _in_one_unit(*values: int) -> list[str]:
    """Bytes to compare: all in MiB where the largest is below a GiB, else in GiB without the unit."""
    large = max(values) >= GIB
    return [f"{value / GIB:.1f}" if large else f"{value / (1 << 20):.0f} MiB" for value in values]


def _percent(load: int | None) -> str:
    return "–" if load is None else f"{load}%"


def _work(gpu: GpuSample) -> tuple[str, str, str]:
    """Load, power with its limit, temperature."""
    power = "–" if gpu.power is None else f"{gpu.power:.0f}{f'/{gpu.power_limit:.0f}' if gpu.power_limit else ''} W"
    return _percent(gpu.load), power, "–" if gpu.temperature is None else f"{gpu.temperature} °C"


def all_lines(sample: MachineSample, width: int) -> Sequence[Content]:
    """One sample for the command line: without a history."""
    view = MemoryView(sample, {})
    lines = list(view.lines(width, 0))
    heads = [Content(f"{gpu.label} {visible(gpu.name)}  {'  '.join(_work(gpu))}") for gpu in sample.gpus]
    return [*heads, *([Content(view.note)] if view.note else []), *lines]
