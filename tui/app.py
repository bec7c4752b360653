"""The bench: the Textual app that `ftbench` opens. Quitting it detaches: runs continue.

Screens other than the bench are imported after the first frame, or when they are opened.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.filter import LineFilter, NoColor
from textual.screen import Screen

from engine.config.text import visible
from tui.commands import FIRST_PRESET, CommandKeys, bindings, key_conflicts
from tui.output.console import EscapingConsole
from tui.screens.base import BaseScreen
from tui.screens.bench_actions import BenchScreen
from tui.settings import AUTO, Settings, legible, read_settings, remember, remembered, suited_theme
from tui.terminal import AsciiFilter, ControlCharacterFilter, DiffApp, ForcedExit, has_job_control, hung_up

if TYPE_CHECKING:
    from engine.config.errors import Notice
    from tui.live.machine import SamplerThread


EXIT_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF",
                 "SIGXCPU", "SIGPOLL", "SIGPWR", "SIGSTKFLT")
    if hasattr(signal, name)
)  # fmt: skip
"""Signals that end a process by default, except those of crashes: on them the app restores the terminal, which Textual
alone would leave in the alternate screen."""
STALLED_SECONDS = 1.0
"""After which the next key is handled although the one before is not: a widget that is being removed never answers."""

PARSED_STYLES = 512
"""Pieces of CSS whose rules are kept: the bench and its screens have about a hundred."""
MAX_WAITING = 64
"""Keys that may wait before an escape, which drops more of them: a flood, such as a paste that the terminal does not
mark, must not keep anybody from leaving."""
IMPORT_SECONDS = 1.0
"""After which the other screens are imported: the bench has filled its lists by then. It takes as long at most."""


class Workbench(DiffApp):
    """The bench with other screens above it, whose terminal is restored however it ends.

    Its return value is the message to print after it has closed.
    """

    TITLE = "ftbench"
    # Absolute, for subclasses elsewhere; here, because Textual does not read the CSS_PATH of a default screen.
    CSS_PATH = Path(__file__).parent / "screens" / "bench.tcss"
    # With priority, because Textual's own binding is not reached from dialogs and the palette.
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("app"),
        Binding("ctrl+c", "leave_hint", show=False, priority=True, system=True),
        Binding("ctrl+z", "suspend_process", show=False, priority=True, system=True),
    ]
    CSS = """
    OptionList > .option-list--option-highlighted { background: $foreground 8%; color: $foreground; }
    OptionList:focus > .option-list--option-highlighted { background: $primary 20%; color: $foreground; }
    ModalScreen { background: transparent; } /* shading the screen behind a dialog would send that screen twice */
    ToastRack { margin-bottom: 4; }
    Toast { padding: 0 1; max-width: 70%; }
    OptionList:nocolor > .option-list--option-highlighted { text-style: bold underline; }
    Input:nocolor > .input--cursor { text-style: reverse; }
    Input:nocolor > .input--selection { text-style: underline; }
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
        self.settings = settings or read_settings(self.available_themes)
        self.settings.ascii |= ascii_only
        theme = remembered(self.settings.theme) or ""
        if theme not in self.available_themes:
            colors = None if self.no_color else self.console.color_system
            theme = suited_theme(colors) if self.settings.theme == AUTO else self.settings.theme
        if theme != self.theme:
            self.theme = theme
        self.set_keymap(self.settings.keys)
        self._plain = [AsciiFilter()] if self.settings.ascii else []
        self._literal = ControlCharacterFilter()
        self.error_console = EscapingConsole(stderr=True, highlight=False, markup=False, emoji=False)
        self._previous_handlers: dict[signal.Signals, signal._HANDLER] = {}
        self._first_frame_shown = False
        self._exit_status: int | None = None
        """Set by a signal that ends the app."""
        self.runs = runs
        self._opened = opened
        self.notices = notices
        """Called after the first paint: warnings about the runs home."""
        self.bench = BenchScreen(runs)
        self.sampler: SamplerThread | None = None
        self._typed: deque[events.Key] = deque()
        """Keys that wait for the one before them."""
        self._key: events.Key | None = None
        """The key that is being handled."""

    async def on_event(self, event: events.Event) -> None:
        """Handle keys one after another: a slow connection delivers several at once, and what the second one means
        depends on what the first one does. Textual would send them all to the widget that has the focus now.
        """
        if not isinstance(event, events.Key) or event.is_forwarded:
            await super().on_event(event)
            return
        own_keys = {key.strip() for keys in self.settings.keys.values() for key in keys.split(",")}
        if event.character == "\n" and event.key not in own_keys:
            event = events.Key("enter", "\r")  # typed before the terminal was in raw mode: the kernel translated it
        if event.key == "escape" and len(self._typed) > MAX_WAITING:
            self._typed.clear()
        self._typed.append(event)
        if self._key is None:
            await self._handle_next_key()
        elif len(self._typed) == 1:
            self.set_timer(STALLED_SECONDS, lambda key=self._key: self._handled(key, (), self.screen))

    async def _handle_next_key(self) -> None:
        self._key = key = self._typed.popleft() if self._typed else None
        if key is not None:
            target, screen = self.focused or self.screen, self.screen
            await super().on_event(key)
            self._handled(key, target.ancestors_with_self, screen)

    def _handled(self, key: events.Key, nodes: Sequence[DOMNode], screen: Screen[object]) -> None:
        """Handle the next key when these widgets have handled the messages that they have, and those that these caused.

        The key goes from the focused widget to the app, which runs the action of a binding; the messages of that action
        go the same way again. A screen that was opened has to find its focus.
        """
        waiting = [node for _ in range(2) for node in nodes for _ in range(2)]

        def pass_on() -> None:
            while waiting:
                if waiting.pop(0).call_later(pass_on):
                    return
            if self._key is key and self.is_running:
                opened = self.screen
                if nodes and opened is not screen:
                    self._handled(key, (opened, self), opened)
                else:
                    self.call_later(self._handle_next_key)

        pass_on()

    def get_default_screen(self) -> BenchScreen:
        return self.bench

    def on_mount(self) -> None:
        self.animation_level = "none"  # every frame of an animation is sent over SSH
        if problems := [*self.settings.errors, *key_conflicts(self.settings.keys)]:
            self.notify("\n".join(map(visible, problems)), severity="warning", timeout=15, markup=False)
        if not self.is_headless:
            threading.Thread(target=_leave_when_hung_up, daemon=True, name="hang-up").start()
        if self._opened:
            self.push_screen(self._opened(), lambda _: self.exit())
        self.call_after_refresh(self._finish_start)

    def _finish_start(self) -> None:
        """Do after the first frame what would have delayed it."""
        from tui.live.machine import SamplerThread

        self._first_frame_shown = True
        if self._exit_status is not None:  # a signal came earlier: Textual cannot exit before its screen is complete
            self._leave_on_signal(self._exit_status)
            return
        gc.freeze()
        gc.enable()
        self.sampler = SamplerThread(self.bench.post_message, self.bench.machine.request)
        self.sampler.start()
        self.set_timer(IMPORT_SECONDS, threading.Thread(target=_import_screens, daemon=True, name="imports").start)
        self.set_timer(2 * IMPORT_SECONDS, self._read_styles)
        for notice in self.notices():
            self.notify(visible(notice.text), severity="warning", timeout=15, markup=False)

    def _read_styles(self) -> None:
        """Parse the CSS of the screens that are imported by now: when a screen with new CSS is opened, Textual parses
        that of all widgets again. Where Textual looks for it is private (8.2: `App._load_screen_css`), and so is its
        cache of parsed CSS, which is smaller than what the bench has: in other versions the CSS is parsed twice.
        """
        for kind in subclasses(BaseScreen):
            if "CSS" in vars(kind):
                self.stylesheet.add_source(kind.CSS, (inspect.getfile(kind), f"{kind.__name__}.CSS"))
        if (cache := getattr(self.stylesheet, "_parse_cache", None)) is not None:
            cache.grow(PARSED_STYLES)
        self.stylesheet.parse()  # `reparse` would leave that cache empty
        gc.collect()
        gc.freeze()  # what was imported stays: looking for garbage in it took 25 ms, while a screen was opened

    def on_unmount(self) -> None:
        from tui.history.endings import remember_visit

        if self.sampler:
            self.sampler.leave()
        self.bench.follower.leave()
        remember_visit()  # what has ended so far was shown
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

    def on_resize(self) -> None:
        self.frame_diff.invalidate()

    def get_line_filters(self) -> Sequence[LineFilter]:
        filters = [NoColor()] if self.no_color else super().get_line_filters()  # Textual's grays are colors too
        return [*filters, *self._plain, self._literal]

    def get_key_display(self, binding: Binding) -> str:
        if binding.id == FIRST_PRESET:
            return CommandKeys(self.settings.keys).presets
        shown = super().get_key_display(binding)
        return binding.key if self.settings.ascii and not shown.isascii() else shown

    def action_command_palette(self) -> None:
        from tui.palette import CommandPalette, PaletteProvider

        if not isinstance(self.screen, CommandPalette):
            self.push_screen(CommandPalette([PaletteProvider], id="--command-palette"))

    def action_next_theme(self) -> None:
        names = sorted(self.available_themes)
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        remember(self.theme, self.settings.theme)
        self.notify(self.theme)

    def action_suspend_process(self) -> None:
        """Ctrl+Z: suspend, where a shell can continue the process."""
        if has_job_control():
            super().action_suspend_process()
        else:
            quit_key = CommandKeys(self.settings.keys).of("app.quit")
            self.notify(f"No shell could continue ftbench: press {quit_key} to detach; runs continue.", markup=False)

    def action_leave_hint(self) -> None:
        """Ctrl+C: say how to leave; selected text is copied, as in other programs."""
        selected = self.screen.get_selected_text() or getattr(self.focused, "selected_text", "")
        if selected:
            self.copy_to_clipboard(selected)
        done = "Copied the selected text." if selected else "Ctrl+C does nothing here."
        keys = CommandKeys(self.settings.keys)
        back = ""
        if self.screen is not self.bench:  # the key that closes the screen: in dialogs always escape
            back = f"{next((keys.of(id) for id in self._binding_ids() if id.endswith('.back')), 'escape')}, then "
        self.notify(f"Press {back}{keys.of('app.quit')} to detach; runs continue. {done}", markup=False)

    def _binding_ids(self) -> list[str]:
        """Ids of the current screen's commands, `runs.delete`."""
        return [binding.id or "" for binding in self.screen.BINDINGS if isinstance(binding, Binding)]

    def action_help(self) -> None:
        from tui.screens.dialogs import TextScreen, help_text

        groups = {id.partition(".")[0] for id in self._binding_ids()}
        keys = CommandKeys(self.settings.keys)
        self.push_screen(TextScreen("keys", lambda width: help_text(keys, groups, min(width, 100))))

    def action_detach(self) -> None:
        """On the bench: quit; the runs that continue are printed afterwards. Elsewhere: back."""
        if self.screen is self.bench or self.bench not in self.screen_stack or self._opened:
            self.exit(self.farewell())
        elif back := getattr(self.screen, "action_back", None):
            back()

    def action_preset(self, slot: int) -> None:
        """Select the preset of a number key, on every screen."""
        if name := self.bench.selection_pane.preset_of_slot(slot):
            self._take_preset(name)

    def action_next_preset(self, direction: int) -> None:
        self._take_preset(self.bench.selection_pane.neighbor_preset(direction))

    def _take_preset(self, name: str) -> None:
        if take := getattr(self.screen, "take_preset", None):
            take(name)
            return
        self.bench.take_preset(name)
        self.notify(visible(f"preset of the next run: {name}"), markup=False)

    def farewell(self) -> str:
        """What continues and how to return to it; '' if nothing does."""
        from engine.runs.ladder.ladder_dir import LadderDir
        from engine.runs.run.folder import sort_by_start

        ladders = sort_by_start(self.bench.read_all(LadderDir.iterate(self.runs)), latest_first=True)
        if ladder := next((active for active in ladders if active.is_active()), None):
            return f"detached: the ladder {ladder.name} continues; watch it with `ftbench attach {ladder.argument}`"
        self.bench.live_runs.refresh()
        live = [run for run in self.bench.live_runs.live() if run.is_active()]
        if not live:
            return ""
        if len(live) > 1:
            return f"detached: {len(live)} runs continue; list them with `ftbench runs`"
        return f"detached: {live[0].name} continues; watch it with `ftbench attach {live[0].name}`"


def _leave_when_hung_up() -> None:
    """Send the process SIGHUP when the terminal is gone: Textual would keep reading the end of input, using a core.

    In a thread, because the event loop may be blocked by output that nobody reads when the terminal closes.
    """
    while not hung_up():
        time.sleep(1.0)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)  # interrupts what blocks the event loop


def subclasses(kind: type[Screen[Any]]) -> Iterator[type[Screen[Any]]]:
    """All classes that inherit from it, as far as they are imported."""
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def _import_screens() -> None:
    """Import the other screens, and read what settings mean, before their keys are pressed: it takes up to 0.2 s."""
    for name in ("runs", "launching", "presets", "configuration", "models", "charts", "ladder", "processes", "adding"):
        importlib.import_module(f"tui.screens.{name}")
    importlib.import_module("tui.palette")
    importlib.import_module("engine.config.settings").setting_specs()
