"""What ended a run, and what to do next: its outcome after an error, and settings that need less memory."""

from __future__ import annotations

import json
import traceback
from typing import NamedTuple

from engine.config.activation_checkpointing import EVERY_LAYER, OFFLOADED, resolve_checkpointing
from engine.config.errors import RunFailed, UserError
from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.memory.formula.estimate import Device
from engine.runs.run.events import Status
from engine.runs.stopping import StopRequested
from engine.training import sharding
from engine.training.guards import DiskFull, Diverged, OutOfMemory, first_line, is_disk_full, is_out_of_memory
from engine.worker.run_context import RunContext


class RunOutcome(NamedTuple):
    """The outcome of a run; `user`: the user's input caused it."""

    status: Status
    reason: str = ""
    user: bool = False
    code: str = ""
    is_expected: bool = True
    """False for an unexpected exception, which may be a consequence of another rank's end."""

    @property
    def needs_restart(self) -> bool:
        """Whether the ranks of a sharded model must start again, with smaller micro-batches: one is out of memory, and
        the others are within the same layer.
        """
        return self.status == "out_of_memory" and sharding.in_use()


def outcome_of_error(run: RunContext, error: Exception) -> RunOutcome:
    """The outcome of a run that this error ended. Prints the traceback of an unexpected error to the run's log."""
    match error:
        case StopRequested():
            return RunOutcome("stopped", _resume_hint(run))
        case UserError():
            return RunOutcome("failed", error.line, user=True, code=error.code)
        case OutOfMemory():
            reason = f"{error}; {memory_advice(run.config, run.machine.device)}"
            return RunOutcome("out_of_memory", reason, code="run.out_of_memory")
        case Diverged():
            latest = run.last_checkpoint or "none"
            advice = "lower train.learning_rate or train.max_grad_norm"
            reason = f"{error}; latest good checkpoint: {latest}; {advice}"
            return RunOutcome("diverged", reason, code="run.diverged")
        case DiskFull():
            reason = f"{error}; free disk space, then run `ftbench resume {run.dir.argument}`"
            return RunOutcome("failed", reason, code="disk.full")
    traceback.print_exception(error)
    if is_out_of_memory(error):
        reason = f"{first_line(error)}; {memory_advice(run.config, run.machine.device)}"
        return RunOutcome("out_of_memory", reason, code="run.out_of_memory")
    if is_disk_full(error):
        reason = f"disk full: {error}; free disk space, then run `ftbench resume {run.dir.argument}`"
        return RunOutcome("failed", reason, code="disk.full")
    text = " ".join(str(error).split())[:300]
    reason = f"{type(error).__name__}: {text}; see the traceback in {run.dir.log_file}"
    known = isinstance(error, RunFailed)
    return RunOutcome(
        "failed", reason, code=error.code if isinstance(error, RunFailed) else "run.unexpected_error", is_expected=known
    )


def _resume_hint(run: RunContext) -> str:
    saved = f"at {run.last_checkpoint}" if run.last_checkpoint else "without a checkpoint"
    return f"stopped on request {saved}; run `ftbench resume {run.dir.argument}` to resume"


def memory_advice(config: Config, device: Device) -> str:
    """Settings to change for lower memory use, given the current configuration."""
    ideas = []
    strongest = EVERY_LAYER if device == "cpu" else OFFLOADED
    if resolve_checkpointing(config.train.gradient_checkpointing, device) != strongest:
        value = json.dumps(strongest.setting)
        ideas.append(f"train.gradient_checkpointing = {value}")
    ideas.append(f"a train.max_length below {config.train.max_length}")
    ideas.append(method_spec(config.method).needs_less or "a smaller model")
    return "try " + ", or ".join(ideas)
