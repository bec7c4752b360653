"""The events that a worker appends to `events.jsonl`, one JSON object per line.

Every event carries `v` (schema version), `seq` (1, 2, 3 …), `t` (Unix seconds), `elapsed` (seconds since this worker
started) and `type`. Readers ignore unknown types and fields. JSON has no NaN: a number that is not finite is written
as null. Everything in `result.json` comes from these events (`result_builder`): a fact that belongs into the result
needs an event. New fields have a default, so that files of earlier versions stay readable.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from engine.config.split_version import OLDEST
from engine.runs.overlap import SplitOverlap
from engine.runs.renamed_fields import EVENT_FIELDS, SCHEMA_VERSION, current_event
from engine.runs.result import Interval, Predicted
from engine.runs.result import Status as Status

PhaseName = Literal["waiting", "data", "model", "baseline", "training", "evaluation", "saving"]


class Event(msgspec.Struct, kw_only=True, tag_field="type"):
    """What all events share; the log fills these in."""

    v: int = SCHEMA_VERSION
    seq: int = 0
    t: float = 0.0
    elapsed: float | None = None
    """Seconds since this worker opened its log, by the monotonic clock: durations survive a change of the time."""


class Hello(Event, tag="hello"):
    """The worker is alive; written before torch is imported."""

    pid: int
    host: str
    version: str
    resumed: bool = False
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    """The frozen configuration by dotted key, without unset keys: a resume compares `run.toml` with it."""


class Environment(Event, tag="environment"):
    """Library versions and the machine, by which results are compared."""

    versions: dict[str, str]
    machine: dict[str, Any]


class Phase(Event, tag="phase"):
    name: PhaseName
    note: str = ""


class Data(Event, tag="data"):
    """The rows as they will be used."""

    train: int
    validation: int
    test: int
    format: str
    format_reason: str
    """Why the rows were read in this format."""
    fingerprint: str
    test_fingerprint: str = ""
    tokens: int = 0
    """In the training rows, once through."""
    answer_tokens: int = 0
    """In the loss, once through."""
    columns: list[dict[str, Any]] = []
    """What each column is used for; in runs of earlier versions absent, as the account."""
    account: dict[str, Any] | None = None
    """Where every row went."""
    test_items: int | None = None
    """Distinct prompts among the test rows that are scored; null in runs of before it was recorded."""
    split_version: int = OLDEST
    """The rule by which rows were split; runs of different rules are not compared."""
    overlap: dict[str, SplitOverlap] = msgspec.field(default_factory=dict)
    """`test/train` and `validation/train`."""


class Progress(Event, tag="progress"):
    """How far a long phase has come, at most once a second; no event of its own in a short one."""

    phase: PhaseName
    text: str
    """What is being done: `tokenizing`."""
    done: int
    """Rows."""
    total: int | None = None
    """Of how many; None where that is not known yet."""


class ModelLoaded(Event, tag="model"):
    id: str
    architecture: str
    parameters: int
    trainable: int
    dtype: str
    device: str
    attention: str
    optimizer: str
    fingerprint: str
    resident_before: int | None = None
    """Resident bytes of the worker before it loaded the model."""


class Plan(Event, tag="plan"):
    """What the training will do, and where it begins (after a resume, not at 0).

    A second one corrects the first when the longest batch has been tried. Bytes are counted like
    `Result.peak_training_bytes`.
    """

    steps: int
    start_step: int
    batch: int
    micro_batch: int
    packing: str
    gradient_checkpointing: bool
    predicted: int | None = None
    """The peak of training, by the dry run or, where there is none, the formula."""
    predicted_evaluation: int | None = None
    measured: int | None = None
    """The same as `predicted`, of the longest batch as it was tried."""
    measured_evaluation: int | None = None
    probe_seconds: float | None = None
    """What trying it took."""
    predictions: list[Predicted] = msgspec.field(default_factory=list)
    """Every estimate of the peak that was made before the first step, the roughest first."""


class MicroBatch(Event, tag="micro_batch"):
    """From here on a forward pass has at most this many rows: more did not fit."""

    micro_batch: int


Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
"""What a reader may add up in 64 bits."""


class Step(Event, tag="step"):
    step: Count
    steps: Count
    epoch: float
    loss: float | None
    """Mean over the answer tokens of the effective batch, nats."""
    learning_rate: float
    grad_norm: float | None
    """Before clipping."""
    tokens: Count
    answer_tokens: Count
    tokens_per_second: float
    seconds: float


class Memory(Event, tag="memory"):
    """Bytes, watts and joules; null where this machine cannot say."""

    rss: int
    rss_peak: int
    allocated: int | None = None
    """In tensors, as torch counts them."""
    reserved: int | None = None
    """In torch's pool."""
    allocated_peak: int | None = None
    reserved_peak: int | None = None
    """The highest of the two since the counters were last reset, as `rss_peak` is of `rss`."""
    paged: int | None = None
    """Optimizer state in memory that GPU and host share; known at the end of training."""
    training: bool | None = None
    """Whether the optimizer steps are running, with the peak counters reset at their start."""
    nvml_used: int | None = None
    """On the card, by everybody, the CUDA context included."""
    power: float | None = None
    energy: float | None = None
    """Since this worker began."""
    load: int | None = None
    temperature: int | None = None
    gpu_pid: int | None = None
    """This process as the card's driver counts: in a container another id than its own."""


class Eval(Event, tag="eval"):
    """A held-out score; `low` and `high` are a bootstrap 95 % interval over rows."""

    when: Literal["before", "during", "after"]
    split: Literal["validation", "test"]
    step: int
    rows: int
    loss: float | None
    loss_low: float | None = None
    loss_high: float | None = None
    perplexity: float | None = None
    metric: str = ""
    score: float | None = None
    low: float | None = None
    high: float | None = None
    extra: dict[str, Interval] = msgspec.field(default_factory=dict)
    """Further views of the same answers, as in `Score.extra`."""
    seconds: float = 0.0


class GeneralLoss(Event, tag="general"):
    """The loss on general text by passage, as in `result.General`."""

    text: str
    tokens: list[int]
    before: list[float]
    after: list[float]


class Sample(Event, tag="sample"):
    """One test item as the model answered it."""

    when: Literal["before", "after"]
    prompt: str
    target: str
    output: str
    score: float | None
    references: list[str] = msgspec.field(default_factory=list)
    """All accepted answers, `target` first; empty where there is only that."""


class Checkpoint(Event, tag="checkpoint"):
    step: int
    path: str
    bytes: int
    seconds: float


class ModelSaved(Event, tag="model_saved"):
    """The trained model or adapter is complete in `path`."""

    path: str
    bytes: int
    """Of its weights."""


class Warning(Event, tag="warning"):
    code: str
    text: str


class Error(Event, tag="error"):
    text: str
    user: bool = False
    """Whether the user's input caused it."""
    code: str = ""
    """Stable name of a user's error, such as `data.duplicate_column`."""


class End(Event, tag="end"):
    status: Status
    reason: str


Any_ = (
    Hello
    | Environment
    | Phase
    | Progress
    | Data
    | ModelLoaded
    | Plan
    | MicroBatch
    | Step
    | Memory
    | Eval
    | GeneralLoss
    | Sample
    | Checkpoint
    | ModelSaved
    | Warning
    | Error
    | End
)
E = TypeVar("E", bound=Event)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Any_).decode


def decode(line: bytes) -> Event | None:
    """One line as an event; None for types this version does not know and for lines that are not events."""
    try:
        event: Event = _decode(line)
        if event.v >= SCHEMA_VERSION or event.__struct_config__.tag not in EVENT_FIELDS:
            return event
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return _decode_old(line)


def _decode_old(line: bytes) -> Event | None:
    try:
        table = msgspec.json.decode(line, type=dict[str, Any])
        event: Event = msgspec.convert(current_event(table), Any_)
        return event
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None


def is_damaged(line: bytes) -> bool:
    """Whether a line that `decode` refused is broken, and not an event of a later version."""
    try:
        return msgspec.json.decode(line, type=_Tagged).type in _KNOWN
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True


class _Tagged(msgspec.Struct):
    type: str


_KNOWN = {str(kind.__struct_config__.tag) for kind in Event.__subclasses__()}


def opening_of(kinds: Iterable[type[Event]]) -> tuple[bytes, ...]:
    """How the lines of these events begin as `EventLog` writes them."""
    return tuple(f'{{"type":"{kind.__struct_config__.tag}"'.encode() for kind in kinds)


class EventLog:
    """Appends events to `events.jsonl`, each in one write; the only writer of that file."""

    def __init__(self, path: Path) -> None:
        self._seq = _last_seq(path)
        self._lock = threading.Lock()  # the meters write from a thread of their own
        self._started = time.monotonic()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        if _is_torn(path):
            os.write(self._file, b"\n")  # a killed writer's half line must not swallow our first one

    def write(self, event: E) -> E:
        """Number, date and append the event. Raises OSError where the disk is full; no part of the line stays."""
        with self._lock:
            event.v, event.seq, event.t = SCHEMA_VERSION, self._seq + 1, time.time()
            event.elapsed = round(time.monotonic() - self._started, 6)
            self._append(_encode(event) + b"\n")
            self._seq += 1
        return event

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        written = 0
        try:
            while written < len(line):  # an almost full disk takes a part and refuses the rest
                written += os.write(self._file, line[written:])
        except OSError:
            if written:
                os.ftruncate(self._file, size)
            raise

    def close(self) -> None:
        os.close(self._file)


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _last_seq(path: Path) -> int:
    """The highest `seq` near the end of an existing log, else 0."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1_000_000))
        events = [decode(line) for line in file.read().splitlines()]
    return max((event.seq for event in events if event), default=0)
