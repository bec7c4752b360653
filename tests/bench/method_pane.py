"""From a key to the new figures on the terminal: how long the method pane takes to say what another choice would take.

`python tests/bench/method_pane.py [ROUNDS]` prints a Markdown table: median of ROUNDS (20 unless given), range beside
it. A real terminal of 160 by 45; a key counts as done when its figure, or its mark, is among the bytes that came.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent / "workbench"))

from command import FTBENCH
from session import Session

from engine.config.method_specs import method_title
from engine.config.model_files import find_model
from tui.choice import MARK, Choice
from tui.format import size
from tui.live.machine import MachineSampler, WatchedProcess
from tui.preview.memory_forecast import forecasts, room_of

MOST = 0.050
"""Seconds: what was promised."""
SETTLED = 0.4
"""Seconds between two keys."""
PRESETS = {"2": "demo-lora", "5": "smollm2-lora", "8": "qwen2.5-7b-lora"}
METHODS = ("full", "qlora", "lora")
"""In the order in which `m` goes from LoRA on."""


def figure(preset: str) -> bytes:
    """What the pane will show of a preset's method: its peak."""
    choice = Choice(preset)
    chosen = choice.effective()
    found = forecasts(choice, find_model(chosen.config.model), room_of(MachineSampler().look(WatchedProcess())))
    one = next(one for one in found if one.method == chosen.config.method)
    assert one.estimate is not None
    return size(one.estimate.peak).encode()


def pressed(session: Session, key: str, mark: bytes) -> float:
    """Seconds until the mark is there."""
    time.sleep(SETTLED)
    since, began = session.written(), time.perf_counter()
    session.press(key)
    return session.until(mark, since) - began


def measured(session: Session, rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Presets of other models on their keys, then the method."""
    marks = {key: figure(preset) for key, preset in PRESETS.items()}
    seconds: dict[str, list[float]] = {f"key {key}: {preset}": [] for key, preset in PRESETS.items()}
    seconds |= {f"key m: to {method_title(method)}": [] for method in METHODS}  # type: ignore[index]
    for _ in range(rounds):
        for key, preset in PRESETS.items():
            seconds[f"key {key}: {preset}"].append(pressed(session, key, marks[key]))
        for method in METHODS:
            name = method_title(method)  # type: ignore[index]
            seconds[f"key m: to {name}"].append(pressed(session, "m", f"{MARK}{name}".encode()))
    yield from seconds.items()


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        session = Session([FTBENCH, "--runs", str(Path(folder) / "runs")])
        try:
            session.until(b"formula, ")  # the machine has been looked at
            pressed(session, "3", b"Full")
            print("| key | median | range | wanted | kept |\n|---|---|---|---|---|")
            for what, values in measured(session, rounds):
                middle = statistics.median(values)
                kept &= middle <= MOST
                spread = f"{min(values) * 1000:.0f}–{max(values) * 1000:.0f}"
                yes = "yes" if middle <= MOST else "NO"
                print(f"| {what} | {middle * 1000:.0f} ms | {spread} | ≤ {MOST * 1000:.0f} ms | {yes} |")
        finally:
            session.end()
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
