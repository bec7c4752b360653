"""The workbench: the Textual app that `ftbench` opens. Leaving it is detaching; what runs goes on by itself."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from textual import events
from textual.binding import Binding, BindingType
from textual.command import Provider
from textual.filter import LineFilter, NoColor
from textual.geometry import Size
from textual.widget import Widget

from engine.config.text import visible
from tui.commands import bindings, clashes, every, key_of
from tui.output.console import Terminal
from tui.output.cursor import FATAL
from tui.screens.bench import BenchScreen
from tui.screens.small import SmallScreen, too_small
from tui.settings import Settings, read_settings
from tui.terminal.ascii_driver import Plain
from tui.terminal.capabilities import hung_up, suited_theme
from tui.terminal.diff_driver import DiffApp
from tui.terminal.literal import Literal
from tui.terminal.themes import AUTO, legible, remember, remembered

if TYPE_CHECKING:
    from engine.config.errors import Notice
    from tui.live.machine import Sampler

LEAVING = (*FATAL, signal.SIGINT)
"""Signals on which the terminal is restored; Textual alone would leave it in the alternate screen."""
GRACE_SECONDS = 3.0
"""For leaving well. A terminal that has gone, or has stopped taking output, may never let us."""


def everything() -> type[Provider]:
    """The palette's source, imported when it is first opened."""
    from tui.palette import Everything

    return Everything


class Workbench(DiffApp):
    """One bench, other screens above it. Its return value is what to say on the way out."""

    TITLE = "ftbench"
    CSS_PATH = "screens/bench.tcss"  # the bench is the default screen, whose own Textual does not read
    BINDINGS: ClassVar[list[BindingType]] = bindings("app")
    COMMANDS = {everything}
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    OptionList > .option-list--option-highlighted { background: $foreground 8%; color: $foreground; }
    OptionList:focus > .option-list--option-highlighted { background: $primary 20%; color: $foreground; }
    ModalScreen { background: transparent; } /* to shade what lies behind a question is to send it twice anew */
    ToastRack { margin-bottom: 4; }
    Toast { padding: 0 1; max-width: 70%; }
    OptionList:nocolor > .option-list--option-highlighted { text-style: bold underline; }
    """

    def __init__(
        self,
        runs: Path,
        settings: Settings | None = None,
        ascii_only: bool = False,
        notices: Callable[[], Sequence[Notice]] = tuple,
    ) -> None:
        super().__init__()
        self.runs = runs
        self.notices = notices
        """Called after the first paint: warnings about the runs home."""
        self.settings = settings or read_settings([command.id for command in every()], self.available_themes)
        self.settings.ascii |= ascii_only
        self.bench = BenchScreen(runs, self.settings.ascii)
        if (first := self._first_theme()) != self.theme:
            self.theme = first
        self.set_keymap(self.settings.keys)
        self.sampler: Sampler | None = None
        self._plain = [Plain()] if self.settings.ascii else []
        self._literal = Literal()
        self.error_console = Terminal(stderr=True, highlight=False, markup=False, emoji=False)
        self._before: dict[signal.Signals, signal._HANDLER] = {}
        self._aims: WeakKeyDictionary[events.Key, Widget | None] = WeakKeyDictionary()
        """Keys under way, and which widget had the focus when they came."""

    def get_css_variables(self) -> dict[str, str]:
        return legible(super().get_css_variables())

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and not event.is_forwarded:
            if event.character == "\n" and not self._is_own(event.key):
                event = events.Key("enter", "\r")  # as the kernel hands it on that took it before the terminal was ours
            self._aims[event] = self.focused
        await super().on_event(event)

    def on_key(self, event: events.Key) -> None:
        """What was typed behind a key that opens a line to type into is meant for the line, whoever had the focus."""
        from textual.widgets import Input  # the first picture does not wait for it

        line = self.focused
        if isinstance(line, Input) and self._aims.get(event, line) is not line:
            event.prevent_default()
            again = events.Key(event.key, event.character)
            again.set_sender(line)  # one that the app has sent does not come back to it a second time
            line.post_message(again)

    def _is_own(self, key: str) -> bool:
        """Whether the user has given it a command."""
        return any(key in map(str.strip, keys.split(",")) for keys in self.settings.keys.values())

    def on_load(self) -> None:
        """Before the terminal is touched."""
        loop = asyncio.get_running_loop()

        def leave(number: int, _: object) -> None:
            last = threading.Timer(GRACE_SECONDS, os._exit, (128 + number,))
            last.daemon = True
            last.start()
            loop.call_soon_threadsafe(self.exit, self._farewell(), 128 + number)

        # Not through the loop: one that waits for a terminal that has stopped taking output would not hear it.
        self._before = {number: signal.signal(number, leave) for number in LEAVING}

    def get_default_screen(self) -> BenchScreen:
        return self.bench

    def on_mount(self) -> None:
        self.animation_level = "none"  # every frame is bytes over SSH
        self._fit(self.size)
        if wrong := [*self.settings.errors, *clashes(self.settings.keys)]:
            self.notify("\n".join(map(visible, wrong)), severity="warning", timeout=15, markup=False)
        self.call_after_refresh(self._settle)

    def _settle(self) -> None:
        """After the first picture: what would have made one wait for it."""
        from tui.live.machine import Sampler

        gc.freeze()
        gc.enable()
        self.sampler = Sampler(self.bench.post_message, self.bench.worker)
        self.sampler.start()
        if not self.is_headless:
            self.set_interval(1.0, self._leave_if_hung_up)
        for notice in self.notices():
            self.notify(visible(notice.text), severity="warning", timeout=15, markup=False)

    def _leave_if_hung_up(self) -> None:
        """Textual would go on reading an end of input, on most of a core."""
        if hung_up():
            signal.raise_signal(signal.SIGHUP)

    def on_unmount(self) -> None:
        if self.sampler:
            self.sampler.leave()
        if self.bench.watcher:
            self.bench.watcher.leave()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_resize(self, event: events.Resize) -> None:
        self.painted.forget()
        if self.is_running and self.screen_stack:
            self._fit(event.size)

    def get_line_filters(self) -> Sequence[LineFilter]:
        filters = super().get_line_filters()
        if self.no_color and self.native_ansi_color:  # Textual's greys are colours too
            filters = [NoColor()]
        return [*filters, *self._plain, self._literal]

    def get_key_display(self, binding: Binding) -> str:
        shown = super().get_key_display(binding)
        return binding.key if self.settings.ascii and not shown.isascii() else shown

    def action_detach(self) -> None:
        """Leave, saying what goes on."""
        self.exit(self._farewell())

    def action_help_quit(self) -> None:
        """Textual's action for Ctrl-C."""
        key = key_of("app.quit", self.settings.keys)
        back = "" if self.screen is self.bench else "escape goes back to the bench, then "
        self.notify(f"Ctrl-C does nothing here: {back}{key} leaves, and runs go on", markup=False)

    def action_help(self) -> None:
        from tui.screens.text import TextScreen, help_text

        self.push_screen(TextScreen("keys", help_text(self.settings.keys)))

    def back_to_bench(self) -> BenchScreen:
        """Close whatever lies above the bench."""
        while self.screen is not self.bench and self.bench in self.screen_stack:
            self.pop_screen()
        return self.bench

    def action_next_theme(self) -> None:
        names = sorted(self.available_themes)
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        remember(self.theme, self.settings.theme)
        self.notify(self.theme)

    def _first_theme(self) -> str:
        chosen = remembered(self.settings.theme)
        if chosen in self.available_themes:
            return str(chosen)
        colours = None if self.no_color else self.console.color_system
        return suited_theme(colours) if self.settings.theme == AUTO else self.settings.theme

    def _farewell(self) -> str:
        from engine.runs import ladder_dir

        if climbing := next((one for one in self.bench.read_all(ladder_dir.iterate(self.runs)) if one.is_live()), None):
            return f"detached; the ladder {climbing.name} goes on: `ftbench` and l, or `ftbench attach {climbing.name}`"
        live = [run for run in self.bench.live_runs() if run.is_live()]  # one may have ended since the last look
        if not live:
            return ""
        if len(live) > 1:
            return f"detached; {len(live)} runs go on: `ftbench` or `ftbench runs` shows them"
        return f"detached; {live[0].name} goes on: `ftbench` or `ftbench attach {live[0].name}`"

    def _fit(self, size: Size) -> None:
        """The small screen lies on top as long as nothing else has room."""
        if too_small(size):
            if not isinstance(self.screen, SmallScreen):
                self.push_screen(SmallScreen())
            small = self.screen
            assert isinstance(small, SmallScreen)
            small.call_later(small.say, size, key_of("app.quit", self.settings.keys))
        elif isinstance(self.screen, SmallScreen):
            self.pop_screen()
