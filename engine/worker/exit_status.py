"""How a run ends that does not finish: what went wrong becomes an outcome, with the next thing to do."""

from __future__ import annotations

import traceback
from typing import NamedTuple

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.runs.events import Status
from engine.runs.stop_request import StopRequested
from engine.training.guards import DiskFull, Diverged, OutOfMemory, first_line, is_disk_full, is_out_of_memory
from engine.worker.run_context import RunContext


class RunOutcome(NamedTuple):
    """A run's outcome; `user`: the user's input was wrong."""

    status: Status
    reason: str = ""
    user: bool = False


def outcome_of(run: RunContext, error: Exception) -> RunOutcome:
    """The outcome of a run that this error ended. What nobody foresaw leaves its traceback in the run's log."""
    match error:
        case StopRequested():
            return RunOutcome("stopped", _resume_hint(run))
        case UserError():
            return RunOutcome("failed", error.line, user=True)
        case OutOfMemory():
            return RunOutcome("out_of_memory", f"{error}; {what_would_fit(run.config)}")
        case Diverged():
            best = run.last_checkpoint or "none was made"
            advice = "lower train.learning_rate or train.max_grad_norm"
            return RunOutcome("diverged", f"{error}; last good checkpoint: {best}; {advice}")
        case DiskFull():
            return RunOutcome("failed", f"{error}; free some space, then `ftbench resume {run.dir.name}`")
    traceback.print_exception(error)
    if is_out_of_memory(error):
        return RunOutcome("out_of_memory", f"{first_line(error)}; {what_would_fit(run.config)}")
    if is_disk_full(error):
        return RunOutcome("failed", f"the disk is full ({error}); free some space, then resume")
    text = " ".join(str(error).split())[:300]
    return RunOutcome("failed", f"{type(error).__name__}: {text}; the traceback is in {run.dir.log_file}")


def what_would_fit(config: Config) -> str:
    """The next smaller thing to try, by what is on now."""
    ideas = []
    if config.train.gradient_checkpointing is not True:
        ideas.append("train.gradient_checkpointing = true")
    ideas.append(f"train.max_length below {config.train.max_length}")
    ideas.append(method_spec(config.method).needs_less or "a smaller model")
    return "try " + ", or ".join(ideas)


def _resume_hint(run: RunContext) -> str:
    kept = run.last_checkpoint
    return f"as asked{f', {kept} kept' if kept else ''}; `ftbench resume {run.dir.name}` goes on"
