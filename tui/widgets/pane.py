"""The protocol of the bench's panes, the state they show, and the panes that installed packages add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast, runtime_checkable

from textual.widget import Widget

from engine.config.hooks import load_all

if TYPE_CHECKING:  # not imported: the first frame has neither a run nor a sample
    from tui.history.run_list import ResumableRun
    from tui.live.machine import MachineSample
    from tui.live.run_state import ExpectedPeak, RunState


@dataclass(frozen=True)
class BenchState:
    """Everything the bench knows; handed to every pane about once per second, and at once after an urgent event."""

    runs: Path
    """The folder of runs."""
    run: RunState | None = None
    """The watched run."""
    sample: MachineSample | None = None
    """The latest sample of GPUs and memory, one per second."""
    expected_peak: ExpectedPeak | None = None
    """Peak memory of the watched run while it is running, else of the selection."""
    live: bool = False
    """Whether the worker of the watched run is running."""
    processes: Mapping[int, str] = field(default_factory=dict)
    """Short name of the run of each process of ftbench."""
    next_gpu: str | None = None
    """Label of the GPU or MIG instance that the next run uses: `1` or `1.0`."""
    on_cpu: bool = False
    """Whether the watched run, or the next one if it is not running, uses the CPU."""
    resumable: Sequence[ResumableRun] = ()
    """Runs that can be resumed, the latest first."""


@runtime_checkable
class Pane(Protocol):
    """A widget that shows a part of the bench's state.

    Focus and keys are those of every Textual widget: `can_focus` and `BINDINGS`. A pane sets its own `border_subtitle`.
    """

    pane_name: ClassVar[str]
    """Its id and first title: one lower-case word."""
    letter: ClassVar[str]
    """Focuses it after the key that jumps to a pane; '' for a pane without focus."""

    def show_state(self, state: BenchState) -> None:
        """Draw what has changed. Called about once per second, and at once after an important event."""


def make_pane(kind: type[Widget]) -> Widget:
    """A pane with its name as id and first title."""
    name = cast(type[Pane], kind).pane_name
    pane = kind(id=name, classes="pane")
    pane.border_title = name
    return pane


def added_panes() -> Iterator[type[Widget]]:
    """The panes of extensions. Raises UserError for one that cannot be imported or is not a pane."""

    def is_pane(loaded: Any) -> bool:
        names = ("pane_name", "letter", "show_state")
        return isinstance(loaded, type) and issubclass(loaded, Widget) and all(hasattr(loaded, name) for name in names)

    yield from (pane for _, pane in load_all("ftbench.panes", "a Widget with the protocol Pane", is_pane))
