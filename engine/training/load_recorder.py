"""Records the load of the machine while a worker trains: other processes on its CPUs and GPU, clocks, throttling."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.hardware.cpu import CpuCounters, read_counters
from engine.hardware.nvml import NvmlGpu, process_name
from engine.runs.run.result import TrainingLoad


@dataclass
class LoadRecorder:
    """`begin`, then `sample` about once a second, then `end`."""

    gpu: NvmlGpu | None
    _start: CpuCounters | None = None
    _processes: dict[int, str] = field(default_factory=dict)
    _throttled: dict[str, None] = field(default_factory=dict)
    _clocks: list[int] = field(default_factory=list)

    def begin(self) -> None:
        self._start = read_counters()

    def sample(self, own_pid: int | None) -> None:
        """Look at the GPU; `own_pid`: the driver's id of this process; None if unknown, and then other
        processes are not recorded."""
        if self.gpu is None or self._start is None:
            return
        if own_pid is not None:
            for pid, _ in self.gpu.processes():
                if pid != own_pid and pid not in self._processes:
                    self._processes[pid] = process_name(pid)
        if (clock := self.gpu.clock()) is not None:
            self._clocks.append(clock)
        self._throttled.update(dict.fromkeys(self.gpu.throttled()))

    def end(self) -> TrainingLoad | None:
        """The load since `begin`; None without it."""
        start, self._start = self._start, None
        if start is None:
            return None
        now = read_counters()
        own = now.own - start.own
        return TrainingLoad(
            seconds=round(now.wall - start.wall, 3),
            cpus=now.cpus,
            cpu_seconds=round(own, 3),
            other_cpu_seconds=_others(start, now, own),
            pressure_seconds=_difference(start.pressure, now.pressure),
            gpu_processes=list(self._processes.values()),
            clock=round(sum(self._clocks) / len(self._clocks), 1) if self._clocks else None,
            max_clock=self.gpu.max_clock() if self.gpu else None,
            throttled=list(self._throttled),
        )


def _others(start: CpuCounters, now: CpuCounters, own: float) -> float | None:
    """CPU time of others, at least 0: the counters tick in hundredths of a second, each at another moment."""
    busy = _difference(start.busy, now.busy)
    return None if busy is None else round(max(0.0, busy - own), 3)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round(after - before, 3)
