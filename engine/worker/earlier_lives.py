"""What the earlier workers of a resumed run wrote, as far as the present one needs it."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.runs.events import Data, Eval, Hello, MicroBatch, ModelLoaded, Plan
from engine.runs.follow import Follower
from engine.runs.result_builder import damage
from engine.runs.run_dir import RunDir


@dataclass
class EarlierLives:
    """Empty for a run's first worker."""

    micro_batch: int | None = None
    """What they trained with at last: another one would round differently."""
    data: Data | None = None
    """The rows that the first of them began with."""
    model: str = ""
    """Fingerprint of the weights."""
    before: Eval | None = None
    """The score of the base model."""
    complaints: list[str] = field(default_factory=list)
    """What is missing of their events."""


def earlier_lives(run: RunDir) -> EarlierLives:
    """Read the log up to this worker's hello, without the steps and samples."""
    found, follower, count = EarlierLives(), Follower(run.events_file), 0
    for portion in follower.portions(Hello, Data, ModelLoaded, Plan, MicroBatch, Eval):
        for event in portion:
            count += 1
            match event:
                case Data():
                    found.data = found.data or event
                case ModelLoaded():
                    found.model = event.fingerprint
                case Plan() | MicroBatch():
                    found.micro_batch = event.micro_batch
                case Eval(when="before"):
                    found.before = event
    if follower.damaged:
        found.complaints.append(damage(follower.damaged))
    elif count < 2 and has_work(run):  # nothing but the hello of the present worker
        what = "events.jsonl is missing or was emptied: times, losses and warnings of this run's earlier part are lost"
        found.complaints.append(what)
    return found


def has_work(run: RunDir) -> bool:
    """Whether an earlier worker left anything of its work."""
    return run.predictions_file.exists() or run.model.exists() or any(run.checkpoints.glob("step-*"))
