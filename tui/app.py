"""The workbench: the Textual app that `ftbench` opens. Leaving it detaches: runs keep running."""

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
from textual.screen import Screen
from textual.widget import Widget

from engine.config.text import visible
from tui.commands import all_commands, bindings, key_conflicts, key_of
from tui.output.console import Terminal
from tui.output.cursor import FATAL
from tui.screens.bench import BenchScreen
from tui.screens.small import SmallScreen, too_small
from tui.settings import Settings, read_settings
from tui.terminal.ascii_driver import AsciiFilter
from tui.terminal.capabilities import hung_up, suited_theme
from tui.terminal.diff_driver import DiffApp
from tui.terminal.literal import ControlCharacterFilter
from tui.terminal.themes import AUTO, legible, remember, remembered

if TYPE_CHECKING:
    from engine.config.errors import Notice
    from tui.live.machine import Sampler

EXIT_SIGNALS = (*FATAL, signal.SIGINT)
"""Signals on which the app restores the terminal; Textual alone would leave it in the alternate screen."""
EXIT_SECONDS = 3.0
"""Time to restore the terminal: one that is gone or takes no more output would block the exit forever."""


def palette_provider() -> type[Provider]:
    """The palette's provider, imported when the palette is first opened."""
    from tui.palette import PaletteProvider

    return PaletteProvider


class Workbench(DiffApp):
    """The bench with other screens above it. Its return value is the message to print after it has closed."""

    TITLE = "ftbench"
    # Absolute, for subclasses elsewhere; here, because Textual does not read the CSS_PATH of a default screen.
    CSS_PATH = Path(__file__).parent / "screens" / "bench.tcss"
    # With priority, because Textual's own binding is not reached from dialogs and the palette.
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("app"),
        Binding("ctrl+c", "leave_hint", show=False, priority=True, system=True),
    ]
    COMMANDS = {palette_provider}
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    OptionList > .option-list--option-highlighted { background: $foreground 8%; color: $foreground; }
    OptionList:focus > .option-list--option-highlighted { background: $primary 20%; color: $foreground; }
    ModalScreen { background: transparent; } /* shading the screen behind a dialog would send that screen twice */
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
        opened: Callable[[], Screen[None]] | None = None,
    ) -> None:
        """`opened`: creates a screen that is shown instead of the bench; the app exits when it is closed."""
        super().__init__()
        self.runs = runs
        self._opened = opened
        self.notices = notices
        """Called after the first paint: warnings about the runs home."""
        self.settings = settings or read_settings([command.id for command in all_commands()], self.available_themes)
        self.settings.ascii |= ascii_only
        self.bench = BenchScreen(runs)
        if (first := self._first_theme()) != self.theme:
            self.theme = first
        self.set_keymap(self.settings.keys)
        self.sampler: Sampler | None = None
        self._plain = [AsciiFilter()] if self.settings.ascii else []
        self._literal = ControlCharacterFilter()
        self.error_console = Terminal(stderr=True, highlight=False, markup=False, emoji=False)
        self._previous_handlers: dict[signal.Signals, signal._HANDLER] = {}
        self._key_targets: WeakKeyDictionary[events.Key, Widget | None] = WeakKeyDictionary()
        """Keys that are not handled yet, and the widget that had the focus when they arrived."""

    def get_css_variables(self) -> dict[str, str]:
        return legible(super().get_css_variables())

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and not event.is_forwarded:
            if event.character == "\n" and not self._is_bound_by_user(event.key):
                event = events.Key("enter", "\r")  # typed before the terminal was in raw mode: the kernel translated it
            self._key_targets[event] = self.focused
        await super().on_event(event)

    def on_key(self, event: events.Key) -> None:
        """Send keys typed after the one that opens an input line to that line, whichever widget had the focus."""
        from textual.widgets import Input  # not before the first frame

        line = self.focused
        if isinstance(line, Input) and self._key_targets.get(event, line) is not line:
            event.prevent_default()
            copy = events.Key(event.key, event.character)
            copy.set_sender(line)  # a key sent by the app would come back to it
            line.post_message(copy)

    def _is_bound_by_user(self, key: str) -> bool:
        """Whether the user's settings bind this key to a command."""
        return any(key in map(str.strip, keys.split(",")) for keys in self.settings.keys.values())

    def on_load(self) -> None:
        """Install the signal handlers before the terminal changes its mode."""
        loop = asyncio.get_running_loop()

        def leave(number: int, _: object) -> None:
            forced_exit = threading.Timer(EXIT_SECONDS, os._exit, (128 + number,))
            forced_exit.daemon = True
            forced_exit.start()
            loop.call_soon_threadsafe(self.exit, self._farewell(), 128 + number)

        # Not loop.add_signal_handler: a loop that waits for a blocked terminal would never call it.
        self._previous_handlers = {number: signal.signal(number, leave) for number in EXIT_SIGNALS}

    def get_default_screen(self) -> BenchScreen:
        return self.bench

    def on_mount(self) -> None:
        self.animation_level = "none"  # every frame of an animation is sent over SSH
        self._check_size(self.size)
        if problems := [*self.settings.errors, *key_conflicts(self.settings.keys)]:
            self.notify("\n".join(map(visible, problems)), severity="warning", timeout=15, markup=False)
        if self._opened:
            self.push_screen(self._opened(), lambda _: self.exit())
        self.call_after_refresh(self._finish_start)

    def _finish_start(self) -> None:
        """Do after the first frame what would have delayed it."""
        from tui.live.machine import Sampler

        gc.freeze()
        gc.enable()
        self.sampler = Sampler(self.bench.post_message, self.bench.follower.process)
        self.sampler.start()
        if not self.is_headless:
            self.set_interval(1.0, self._leave_if_hung_up)
        for notice in self.notices():
            self.notify(visible(notice.text), severity="warning", timeout=15, markup=False)

    def _leave_if_hung_up(self) -> None:
        """Exit when the terminal is gone: Textual would keep reading the end of input, using most of a core."""
        if hung_up():
            signal.raise_signal(signal.SIGHUP)

    def on_unmount(self) -> None:
        if self.sampler:
            self.sampler.leave()
        self.bench.follower.leave()
        self.bench.leave()
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def on_resize(self, event: events.Resize) -> None:
        self.frame_diff.invalidate()
        if self.is_running and self.screen_stack:
            self._check_size(event.size)

    def get_line_filters(self) -> Sequence[LineFilter]:
        filters = super().get_line_filters()
        if self.no_color and self.native_ansi_color:  # Textual's grays are colors too
            filters = [NoColor()]
        return [*filters, *self._plain, self._literal]

    def get_key_display(self, binding: Binding) -> str:
        shown = super().get_key_display(binding)
        return binding.key if self.settings.ascii and not shown.isascii() else shown

    def action_detach(self) -> None:
        """Leave; what keeps running is printed afterwards."""
        self.exit(self._farewell())

    def action_leave_hint(self) -> None:
        """Ctrl+C: say how to leave; selected text is copied, as in other programs."""
        selected = self.screen.get_selected_text() or getattr(self.focused, "selected_text", "")
        if selected:
            self.copy_to_clipboard(selected)
        done = "Copied the selected text." if selected else "Ctrl+C does nothing here."
        back = "" if self.screen is self.bench else "escape, then "
        key = key_of("app.quit", self.settings.keys)
        self.notify(f"Press {back}{key} to leave; runs keep running. {done}", markup=False)

    def action_help(self) -> None:
        from tui.screens.text import TextScreen, help_text

        self.push_screen(TextScreen("keys", help_text(self.settings.keys)))

    def back_to_bench(self) -> BenchScreen:
        """Close all screens above the bench."""
        while self.screen is not self.bench and self.bench in self.screen_stack:
            self.pop_screen()
        return self.bench

    def action_next_theme(self) -> None:
        names = sorted(self.available_themes)
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        remember(self.theme, self.settings.theme)
        self.notify(self.theme)

    def _first_theme(self) -> str:
        name = remembered(self.settings.theme)
        if name in self.available_themes:
            return str(name)
        colors = None if self.no_color else self.console.color_system
        return suited_theme(colors) if self.settings.theme == AUTO else self.settings.theme

    def _farewell(self) -> str:
        """What keeps running and how to return to it; '' if nothing does."""
        from engine.runs import ladder_dir

        ladders = self.bench.read_all(ladder_dir.iterate(self.runs))
        if ladder := next((one for one in ladders if one.is_live()), None):
            return f"detached: the ladder {ladder.name} keeps running; watch it with `ftbench attach {ladder.name}`"
        live = [run for run in self.bench.live_runs.in_order() if run.is_live()]  # some may have ended since
        if not live:
            return ""
        if len(live) > 1:
            return f"detached: {len(live)} runs keep running; list them with `ftbench runs`"
        return f"detached: {live[0].name} keeps running; watch it with `ftbench attach {live[0].name}`"

    def _check_size(self, size: Size) -> None:
        """Show the small screen while the terminal is too small for the others."""
        if too_small(size):
            if not isinstance(self.screen, SmallScreen):
                self.push_screen(SmallScreen())
            small = self.screen
            assert isinstance(small, SmallScreen)
            small.call_later(small.show_size, size, key_of("app.quit", self.settings.keys))
        elif isinstance(self.screen, SmallScreen):
            self.pop_screen()
