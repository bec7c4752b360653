"""What a process that may import NumPy and matplotlib answers about sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.worker.requests import Progress, write_report


def sweep_report(arguments: dict[str, Any], progress: Progress) -> Any:
    """Write the HTML and Markdown report of a sweep from its state."""
    from engine.extensions.sweeps import sweep_report as report
    from engine.extensions.sweeps.sweep_dir import SweepDir

    return write_report(SweepDir(Path(arguments["path"])), report.write)
