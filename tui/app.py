"""The workbench: the Textual app that `ftbench` opens. Leaving it is detaching; what runs goes on by itself."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import ClassVar

from textual.app import App
from textual.binding import BindingType

from tui.commands import bindings, every
from tui.machine import Sampler
from tui.screens.bench import BenchScreen
from tui.settings import Settings, read_settings


class Workbench(App[str]):
    """One bench, other screens above it. Its return value is what to say on the way out."""

    TITLE = "ftbench"
    BINDINGS: ClassVar[list[BindingType]] = bindings("app")
    ENABLE_COMMAND_PALETTE = True

    def __init__(self, runs: Path, settings: Settings | None = None) -> None:
        super().__init__()
        self.runs = runs
        self.settings = settings or read_settings([command.id for command in every()], self.available_themes)
        self.bench = BenchScreen(runs, self.settings.ascii)
        self.sampler: Sampler | None = None

    def on_mount(self) -> None:
        self.animation_level = "none"  # every frame is bytes over SSH
        self.theme = self.settings.theme
        self.set_keymap(self.settings.keys)
        self.push_screen(self.bench)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):  # Textual alone would leave the terminal as it is
            loop.add_signal_handler(number, self.exit)
        for error in self.settings.errors:
            self.notify(error, severity="warning", timeout=15, markup=False)
        self.sampler = Sampler(self.bench.post_message, self.bench.worker)
        self.sampler.start()

    def on_unmount(self) -> None:
        if self.sampler:
            self.sampler.leave()
        if self.bench.watcher:
            self.bench.watcher.leave()

    def action_detach(self) -> None:
        """Leave, saying what goes on."""
        run = self.bench.watched
        goes_on = run is not None and run.is_live()
        self.exit(f"detached; {run.name} goes on: `ftbench` or `ftbench attach {run.name}`" if goes_on and run else "")

    def action_help(self) -> None:
        from tui.screens.text import TextScreen, help_text

        self.push_screen(TextScreen("keys", help_text(self.settings.keys)))

    def action_next_theme(self) -> None:
        names = sorted(self.available_themes)
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        self.notify(self.theme)
