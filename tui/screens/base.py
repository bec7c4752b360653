"""The base classes of full screens, dialogs, and screens with keys that act on a run; a confirmation dialog."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from engine.config.errors import RunFailed, UserError
from engine.config.text import visible
from tui.commands import ADDED_KEYS, bindings
from tui.settings import app_keys, tell
from tui.widgets.text_rows import KeyLine, Rows

if TYPE_CHECKING:
    from engine.runs.queue.device_queue import QueuePlace
    from engine.runs.run.run_dir import RunDir
    from tui.background import BackgroundRequest

R = TypeVar("R")
F = TypeVar("F")


class BaseScreen(Screen[R]):
    """Reports actions that fail, and files that cannot be read, once per error."""

    tell = tell
    _read_errors: Mapping[str, str] = {}
    """What could not be read the last time, and why."""
    is_starting = False
    """Whether this screen is starting a run or ladder."""
    started_at = -math.inf
    """When the last start ended, in seconds of the monotonic clock."""
    request: BackgroundRequest | None = None
    """The request to the engine in progress; cancelled when the screen is closed."""

    def set_text(self, id: str, text: str | Content) -> None:
        """Show one line of text, literally, or content in the Static with this id."""
        self.query_one(f"#{id}", Static).update(Content(visible(text)) if isinstance(text, str) else text)

    def is_useful(self, command: str) -> bool:
        """Whether a command of this screen would do something now: its key is shown only then.

        If the key is pressed anyway, the command shows a notification.
        """
        return True

    def finished_runs(self, purpose: str) -> list[RunDir]:
        """The finished runs that keys of this screen act on; a notification if there is none to `purpose`."""
        return []

    def has_finished_run(self) -> bool:
        """Whether there is one."""
        return False

    def action_extension(self, id: str) -> None:
        """What an extension does for its key on this screen."""
        with self.errors_told("warning"):
            ADDED_KEYS[id].act(self)

    def on_unmount(self) -> None:
        if self.request:
            self.request.cancel()

    def action_back(self) -> None:
        self.dismiss()

    def on_screen_suspend(self) -> None:
        """Clear the line of keys: a dialog lists its own, and the screen behind it takes none."""
        for keys in self.query(KeyLine):
            keys.redraw()

    def on_screen_resume(self) -> None:
        """Draw the rows that changed while another screen was above."""
        for rows in self.query(Rows):
            rows.refresh()
        for keys in self.query(KeyLine):
            keys.redraw()

    def queue(self) -> list[QueuePlace]:
        """Who uses each device and who waits; empty while the lock folder cannot be used, which is reported once."""
        from engine.runs.queue import device_queue

        return self._read_reported(device_queue.queue_places, "cannot read the device queue: ")

    def read_all(self, folders: Iterator[F]) -> list[F]:
        """Runs or ladders of a folder; empty while it cannot be read (a stalled network disk), reported once."""
        return self._read_reported(lambda: folders)

    def _read_reported(self, read: Callable[[], Iterable[F]], what: str = "") -> list[F]:
        items, text = list[F](), ""
        try:
            items = list(read())
        except (UserError, OSError) as error:
            text = f"{what}{error}; ftbench will retry"
            if text != self._read_errors.get(what):
                self.tell(text, severity="error", timeout=15)
        self._read_errors = {**self._read_errors, what: text}
        return items

    def confirm(self, question: str, action: Callable[[], object]) -> None:
        """Ask, and act if the answer is yes; an error becomes a notification."""

        def answered(yes: bool | None) -> None:
            with self.errors_told():
                if yes:
                    action()

        self.app.push_screen(ConfirmScreen(question), answered)

    def start_in_thread(self, start: Callable[[], F], started: Callable[[F], object] = lambda _: None) -> None:
        """Start a run or ladder in a thread: its process may take half a minute to appear. Not during another start.

        `started` is called with it, unless the screen was closed.
        """

        def ended(take: Callable[[], object]) -> None:
            self.is_starting, self.started_at = False, time.monotonic()
            with self.errors_told():
                take()
            if self.is_attached:
                self.show_starting()

        def work() -> None:
            try:
                what = start()
            except (UserError, RunFailed) as error:
                text = str(error)
                self.app.call_later(ended, lambda: self.tell(text, severity="error", timeout=10))
            else:
                self.app.call_later(ended, lambda: started(what) if self.is_attached else None)

        if not self.is_starting:
            self.is_starting = True
            self.app.run_worker(work, thread=True)  # of the app: it outlives the screen
            self.show_starting()

    def show_starting(self) -> None:
        """Show whether something is starting."""
        if self.is_starting:
            self.tell("starting …", timeout=2)

    @contextmanager
    def errors_told(self, severity: Literal["warning", "error"] = "error") -> Iterator[None]:
        """A context in which a UserError or RunFailed ends the block and becomes a notification."""
        try:
            yield
        except (UserError, RunFailed) as error:
            self.tell(str(error), severity=severity, timeout=10)


class Dialog(ModalScreen[R], BaseScreen[R]):
    """A screen over another one, with the keys that work everywhere: Textual hides the app's from a modal screen."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("app")
    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > Vertical { height: auto; border: round $primary; padding: 0 1; background: $background; }
    Dialog Static { height: auto; }
    """


class ConfirmScreen(Dialog[bool]):
    """Closes with True on enter, with False on escape or q."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "dismiss(True)", "yes"),
        Binding("escape,q", "dismiss(False)", "no"),
    ]
    CSS = """
    ConfirmScreen > Vertical { width: 76; max-width: 95%; padding: 1 2; }
    """

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Content(visible(self.question)))
            yield Static(Content.styled("enter yes   escape no", "$foreground-muted"))


class RunActions(BaseScreen[R]):
    """A screen with keys that act on a run."""

    resume_command: ClassVar[str]
    """Id of the command that resumes a run."""

    def selected_run(self) -> RunDir | None:
        """The run that keys act on."""
        raise NotImplementedError

    def run_to_resume(self) -> RunDir | None:
        return self.selected_run()

    def show_run(self, run: RunDir) -> None:
        """Show a run that was started or resumed."""
        raise NotImplementedError

    def action_stop(self) -> None:
        """Stop after asking; the run may end meanwhile."""
        from engine.runs import start

        if run := self._active_run():
            question = f"Stop {run.name}? It finishes its step and saves a checkpoint."
            self.confirm(question, lambda: self._signal(start.stop, run))

    def action_pause(self) -> None:
        """Pause without asking: nothing is lost."""
        from engine.runs import start

        if (run := self._active_run()) is None:
            return
        waits = any(turn.run == run.path and turn.place for turn in self.queue())
        if self._signal(start.pause, run):
            how = "it leaves the queue" if waits else "it finishes its step, saves a checkpoint and releases the GPU"
            self.tell(f"pausing {run.name}: {how}; press {app_keys(self).of(self.resume_command)} to resume")

    def action_resume(self) -> None:
        from engine.runs.start import resume_run

        if (run := self.run_to_resume()) is None:
            self.tell("no run to resume", severity="warning")
            return

        def resume(run: RunDir) -> RunDir:
            resume_run(run)
            return run

        self.start_in_thread(partial(resume, run), self.show_run)

    def _active_run(self) -> RunDir | None:
        """The selected run while its worker is running; else a notification."""
        run = self.selected_run()
        if run is not None and run.is_active():
            return run
        self.tell("no active run selected", severity="warning")
        return None

    def _signal(self, send: Callable[[RunDir], None], run: RunDir) -> bool:
        """Whether the worker received the signal; else a notification says why not."""
        with self.errors_told():
            try:
                send(run)
                return True
            except ProcessLookupError:
                self.tell(f"{run.name} has just ended", severity="warning")
        return False
