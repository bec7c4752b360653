"""The processes on each GPU and the workers of ftbench, as nvitop lists them. Call from a thread."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil

from engine.hardware.nvml import Nvml, pids_are_local


@dataclass(frozen=True)
class ProcessRow:
    """One process; None for what is not known."""

    pid: int
    gpu: int | None = None
    """Index of its GPU; None for a worker on the CPU."""
    gpu_bytes: int | None = None
    gpu_total: int | None = None
    """Memory of the GPU."""
    gpu_load: int | None = None
    """Percent of the last sample periods in which its kernels ran."""
    user: str = ""
    cpu: float | None = None
    """Percent of one core since the last look."""
    rss: int | None = None
    seconds: float | None = None
    """Since it started."""
    command: str = ""
    """The run of an ftbench worker, else its command line."""


class ProcessTable:
    """Looks at the processes; CPU utilization is that between two looks."""

    def __init__(self, runs: Mapping[int, str]) -> None:
        """`runs`: the run of each worker by process id."""
        self._runs, self._nvml = runs, Nvml()
        self._known: dict[int, psutil.Process] = {}

    def look(self) -> list[ProcessRow]:
        """The processes on the GPUs, then workers of ftbench that use none."""
        rows = list(self._on_gpus())
        on_gpu = {row.pid for row in rows}
        rows += [self._described(ProcessRow(pid)) for pid in self._runs if pid not in on_gpu and psutil.pid_exists(pid)]
        self._known = {pid: process for pid, process in self._known.items() if pid in {row.pid for row in rows}}
        return rows

    def _on_gpus(self) -> Iterator[ProcessRow]:
        for gpu in self._nvml.gpus():
            total, loads = gpu.total(), gpu.process_loads()
            for pid, used in gpu.processes():
                row = ProcessRow(pid, gpu.index, used, total, loads.get(pid))
                yield self._described(row) if pids_are_local() else _unknown(row)

    def _described(self, row: ProcessRow) -> ProcessRow:
        """The row with what the system knows of its process."""
        process = self._process(row.pid)
        if process is None:
            return _unknown(row)
        try:
            with process.oneshot():
                user, rss = process.username(), process.memory_info().rss
                seconds = max(0.0, time.time() - process.create_time())
                command = self._runs.get(row.pid) or " ".join(process.cmdline()) or process.name()
                cpu = process.cpu_percent(None)
        except psutil.Error:
            return _unknown(row)
        return ProcessRow(
            row.pid, row.gpu, row.gpu_bytes, row.gpu_total, row.gpu_load, user, cpu, rss, seconds, command
        )

    def _process(self, pid: int) -> psutil.Process | None:
        if pid not in self._known:
            try:
                self._known[pid] = psutil.Process(pid)
            except psutil.Error:
                return None
        return self._known[pid]


def _unknown(row: ProcessRow) -> ProcessRow:
    """A process that is not visible from here."""
    return ProcessRow(
        row.pid,
        row.gpu,
        row.gpu_bytes,
        row.gpu_total,
        row.gpu_load,
        command="a process of another user or container",
    )
