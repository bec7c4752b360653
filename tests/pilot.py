"""Drive the workbench in tests by its keys, with real runs of a small model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from command import SMALL
from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen
from textual.strip import Strip
from textual.widgets import Static

from engine.hardware.devices import THE_CPU, SelectedDevice
from engine.memory.formula.memory_budget import MemoryBudget
from tui.app import Workbench
from tui.live.machine import MachineSample, MachineSampled, NextDevice
from tui.screens.launching import LaunchScreen
from tui.selection import Selection
from tui.settings import Settings
from tui.widgets.log_pane import LogPane

Story = Callable[[Pilot[str], Workbench], Awaitable[None]]
MICRO = {
    "train.steps": 4,
    "train.batch": 4,
    "train.evaluate_every": 4,
    "train.probe": False,
    "data.max_rows": 200,
    "data.validation": 0.005,
    "evaluation.rows": 4,
    "evaluation.max_new_tokens": 4,
    "evaluation.forgetting_text": "none",
    "model.id": str(SMALL),
}
LONG = {"train.steps": 4000, "train.evaluate_every": 1000}
"""A run that is still training when the test is done with it."""


class RecordedWorkbench(Workbench):
    """Keeps the text of every notification in `notes`."""

    def __init__(self, runs: Path, settings: Settings | None = None) -> None:
        self.notes: list[str] = []
        super().__init__(runs, settings)

    def notify(self, message: str, **options: Any) -> None:
        self.notes.append(message)
        super().notify(message, **options)


def play(runs: Path, story: Story, size: tuple[int, int] = (120, 36), settings: Settings | None = None) -> Workbench:
    """Open the bench, then run the story."""
    app = RecordedWorkbench(runs, settings)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await story(pilot, app)
            if app.is_running:
                drawn(app)

    asyncio.run(run())
    return app


def notes(app: Workbench) -> list[str]:
    """The text of every notification so far."""
    assert isinstance(app, RecordedWorkbench)
    return app.notes


draw_changes = Screen._compositor_refresh


def forget_changes(screen: Screen[object]) -> None:
    """Discard what has changed instead of drawing it: `drawn` draws the complete screen when a test looks at it."""
    screen._dirty_widgets.clear()
    screen._compositor._dirty_regions.clear()
    if screen is not screen.app.screen:
        screen.app.screen.refresh()  # a dialog keeps what is behind it
    screen.app._update_mouse_over(screen)


def drawn(app: App[Any]) -> list[Strip]:
    """The lines of the screen, dialogs and what is behind them, as segments with styles."""
    # As `export_screenshot` renders them, whose SVG takes most of the time.
    update: Any = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    return [line if isinstance(line, Strip) else Strip.join(line) for line in update.strips]  # Textual 6: a strip each


def screen_text(app: App[Any]) -> str:
    """The characters of the screen."""
    return "".join(f"{line.text.rstrip()}\n" for line in drawn(app))


def shown(app: Workbench, part: str) -> str:
    """The text of a part of the bench."""
    return str(app.bench.query_one(f"#{part}", Static).visual)


async def wait_for(pilot: Pilot[Any], condition: Callable[[], object], seconds: float = 600.0) -> None:
    """Wait until something holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and pilot.app.is_running, "timed out"
        await asyncio.sleep(0.1)  # `pilot.pause` would send each widget a message: only when there is something to see
        if condition():
            await pilot.pause(0)


def sampled(sample: MachineSample) -> MachineSampled:
    """What the sampler posts: a sample, and its first GPU or its CPU as the device of the next run."""
    if not sample.gpus:
        used = sample.memory_used - (sample.worker_rss or 0)
        budget = MemoryBudget(
            name="system memory", device="cpu", source="system", total=sample.memory_total, used=used, bf16=False
        )
        return MachineSampled(sample, NextDevice([THE_CPU], budget))
    gpu = sample.gpus[0]
    budget = MemoryBudget(
        name=f"GPU {gpu.label}, {gpu.name}",
        recorded_name=gpu.name,
        device="cuda",
        source="gpu",
        total=gpu.total or 0,
        used=(gpu.used or 0) - (gpu.mine or 0),
    )
    device = SelectedDevice(gpu.label, f"GPU {gpu.label}", gpu.label)
    return MachineSampled(sample, NextDevice([device], budget, gpu.label, gpu.others))


async def start(pilot: Pilot[str], app: Workbench, **more: object) -> None:
    """Start the selected run, shortened."""
    follower, before = app.bench.follower, app.bench.follower.run
    app.bench.selection_pane.select(Selection("demo-lora", settings={**MICRO, **more}))
    app.bench.query_one(LogPane).focus()
    await pilot.press("n")
    await wait_for(pilot, lambda: isinstance(app.screen, LaunchScreen))
    await pilot.press("enter")
    await wait_for(pilot, lambda: follower.run != before and follower.state is not None)
