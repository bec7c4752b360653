"""What a worker writes about its run: phases, progress, warnings and how it ended; and what earlier workers wrote.

Also watches the disk (`DiskWatch`), and says what takes less memory (`memory_advice`).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from engine.config.device_defaults import EVERY_LAYER, OFFLOADED, resolve_checkpointing
from engine.config.errors import RunFailed, UserError, error_text, system_hint, system_refusal
from engine.config.method_specs import method_spec, steps_in_backward
from engine.config.quantities import size
from engine.config.schema import Config
from engine.memory.formula.estimate import Device
from engine.methods.machine import is_out_of_memory
from engine.runs.run import events
from engine.runs.run.event_log import E, EventLog, Follower
from engine.runs.run.events import Checkpoint, DataPrepared, Eval, Hello, MicroBatchReduced, ModelLoaded, Plan
from engine.runs.run.result_builder import damage
from engine.runs.run.run_dir import FrozenRun, RunDir, write_end
from engine.runs.stopping import StopRequest, StopRequested
from engine.training.guards import DiskFull, Diverged, OutOfMemory, first_line, is_disk_full
from engine.training.meters import Meters
from engine.training.ranks import Ranks, weights_are_sharded

PROGRESS_SECONDS = 1.0


@dataclass
class RunLog:
    """Writes the events of a run; `step` and `last_checkpoint` say how far it is."""

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
    settled: Config | None = None
    """The configuration without `auto`, once it is decided."""
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
    automatic: dict[str, Any] = field(default_factory=dict)
    """Settings that `auto` chose for the last of them to save memory."""
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
                    earlier.automatic = event.automatic if isinstance(event, Plan) else earlier.automatic
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


class RunOutcome(NamedTuple):
    """The outcome of a run; `user`: whether the user's input caused it."""

    status: events.Status
    reason: str = ""
    user: bool = False
    code: str = ""
    is_expected: bool = True
    """False for an exception that ftbench does not recognize. With several ranks, another rank's failure may be the
    cause."""

    @property
    def needs_restart(self) -> bool:
        """Whether the ranks of a sharded model must start again, with smaller micro-batches: one is out of memory, and
        the others are within the same layer.
        """
        return self.status == "out_of_memory" and weights_are_sharded()


def outcome_of_error(
    error: Exception, config: Config, run_dir: RunDir, device: Device, last_checkpoint: str
) -> RunOutcome:
    """The outcome of a run that this error ended. Prints the traceback of an unexpected error to the run's log.

    `last_checkpoint`: path of the latest complete one in the run's directory, "" if there is none.
    """
    resume = f"`ftbench resume {run_dir.argument}`"
    match error:
        case StopRequested():
            saved = f"at {last_checkpoint}" if last_checkpoint else "without a checkpoint"
            return RunOutcome("stopped", f"stopped on request {saved}; run {resume} to resume")
        case UserError():
            return RunOutcome("failed", error.line, user=True, code=error.code)
        case Diverged():
            latest = last_checkpoint or "none"
            advice = "use a smaller `--set train.learning_rate=RATE` or `--set train.max_grad_norm=N`"
            reason = f"{error}; latest good checkpoint: {latest}; {advice}"
            return RunOutcome("diverged", reason, code="run.diverged")
    is_refused = isinstance(error, OSError) and bool(system_hint(error))
    if not isinstance(error, OutOfMemory | DiskFull) and not is_refused:
        traceback.print_exception(error)
    if isinstance(error, OutOfMemory) or is_out_of_memory(error):
        reason = f"{first_line(error)}; {memory_advice(config, device)}"
        return RunOutcome("out_of_memory", reason, code="run.out_of_memory")
    if isinstance(error, DiskFull) or is_disk_full(error):
        text = error if isinstance(error, DiskFull) else f"disk full: {error}"
        return RunOutcome("failed", f"{text}; free disk space, then run {resume}", code="disk.full")
    if isinstance(error, OSError) and is_refused:
        refusal = system_refusal(error, str(run_dir.path))
        return RunOutcome("failed", f"{refusal.line}, then run {resume}", code=refusal.code)
    reason = f"{error_text(error)}; see the traceback in {run_dir.log_file}"
    if isinstance(error, RunFailed):
        return RunOutcome("failed", reason, code=error.code)
    return RunOutcome("failed", reason, code="run.unexpected_error", is_expected=False)


def memory_advice(config: Config, device: Device) -> str:
    """Settings to change for lower memory use, given the current configuration."""
    ideas = []
    if steps_in_backward(config):
        ideas.append(f"fewer rows per step, `--set train.batch={max(1, config.train.batch // 2)}`")
    strongest = EVERY_LAYER if device == "cpu" else OFFLOADED
    if resolve_checkpointing(config.train.gradient_checkpointing, device) != strongest:
        ideas.append(f"`--set train.gradient_checkpointing={json.dumps(strongest.setting)}`")
    ideas.append(f"shorter rows, `--set train.max_length={max(1, config.train.max_length // 2)}`")
    ideas.append(method_spec(config.method).needs_less or "a smaller model")
    return "try " + ", or ".join(ideas)


def write_outcome(run_dir: RunDir, frozen: FrozenRun, log: EventLog, outcome: RunOutcome) -> int:
    """Write the `end` event, then `result.json`; if that fails, the reason to the reserved `end.json`.

    Returns the exit status of the worker.
    """
    try:
        write_end(run_dir, frozen, log, events.End(status=outcome.status, reason=outcome.reason))
    except OSError as error:
        text = f"{outcome.reason or outcome.status}; the result could not be written: {error.strerror}"
        written = run_dir.record_end(outcome.status, text)
        with contextlib.suppress(OSError):  # engine.log may be on the same full disk
            print(text if written else f"{text}; nor could end.json", file=sys.stderr, flush=True)
    return 0 if outcome.status in ("finished", "stopped") else 2 if outcome.user else 1
