"""Peak memory of a run over all its workers, from its memory samples."""

from __future__ import annotations

from engine.runs.events import Event, Hello, Memory, ModelLoaded, Phase, Step
from engine.runs.result import MeasuredPeak


class MemoryPeaks:
    """Highest value of every memory counter; `peak_training_bytes` is defined in `Result`."""

    def __init__(self) -> None:
        self.peak = MeasuredPeak()
        self.peak_training_bytes: int | None = None
        self._resident_before: int | None = None
        self._stepping = False

    def add(self, event: Event) -> None:
        match event:
            case Hello():
                self._resident_before, self._stepping = None, False
            case Phase():
                self._stepping = False
            case ModelLoaded():
                self._resident_before = event.resident_before
            case Step():
                self._stepping = True
            case Memory():
                self._sample(event)

    def _sample(self, event: Memory) -> None:
        peak = self.peak
        # Events before version 0.2 have neither `training` nor the peaks of the caching allocator.
        training = self._stepping if event.training is None else event.training
        allocated = event.allocated if event.allocated_peak is None else event.allocated_peak
        reserved = event.reserved if event.reserved_peak is None else event.reserved_peak
        peak.rss = _higher(peak.rss, event.rss_peak)
        peak.allocated, peak.reserved = _higher(peak.allocated, allocated), _higher(peak.reserved, reserved)
        peak.nvml_used, peak.paged = _higher(peak.nvml_used, event.nvml_used), _higher(peak.paged, event.paged)
        if training:
            peak.rss_training = _higher(peak.rss_training, event.rss_peak)
            peak.allocated_training = _higher(peak.allocated_training, allocated)
            peak.reserved_training = _higher(peak.reserved_training, reserved)
            self.peak_training_bytes = _higher(self.peak_training_bytes, self._comparable(event, reserved))

    def _comparable(self, event: Memory, reserved: int | None) -> int | None:
        """Reserved memory on a GPU; on a CPU the resident set minus its size before the model was loaded."""
        if reserved:
            return reserved
        return None if self._resident_before is None else event.rss_peak - self._resident_before


def _higher(a: int | None, b: int | None) -> int | None:
    known = [value for value in (a, b) if value is not None]
    return max(known, default=None)
