"""The list of devices with the queue below it."""

from __future__ import annotations

import os
from pathlib import Path

from pilot import play, screen_text, wait_for
from textual.pilot import Pilot

from engine.config.preset_library import resolve_preset
from engine.runs.queue import locks
from engine.runs.run import run_dir
from tui.app import Workbench
from tui.history.queue_table import EMPTY_QUEUE
from tui.screens.processes import DevicesScreen


def test_the_queue_is_shown_with_directory_and_followed(tmp_path: Path) -> None:
    run = run_dir.create(
        tmp_path / "elsewhere", "demo-lora", resolve_preset("demo-lora", None, {}), started_in="/home/me/m"
    )
    held = locks.acquire(locks.device_lock("cpu"), f"{os.getpid()} {run.path}")
    assert held is not None

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.live_runs.turns)
        assert not app.bench.has_class("-folded")  # the lists stay open: it is a run of another home
        await pilot.press("D")
        await pilot.pause()
        screen = app.screen
        assert isinstance(screen, DevicesScreen)
        text = screen_text(app)
        assert "queue" in text and "running" in text and "/home/me/m" in text
        assert "-".join(run.name.split("-")[-2:]) in text
        os.close(held)
        screen.refresh_queue()
        await pilot.pause()
        await wait_for(pilot, lambda: EMPTY_QUEUE in screen_text(app))
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is app.bench

    play(tmp_path / "runs", story)


def test_a_lock_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        folder = Path(os.environ["FTBENCH_LOCKS"])
        folder.rename(folder.with_name("moved"))
        folder.write_text("")
        await pilot.press("D")
        await pilot.pause()
        await wait_for(pilot, lambda: "cannot read the" in screen_text(app))

    play(tmp_path / "runs", story)
