"""How a run ended: its outcome after an error, what to do next and with less memory, and its last records."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from typing import NamedTuple

from engine.config.device_defaults import EVERY_LAYER, OFFLOADED, resolve_checkpointing
from engine.config.errors import RunFailed, UserError, error_text
from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.memory.formula.estimate import Device
from engine.methods.machine import is_out_of_memory
from engine.runs.run.event_log import EventLog
from engine.runs.run.events import End, Status
from engine.runs.run.run_dir import FrozenRun, RunDir, write_end
from engine.runs.stopping import StopRequested
from engine.training import sharding
from engine.training.guards import DiskFull, Diverged, OutOfMemory, first_line, is_disk_full


class RunOutcome(NamedTuple):
    """The outcome of a run; `user`: the user's input caused it."""

    status: Status
    reason: str = ""
    user: bool = False
    code: str = ""
    is_expected: bool = True
    """False for an unexpected exception, which may be a consequence of another rank's end."""

    @property
    def is_failure(self) -> bool:
        return self.status in ("failed", "out_of_memory", "diverged")

    @property
    def needs_restart(self) -> bool:
        """Whether the ranks of a sharded model must start again, with smaller micro-batches: one is out of memory, and
        the others are within the same layer.
        """
        return self.status == "out_of_memory" and sharding.in_use()


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
        case OutOfMemory():
            reason = f"{error}; {memory_advice(config, device)}"
            return RunOutcome("out_of_memory", reason, code="run.out_of_memory")
        case Diverged():
            latest = last_checkpoint or "none"
            advice = "use a smaller `--set train.learning_rate=RATE` or `--set train.max_grad_norm=N`"
            reason = f"{error}; latest good checkpoint: {latest}; {advice}"
            return RunOutcome("diverged", reason, code="run.diverged")
        case DiskFull():
            reason = f"{error}; free disk space, then run {resume}"
            return RunOutcome("failed", reason, code="disk.full")
    traceback.print_exception(error)
    if is_out_of_memory(error):
        reason = f"{first_line(error)}; {memory_advice(config, device)}"
        return RunOutcome("out_of_memory", reason, code="run.out_of_memory")
    if is_disk_full(error):
        reason = f"disk full: {error}; free disk space, then run {resume}"
        return RunOutcome("failed", reason, code="disk.full")
    reason = f"{error_text(error)}; see the traceback in {run_dir.log_file}"
    known = isinstance(error, RunFailed)
    return RunOutcome(
        "failed", reason, code=error.code if isinstance(error, RunFailed) else "run.unexpected_error", is_expected=known
    )


def memory_advice(config: Config, device: Device) -> str:
    """Settings to change for lower memory use, given the current configuration."""
    ideas = []
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
        write_end(run_dir, frozen, log, End(status=outcome.status, reason=outcome.reason))
    except OSError as error:
        text = f"{outcome.reason or outcome.status}; the result could not be written: {error.strerror}"
        written = run_dir.record_end(outcome.status, text)
        with contextlib.suppress(OSError):  # engine.log may be on the same full disk
            print(text if written else f"{text}; nor could end.json", file=sys.stderr, flush=True)
    return 0 if outcome.status in ("finished", "stopped") else 2 if outcome.user else 1
