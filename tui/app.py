"""The bench: the Textual app that `ftbench` opens. Quitting it detaches: runs continue.

Screens other than the bench are imported when they are opened, so that the first frame does not wait for them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from textual import events
from textual.binding import Binding, BindingType
from textual.command import Provider
from textual.screen import Screen
from textual.widget import Widget

from engine.config.text import visible
from tui.base_app import BaseApp
from tui.commands import bindings
from tui.keymap import CommandKeys
from tui.screens.bench import BenchScreen
from tui.settings import Settings

if TYPE_CHECKING:
    from engine.config.errors import Notice
    from tui.live.machine import SamplerThread


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
        self._key_targets: WeakKeyDictionary[events.Key, Widget | None] = WeakKeyDictionary()
        """Keys that are not handled yet, and the widget that had the focus when they arrived."""

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
        text = help_text(CommandKeys(self.settings.keys), groups)
        self.push_screen(TextScreen("keys", text))

    def action_queue(self) -> None:
        from tui.screens.processes import QueueScreen

        self.push_screen(QueueScreen())

    def back_to_bench(self) -> BenchScreen:
        """Close all screens above the bench."""
        while self.screen is not self.bench and self.bench in self.screen_stack:
            self.pop_screen()
        return self.bench

    def farewell(self) -> str:
        """What continues and how to return to it; '' if nothing does."""
        from engine.runs.ladder import ladder_dir

        ladders = self.bench.read_all(ladder_dir.iterate(self.runs))
        if ladder := next((one for one in ladders if one.is_active()), None):
            return f"detached: the ladder {ladder.name} continues; watch it with `ftbench attach {ladder.argument}`"
        live = [run for run in self.bench.live_runs.in_order() if run.is_active()]  # some may have ended since
        if not live:
            return ""
        if len(live) > 1:
            return f"detached: {len(live)} runs continue; list them with `ftbench runs`"
        return f"detached: {live[0].name} continues; watch it with `ftbench attach {live[0].name}`"
