"""What else the machine did while a run trained, and whether that makes its timing unusable."""

from __future__ import annotations

from msgspec import Struct, field

from engine.config.quantities import percent
from engine.config.text import listed, visible

DEFAULT_OTHER_LOAD = 0.1
"""Share of CPU time that other processes may use before a timing counts as disturbed."""
SATURATED = 0.85
"""Other processes slow a run down only if together they use at least this share of its CPUs."""
MAX_NAMES = 3
"""Processes that are named."""
HARMLESS = ("power cap",)
"""Reasons for lower clocks that are normal at full load."""


class TrainingLoad(Struct, kw_only=True):
    """Load of the machine during training, over all workers of a run."""

    seconds: float = 0.0
    """Time from the first to the last step, validation included."""
    cpus: int = 0
    """CPUs that the worker may use."""
    cpu_seconds: float = 0.0
    """CPU time of the worker."""
    other_cpu_seconds: float | None = None
    """CPU time of all other processes on the CPUs of the worker; null if the system does not report it."""
    pressure_seconds: float | None = None
    """Time in which a task of the system waited for a CPU (/proc/pressure/cpu)."""
    gpu_processes: list[str] = field(default_factory=list)
    """Other processes that computed on the GPU."""
    clock: float | None = None
    """Mean clock of the GPU's multiprocessors in MHz."""
    max_clock: float | None = None
    """Highest clock that the GPU supports, in MHz."""
    throttled: list[str] = field(default_factory=list)
    """Why the GPU lowered its clocks: `power cap`, `temperature`, `hardware slowdown`, `power brake`."""
    complete: bool = True
    """Whether every worker that trained recorded its load; one that was killed did not."""

    def add(self, other: TrainingLoad) -> None:
        """Add the load of a later worker of the same run."""
        total = self.seconds + other.seconds
        if self.clock is None or other.clock is None:
            self.clock = other.clock if self.clock is None else self.clock
        elif total:
            self.clock = (self.clock * self.seconds + other.clock * other.seconds) / total
        self.seconds, self.cpus = total, other.cpus
        self.cpu_seconds += other.cpu_seconds
        self.other_cpu_seconds = _sum(self.other_cpu_seconds, other.other_cpu_seconds)
        self.pressure_seconds = _sum(self.pressure_seconds, other.pressure_seconds)
        self.gpu_processes = list(dict.fromkeys([*self.gpu_processes, *other.gpu_processes]))
        self.throttled = list(dict.fromkeys([*self.throttled, *other.throttled]))
        self.max_clock = other.max_clock if self.max_clock is None else self.max_clock

    @property
    def other_share(self) -> float | None:
        """Share of the CPU time of the worker's CPUs that other processes used."""
        capacity = self.seconds * self.cpus
        return self.other_cpu_seconds / capacity if self.other_cpu_seconds is not None and capacity else None

    def disturbance(self, allowed: float = DEFAULT_OTHER_LOAD) -> str:
        """Why the timing of the run is disturbed; '' if it is not, or if nothing is known."""
        reasons = []
        share = self.other_share
        if share is not None and share > allowed and self._busy() >= SATURATED:
            reasons.append(f"other processes used {percent(share, 0)} of the time of its CPUs")
        if self.gpu_processes and allowed < 1:
            names = listed([visible(name, 40) for name in self.gpu_processes[:MAX_NAMES]])
            reasons.append(f"its GPU was also used by {names}")
        if (causes := [cause for cause in self.throttled if cause not in HARMLESS]) and allowed < 1:
            reasons.append(f"its GPU lowered its clocks ({listed(causes)})")
        return "; ".join(reasons)

    def _busy(self) -> float:
        """Share of the time of the worker's CPUs that was used, by the worker or others."""
        used = self.cpu_seconds + (self.other_cpu_seconds or 0.0)
        return used / (self.seconds * self.cpus) if self.seconds and self.cpus else 0.0


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
