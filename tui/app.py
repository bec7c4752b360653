"""The bench: the Textual app that `ftbench` opens. Quitting it detaches: runs continue.

Screens other than the bench are imported when they are opened, so that the first frame does not wait for them.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from textual import events
from textual.binding import Binding, BindingType
from textual.command import Provider
from textual.dom import DOMNode
from textual.screen import Screen

from engine.config.text import visible
from tui.base_app import BaseApp
from tui.commands import bindings
from tui.keymap import CommandKeys
from tui.screens.bench import BenchScreen
from tui.screens.dialogs import SmallScreen
from tui.settings import Settings
from tui.terminal.drivers import has_job_control
from tui.terminal.themes import MIN_SCREEN_SIZE

if TYPE_CHECKING:
    from engine.config.errors import Notice
    from tui.live.machine import SamplerThread


SMALLEST_BENCH = (40, 10)
"""Columns and lines in which the bench still shows memory, progress and loss."""
STALLED_SECONDS = 1.0
"""After which the next key is handled although the one before is not: a widget that is being removed never answers."""


@runtime_checkable
class PresetTaker(Protocol):
    """A screen that shows the selected preset."""

    def take_preset(self, name: str) -> None:
        """Show another preset."""


def palette_provider() -> type[Provider]:
    """The palette's provider, imported when the palette is first opened."""
    from tui.palette import PaletteProvider

    return PaletteProvider


class Workbench(BaseApp):
    """The bench with other screens above it. Its return value is the message to print after it has closed."""

    TITLE = "ftbench"
    # Absolute, for subclasses elsewhere; here, because Textual does not read the CSS_PATH of a default screen.
    CSS_PATH = Path(__file__).parent / "screens" / "bench.tcss"
    # With priority, because Textual's own binding is not reached from dialogs and the palette.
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("app"),
        Binding("ctrl+c", "leave_hint", show=False, priority=True, system=True),
        Binding("ctrl+z", "suspend_process", show=False, priority=True, system=True),
    ]
    COMMANDS = {palette_provider}
    ENABLE_COMMAND_PALETTE = True

    def __init__(
        self,
        runs: Path,
        settings: Settings | None = None,
        ascii_only: bool = False,
        notices: Callable[[], Sequence[Notice]] = tuple,
        opened: Callable[[], Screen[None]] | None = None,
    ) -> None:
        """`opened`: creates a screen that is shown instead of the bench; the app exits when it is closed."""
        super().__init__(settings, ascii_only)
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
        if event.character == "\n" and not self._is_bound_by_user(event.key):
            event = events.Key("enter", "\r")  # typed before the terminal was in raw mode: the kernel translated it
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

    def _is_bound_by_user(self, key: str) -> bool:
        """Whether the user's settings bind this key to a command."""
        return any(key in map(str.strip, keys.split(",")) for keys in self.settings.keys.values())

    @property
    def smallest(self) -> tuple[int, int]:
        """The bench shows the essentials in less room than other screens need."""
        above = [screen for screen in self.screen_stack if not isinstance(screen, SmallScreen)]
        return SMALLEST_BENCH if above == [self.bench] else MIN_SCREEN_SIZE

    def get_default_screen(self) -> BenchScreen:
        return self.bench

    def on_mount(self) -> None:
        self.prepare_screen()
        if self._opened:
            self.push_screen(self._opened(), lambda _: self.exit())
        self.call_after_refresh(self._finish_start)

    def _finish_start(self) -> None:
        """Do after the first frame what would have delayed it."""
        from tui.live.machine import SamplerThread

        gc.freeze()
        gc.enable()
        self.sampler = SamplerThread(self.bench.post_message, self.bench.follower.process)
        self.sampler.start()
        for notice in self.notices():
            self.notify(visible(notice.text), severity="warning", timeout=15, markup=False)

    def on_unmount(self) -> None:
        if self.sampler:
            self.sampler.leave()
        self.bench.follower.leave()
        self.bench.leave()
        self.restore_handlers()

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
        back = "" if self.screen is self.bench else f"{self._back_key(keys)}, then "
        self.notify(f"Press {back}{keys.of('app.quit')} to detach; runs continue. {done}", markup=False)

    def _back_key(self, keys: CommandKeys) -> str:
        """The key that closes the screen; that of dialogs cannot be changed."""
        return next((keys.of(id) for id in self._binding_ids() if id.endswith(".back")), "escape")

    def _binding_ids(self) -> list[str]:
        """Ids of the current screen's commands, `runs.delete`."""
        return [binding.id or "" for binding in self.screen.BINDINGS if isinstance(binding, Binding)]

    def action_help(self) -> None:
        from tui.screens.dialogs import TextScreen, help_text

        groups = {id.partition(".")[0] for id in self._binding_ids()}
        text = help_text(CommandKeys(self.settings.keys), groups, min(110, self.size.width * 9 // 10) - 6)
        self.push_screen(TextScreen("keys", text))

    def action_detach(self) -> None:
        """On the bench and in a terminal that is too small: quit. Elsewhere: back."""
        leaves = self.screen is self.bench or isinstance(self.screen, SmallScreen)
        if leaves or self.bench not in self.screen_stack or self._opened:
            super().action_detach()
        elif back := getattr(self.screen, "action_back", None):
            back()

    def action_preset(self, slot: int) -> None:
        """Select the preset of a number key, on every screen."""
        if name := self.bench.selection_pane.preset_of_slot(slot):
            self._take_preset(name)

    def action_next_preset(self, direction: int) -> None:
        self._take_preset(self.bench.selection_pane.neighbor_preset(direction))

    def _take_preset(self, name: str) -> None:
        if isinstance(self.screen, PresetTaker):
            self.screen.take_preset(name)
            return
        self.bench.take_preset(name)
        self.notify(visible(f"preset of the next run: {name}"), markup=False)

    def action_jump(self) -> None:
        """Jump to a pane of the bench."""
        if self.screen is self.bench:
            self.bench.action_jump()

    def back_to_bench(self) -> BenchScreen:
        """Close all screens above the bench."""
        while self.screen is not self.bench and self.bench in self.screen_stack:
            self.pop_screen()
        return self.bench

    def farewell(self) -> str:
        """What continues and how to return to it; '' if nothing does."""
        from engine.runs.ladder import ladder_dir

        ladders = self.bench.read_all(ladder_dir.iterate(self.runs))
        if ladder := next((active for active in ladders if active.is_active()), None):
            return f"detached: the ladder {ladder.name} continues; watch it with `ftbench attach {ladder.argument}`"
        live = [run for run in self.bench.live_runs.in_order() if run.is_active()]  # some may have ended since
        if not live:
            return ""
        if len(live) > 1:
            return f"detached: {len(live)} runs continue; list them with `ftbench runs`"
        return f"detached: {live[0].name} continues; watch it with `ftbench attach {live[0].name}`"
