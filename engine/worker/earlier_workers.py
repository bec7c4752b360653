"""Read what earlier workers of a resumed run logged, as far as the current worker needs it."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.runs.run.event_log import Follower
from engine.runs.run.events import Checkpoint, DataPrepared, Eval, Hello, MicroBatchReduced, ModelLoaded, Plan
from engine.runs.run.result_builder import damage
from engine.runs.run.run_dir import RunDir


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
    found, follower, count = EarlierWorkers(), Follower(run.events_file), 0
    started: Hello | None = None
    for portion in follower.portions(Hello, DataPrepared, ModelLoaded, Plan, MicroBatchReduced, Checkpoint, Eval):
        for event in portion:
            count += 1
            match event:
                case Hello():
                    if started is not None:
                        found.devices = started.config.get("train.devices", 1)
                    started = event
                case DataPrepared():
                    found.data = found.data or event
                case ModelLoaded():
                    found.model, found.optimizer = event.fingerprint, event.optimizer
                case Plan() | MicroBatchReduced():
                    found.micro_batch = event.micro_batch
                    if isinstance(event, MicroBatchReduced) and event.restarted:
                        found.reduced_to = event.micro_batch
                case Checkpoint():
                    found.checkpoint = event.path
                case Eval(when="before"):
                    found.before = event
    if follower.damaged:
        found.problems.append(damage(follower.damaged))
    elif count < 2 and has_work(run):  # only the hello of the current worker
        what = "events.jsonl is missing or empty: times, losses and warnings from before this resume are lost"
        found.problems.append(what)
    return found


def has_work(run: RunDir) -> bool:
    """Whether an earlier worker saved predictions, a checkpoint or a model."""
    return run.predictions_file.exists() or run.model.exists() or any(run.checkpoints.glob("step-*"))
