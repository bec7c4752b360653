"""The log of a run in its worker: phases, progress and warnings, and what the log of earlier workers says."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine.config.quantities import size
from engine.runs.run import events
from engine.runs.run.event_log import E, EventLog, Follower
from engine.runs.run.events import Checkpoint, DataPrepared, Eval, Hello, MicroBatchReduced, ModelLoaded, Plan
from engine.runs.run.result_builder import damage
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import StopRequest, StopRequested
from engine.training.meters import Meters
from engine.training.ranks import Ranks

PROGRESS_SECONDS = 1.0


@dataclass
class RunLog:
    """Writes the events of a run, and knows how far they say that it is."""

    event_log: EventLog
    stopping: StopRequest
    ranks: Ranks
    meters: Meters
    step: int = 0
    """The last optimizer step of the run, by this worker or an earlier one."""
    has_trained: bool = False
    """Whether this worker has done an optimizer step."""
    last_checkpoint: str = ""
    """Path of the latest complete checkpoint in the run's directory."""
    current_phase: events.PhaseName = "waiting"
    progress_logged: float = field(default_factory=time.monotonic)
    """Time of the last progress event, or of the start of the phase."""

    def write(self, event: E) -> E:
        """Append an event. Raises OSError on a full disk."""
        return self.event_log.write(event)

    def warn(self, code: str, text: str) -> None:
        """Log a warning; `code` is stable and dotted, such as `gpu.shared`."""
        self.write(events.Warning(code=code, text=text))

    def phase(self, name: events.PhaseName) -> None:
        """Start a phase, on all ranks together. Raises StopRequested after a stop request to any of them."""
        if self.ranks.any(self.stopping.requested):
            raise StopRequested
        if self.meters.gpu:  # energy is attributed to phases
            self.meters.sample()
        self.write(events.Phase(name=name))
        self.current_phase, self.progress_logged = name, time.monotonic()
        with contextlib.suppress(OSError):  # engine.log may be on a full disk while the event log is not
            if self.ranks.is_first:
                print(f"[{time.strftime('%H:%M:%S')}] {name}", flush=True)

    def check_stop(self) -> None:
        """Raise StopRequested after a stop request.

        Only on the first rank, whose end ends the others: one that stopped alone would leave them waiting.
        """
        if self.ranks.is_first:
            self.stopping.check()

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Log the rows done in a long phase, at most once a second. Raises StopRequested as `check_stop`."""
        self.check_stop()
        now = time.monotonic()
        if now - self.progress_logged >= PROGRESS_SECONDS:
            self.progress_logged = now
            self.write(events.Progress(phase=self.current_phase, text=what, done=done, total=total))


@dataclass
class EarlierWorkers:
    """State logged by the earlier workers of a run; empty for the first worker."""

    micro_batch: int | None = None
    """Their last micro-batch size: another size would change the rounding of the loss."""
    reduced_to: int | None = None
    """The size to which ranks that were out of memory reduced it before they started again."""
    devices: int | None = None
    """On how many devices the last of them trained."""
    data: DataPrepared | None = None
    """The rows of the first worker."""
    model: str = ""
    """Fingerprint of the weights."""
    model_id: str = ""
    """Where they were read from."""
    optimizer: str = ""
    """The optimizer of the last of them."""
    before: Eval | None = None
    """The score before training: of the base model, or of what the run starts from."""
    checkpoint: str = ""
    """Path of their last checkpoint in the run's directory."""
    problems: list[str] = field(default_factory=list)
    """What is missing from the log."""


def earlier_workers(run: RunDir) -> EarlierWorkers:
    """Read the log up to this worker's `hello`, skipping steps and samples."""
    earlier, follower, count = EarlierWorkers(), Follower(run.events_file), 0
    started: Hello | None = None
    for portion in follower.portions(Hello, DataPrepared, ModelLoaded, Plan, MicroBatchReduced, Checkpoint, Eval):
        for event in portion:
            count += 1
            match event:
                case Hello():
                    if started is not None:
                        earlier.devices = started.config.get("train.devices", 1)
                    started = event
                case DataPrepared():
                    earlier.data = earlier.data or event
                case ModelLoaded():
                    earlier.model, earlier.model_id, earlier.optimizer = event.fingerprint, event.id, event.optimizer
                case Plan() | MicroBatchReduced():
                    earlier.micro_batch = event.micro_batch
                    if isinstance(event, MicroBatchReduced) and event.restarted:
                        earlier.reduced_to = event.micro_batch
                case Checkpoint():
                    earlier.checkpoint = event.path
                case Eval(when="before"):
                    earlier.before = event
    if follower.damaged:
        earlier.problems.append(damage(follower.damaged))
    elif count < 2 and (  # only the hello of the current worker, though an earlier one saved something
        run.predictions_file.exists() or run.model.exists() or any(run.checkpoints.glob("step-*"))
    ):
        what = "events.jsonl is missing or empty: times, losses and warnings from before this resume are lost"
        earlier.problems.append(what)
    return earlier


CHECK_SECONDS = 30.0
LOG_BYTES = 64 << 20
"""Reserved for events, predictions and result."""


@dataclass
class DiskWatch:
    """Compares free space with the size of checkpoints, at most every CHECK_SECONDS; warns once per worker."""

    folder: Path
    warn: Callable[[str, str], None]
    checkpoint: int = 0
    """Bytes of the latest checkpoint; 0 before the first, whose space was checked before training."""
    warned: bool = False
    checked: float = field(default_factory=time.monotonic)

    def saved(self, bytes_: int) -> None:
        """Take note of a checkpoint, and check at once."""
        self.checkpoint = bytes_
        self._check()

    def step(self) -> None:
        """Check if it is time to."""
        if time.monotonic() - self.checked >= CHECK_SECONDS:
            self._check()

    def _check(self) -> None:
        self.checked = time.monotonic()
        if self.warned:
            return
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:  # deleted or unmounted: writing the next event reports it
            return
        needed = 2 * self.checkpoint + LOG_BYTES  # the next checkpoint and the model
        if free < needed:
            self.warned = True
            self.warn(
                "disk.low",
                f"low disk space: {size(free)} left, and the next checkpoint and the model need about {size(needed)}; "
                "free some (`ftbench clean` shows what can be removed), or the run stops when the disk is full",
            )
