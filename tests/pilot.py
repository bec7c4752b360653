"""The workbench in tests, driven by its keys, with real runs of the embedded model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Static

from tui.app import Workbench
from tui.choice import Choice
from tui.screens.launching import LaunchScreen
from tui.settings import Settings
from tui.widgets.log_pane import LogPane

Story = Callable[[Pilot[str], Workbench], Awaitable[None]]
MICRO = {
    "train.steps": 4,
    "train.batch": 4,
    "evaluation.rows": 4,
    "evaluation.max_new_tokens": 4,
    "evaluation.general": "none",
}
LONG = {"train.steps": 400}
"""A run that is still at it when the test is done with it."""


def play(runs: Path, story: Story, size: tuple[int, int] = (120, 36), settings: Settings | None = None) -> Workbench:
    """The story from an open bench on."""
    app = Workbench(runs, settings)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await story(pilot, app)

    asyncio.run(run())
    return app


def shown(app: Workbench, part: str) -> str:
    """The text of a part of the bench."""
    return str(app.bench.query_one(f"#{part}", Static).visual)


async def wait_for(pilot: Pilot[str], what: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        await pilot.pause(0.1)


async def start(pilot: Pilot[str], app: Workbench, **more: object) -> None:
    """Start the chosen run, shortened."""
    app.bench.choosing.choose(Choice("demo-lora", settings={**MICRO, **more}))
    app.bench.query_one(LogPane).focus()
    await pilot.press("enter")
    await wait_for(pilot, lambda: isinstance(app.screen, LaunchScreen))
    await pilot.press("enter")
    await wait_for(pilot, lambda: app.bench.follower.state is not None)
