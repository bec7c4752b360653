"""The base of ftbench's Textual apps: settings, themes, what reaches the terminal, its size, and how signals end it."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Sequence

from textual import events
from textual.binding import Binding
from textual.filter import LineFilter, NoColor
from textual.geometry import Size

from engine.config.text import visible
from tui.commands import all_commands
from tui.keymap import FIRST_PRESET, CommandKeys, key_conflicts
from tui.output.console import EscapingConsole
from tui.output.cursor import FATAL
from tui.screens.dialogs import SmallScreen, too_small
from tui.settings import Settings, read_settings
from tui.terminal.drivers import AsciiFilter, ControlCharacterFilter, DiffApp
from tui.terminal.leaving import ForcedExit
from tui.terminal.themes import AUTO, MIN_SCREEN_SIZE, hung_up, legible, remember, remembered, suited_theme

EXIT_SIGNALS = (*FATAL, signal.SIGINT)
"""Signals on which the app restores the terminal; Textual alone would leave it in the alternate screen."""


class BaseApp(DiffApp):
    """An app whose terminal is restored however it ends. Its return value is the message to print afterwards."""

    TITLE = "ftbench"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    OptionList > .option-list--option-highlighted { background: $foreground 8%; color: $foreground; }
    OptionList:focus > .option-list--option-highlighted { background: $primary 20%; color: $foreground; }
    ModalScreen { background: transparent; } /* shading the screen behind a dialog would send that screen twice */
    ToastRack { margin-bottom: 4; }
    Toast { padding: 0 1; max-width: 70%; }
    OptionList:nocolor > .option-list--option-highlighted { text-style: bold underline; }
    """

    def __init__(self, settings: Settings | None = None, ascii_only: bool = False) -> None:
        super().__init__()
        self.settings = settings or read_settings([command.id for command in all_commands()], self.available_themes)
        self.settings.ascii |= ascii_only
        if (first := self._first_theme()) != self.theme:
            self.theme = first
        self.set_keymap(self.settings.keys)
        self._plain = [AsciiFilter()] if self.settings.ascii else []
        self._literal = ControlCharacterFilter()
        self.error_console = EscapingConsole(stderr=True, highlight=False, markup=False, emoji=False)
        self._previous_handlers: dict[signal.Signals, signal._HANDLER] = {}
        self._first_frame_shown = False
        self._exit_status: int | None = None
        """Set by a signal that ends the app."""

    @property
    def smallest(self) -> tuple[int, int]:
        """Columns and lines that the present screen needs."""
        return MIN_SCREEN_SIZE

    def farewell(self) -> str:
        """The message to print after the app has ended; '' for none."""
        return ""

    def prepare_screen(self) -> None:
        """Call when mounted: no animations, a size check, and a notification of errors in the settings."""
        self.animation_level = "none"  # every frame of an animation is sent over SSH
        self._check_size(self.size)
        if problems := [*self.settings.errors, *key_conflicts(self.settings.keys)]:
            self.notify("\n".join(map(visible, problems)), severity="warning", timeout=15, markup=False)
        if not self.is_headless:
            threading.Thread(target=_leave_when_hung_up, daemon=True, name="hang-up").start()
        self.call_after_refresh(self._after_first_frame)

    def restore_handlers(self) -> None:
        """Call when unmounted: restore the signal handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def get_css_variables(self) -> dict[str, str]:
        return legible(super().get_css_variables(), self.current_theme.dark)

    def on_load(self) -> None:
        """Install the signal handlers before the terminal changes its mode."""
        loop, forced = asyncio.get_running_loop(), ForcedExit()

        def leave(number: int, _: object) -> None:
            forced.schedule(128 + number)
            loop.call_soon_threadsafe(self._leave_on_signal, 128 + number)

        # Not loop.add_signal_handler: a loop that waits for a blocked terminal would never call it.
        self._previous_handlers = {number: signal.signal(number, leave) for number in EXIT_SIGNALS}

    def _leave_on_signal(self, status: int) -> None:
        self._exit_status = status
        if self._first_frame_shown:
            self.exit(self.farewell(), status)

    def _after_first_frame(self) -> None:
        """Leave now if a signal came while the app was opening: Textual cannot exit before its screen is complete."""
        self._first_frame_shown = True
        if self._exit_status is not None:
            self._leave_on_signal(self._exit_status)

    def on_resize(self, event: events.Resize) -> None:
        self.frame_diff.invalidate()
        if self.is_running and self.screen_stack:
            self._check_size(event.size)

    def get_line_filters(self) -> Sequence[LineFilter]:
        filters = [NoColor()] if self.no_color else super().get_line_filters()  # Textual's grays are colors too
        return [*filters, *self._plain, self._literal]

    def get_key_display(self, binding: Binding) -> str:
        if binding.id == FIRST_PRESET:
            return CommandKeys(self.settings.keys).presets
        shown = super().get_key_display(binding)
        return binding.key if self.settings.ascii and not shown.isascii() else shown

    def action_detach(self) -> None:
        """Quit; the runs that continue are printed afterwards."""
        self.exit(self.farewell())

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

    def _check_size(self, size: Size) -> None:
        """Show the small screen while the terminal is too small for the others."""
        if too_small(size, self.smallest):
            if not isinstance(self.screen, SmallScreen):
                self.push_screen(SmallScreen())
            small = self.screen
            assert isinstance(small, SmallScreen)
            small.call_later(small.show_size, size, CommandKeys(self.settings.keys).of("app.quit"))
        elif isinstance(self.screen, SmallScreen):
            self.pop_screen()


def _leave_when_hung_up() -> None:
    """Send the process SIGHUP when the terminal is gone: Textual would keep reading the end of input, using a core.

    In a thread, because the event loop may be blocked by output that nobody reads when the terminal closes.
    """
    while not hung_up():
        time.sleep(1.0)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)  # interrupts what blocks the event loop
