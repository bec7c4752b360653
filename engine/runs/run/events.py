"""The events that a worker, or who starts one that cannot begin, appends to `events.jsonl`, one JSON object per line.

Every event has `v` (schema version), `seq` (1, 2, 3 …), `t` (Unix seconds), `elapsed` (seconds since this worker
started) and `type`. Readers ignore unknown types and fields. JSON has no NaN: a non-finite number is written as null.
`result.json` is built only from these events (`result_builder`), so everything it contains needs an event. From
the first release on new fields have a default, so that earlier files stay readable. `decode` reads a line.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

from engine.config.device_defaults import ResolvedCheckpointing
from engine.runs.run.result import SCHEMA_VERSION, TASK, General, Predicted, Score, TaskScores, TrainingLoad
from engine.runs.run.result import Status as Status
from engine.runs.run.usage import ModelAccount, SplitOverlap

PhaseName = Literal["waiting", "data", "model", "baseline", "training", "evaluation", "saving"]


class Event(msgspec.Struct, kw_only=True, tag_field="type"):
    """Base class of all events; `EventLog` fills in these fields."""

    v: int = SCHEMA_VERSION
    seq: int = 0
    t: float = 0.0
    elapsed: float | None = None
    """Seconds since this worker opened its log, from the monotonic clock, which a change of the system time does not
    affect.
    """


class Hello(Event, tag="hello"):
    """First event of a worker, written before torch is imported."""

    pid: int
    host: str
    version: str
    resumed: bool = False
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    """The frozen configuration by dotted key, without unset keys; a resume compares `run.toml` with it."""


class Environment(Event, tag="environment"):
    """Library versions and machine: results are compared only with these in view."""

    versions: dict[str, str]
    machine: dict[str, Any]


class Phase(Event, tag="phase"):
    """Start of a phase."""

    name: PhaseName
    note: str = ""


class DataPrepared(Event, tag="data"):
    """The prepared rows of all splits."""

    train: int
    validation: int
    test: int
    format: str
    format_reason: str
    """Why the rows were read in this format."""
    fingerprint: str
    test_fingerprint: str = ""
    tokens: int = 0
    """Tokens per epoch."""
    answer_tokens: int = 0
    """Tokens in the loss per epoch."""
    columns: list[dict[str, Any]] = []
    """Role of each column."""
    data_usage: dict[str, Any] | None = None
    """Use of every row (`RowUsage`)."""
    test_items: int | None = None
    """Distinct prompts among the scored test rows."""
    overlap: dict[str, SplitOverlap] = msgspec.field(default_factory=dict)
    """`test/train` and `validation/train`."""
    metric: str = ""
    """The metric of the run: `evaluation.metric`, or what was decided for `auto`."""
    metric_reason: str = ""
    """Why it was decided; '' if it was set."""


class Progress(Event, tag="progress"):
    """Progress of a long phase, at most once a second; a short phase has none."""

    phase: PhaseName
    text: str
    """Current work, such as `tokenizing`."""
    done: int
    """Rows."""
    total: int | None = None
    """Total rows; null while unknown."""


class ModelLoaded(Event, tag="model"):
    """The model, ready for training."""

    id: str
    architecture: str
    parameters: int
    trainable: int
    dtype: str
    device: str
    attention: str
    optimizer: str
    fingerprint: str
    """Of the base model."""
    account: ModelAccount | None = None
    """Use of every weight."""
    from_run: str = ""
    """The run whose adapter or model this one starts from; '' for the base model."""
    resident_before: int | None = None
    """Resident set of the worker in bytes before it loaded the model."""


class Plan(Event, tag="plan"):
    """Steps, batch sizes and predicted memory; `start_step` is not 0 after a resume.

    Written again after the memory probe, with its measurements. Bytes are defined like `Result.peak_training_bytes`.
    """

    steps: int
    start_step: int
    batch: int
    micro_batch: int
    packing: str
    gradient_checkpointing: ResolvedCheckpointing
    """As `train.gradient_checkpointing`, with `auto` resolved."""
    automatic: dict[str, Any] = msgspec.field(default_factory=dict)
    """Settings that `auto` chose to save memory, by key."""
    devices: int = 1
    """Number of devices that train the run; micro-batch and memory are those of one."""
    sharded: bool = False
    """Whether they divide the weights (FSDP)."""
    shared_prefix: int = 0
    """Tokens of the prefix common to all rows, computed once per micro-batch; 0 if prefixes are not shared, or differ
    between rows."""
    shared_rows: int = 0
    """Rows with this prefix: all training rows, or a sample of a large dataset."""
    token_ratio: float = 1.0
    """Tokens of the rows divided by tokens computed, because of shared prefixes."""
    predictions: list[Predicted] = msgspec.field(default_factory=list)
    """All predictions made before the first step, least accurate first; the last one is measured if its tier is
    `probe`: the peak of the two largest micro-batches, and on a GPU that of the evaluation."""
    probe_seconds: float | None = None
    """Duration of the memory probe."""

    @property
    def measured(self) -> Predicted | None:
        """The peaks that the memory probe measured; None before it."""
        return self.predictions[-1] if self.predictions and self.predictions[-1].tier == "probe" else None


class Compiled(Event, tag="compiled"):
    """The decoder layers were compiled before the first step (`train.compile`)."""

    layers: int
    seconds: float
    """Not part of the time of any step."""


class MicroBatchReduced(Event, tag="micro_batch"):
    """The micro-batch size was reduced after an out-of-memory error."""

    micro_batch: int
    restarted: bool = False
    """Whether the ranks of a sharded model started again for it, from the latest checkpoint."""


Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
"""An integer whose sums fit in 64 bits."""


class Step(Event, tag="step"):
    """One optimizer step."""

    step: Count
    steps: Count
    epoch: float
    loss: float | None
    """Mean over the answer tokens of the effective batch, in nats/token."""
    learning_rate: float
    """Of the first parameter group; with LoRA+ that of the matrices A."""
    grad_norm: float | None
    """Before clipping."""
    tokens: Count
    """Tokens of the rows, as other tools count them."""
    answer_tokens: Count
    tokens_per_second: float
    seconds: float
    computed_tokens: Count = 0
    """Tokens of the forward passes: with padding, and shared prefixes once."""


class Memory(Event, tag="memory"):
    """A memory and power sample in bytes, watts and joules; null if this machine does not report it."""

    rss: int
    rss_peak: int
    allocated: int | None = None
    """Allocated by tensors (`torch.cuda.memory_allocated`)."""
    reserved: int | None = None
    """Reserved by the caching allocator (`torch.cuda.memory_reserved`)."""
    allocated_peak: int | None = None
    reserved_peak: int | None = None
    """Peaks since the counters were last reset, like `rss_peak` for `rss`."""
    paged: int | None = None
    """Paged optimizer state in CUDA unified memory; known at the end of training."""
    training: bool = False
    """Whether optimizer steps are running; the peak counters are reset when they start."""
    nvml_used: int | None = None
    """Used on the GPU by all processes, CUDA contexts included."""
    power: float | None = None
    energy: float | None = None
    """Since this worker started."""
    load: int | None = None
    """GPU utilization in percent."""
    temperature: int | None = None
    gpu_pid: int | None = None
    """Process id of this worker as the driver reports it; differs from its own id inside a container."""


class Load(Event, tag="load"):
    """Load of the machine while this worker trained."""

    training: TrainingLoad


class Eval(Event, tag="eval"):
    """A held-out loss, and on the test items the score."""

    when: Literal["before", "during", "after"]
    split: Literal["validation", "test"]
    step: int
    rows: int
    """Number of items."""
    loss: float | None
    """Mean negative log-likelihood in nats per answer token."""
    seconds: float = 0.0
    """Duration of the evaluation."""
    score: Score | None = None
    """Of the test items; None for validation items, of which only the loss is measured."""


class Selected(Event, tag="selected"):
    """The weights that the run keeps (`train.select`), and whether training stopped early (`train.patience`)."""

    step: int
    """Of the weights."""
    loss: float | None
    """Their validation loss, as the `eval` event of the step has it; None if there is none."""
    steps: int
    """Steps trained."""
    early: bool
    """Whether training stopped before the last step of the plan."""


class GeneralLoss(Event, tag="general"):
    """Loss on general text per passage."""

    general: General


class TaskScored(Event, tag=TASK):
    """The score of a model on a task, without those of its items, which are in files of their own."""

    when: Literal["before", "after"]
    scores: TaskScores


class Sample(Event, tag="sample"):
    """One item with the model's answer: a test item, and during training a validation item."""

    when: Literal["before", "during", "after"]
    prompt: str
    target: str
    output: str
    score: float | None
    references: list[str] = msgspec.field(default_factory=list)
    """All accepted answers, `target` first; empty if `target` is the only one."""
    step: int | None = None
    """Optimizer steps before an answer during training."""


class Checkpoint(Event, tag="checkpoint"):
    """A checkpoint is complete."""

    step: int
    path: str
    bytes: int
    seconds: float
    """From its start until it was complete."""
    blocked: float | None = None
    """Seconds for which training waited: for this checkpoint, and before it for an earlier one."""


class ModelSaved(Event, tag="model_saved"):
    """The trained model or adapter is complete in `path`."""

    path: str
    bytes: int
    """Size of the weights."""


class Warning(Event, tag="warning"):
    """A problem that does not stop the run."""

    code: str
    """Stable dotted name, such as `gpu.shared`."""
    text: str


class Error(Event, tag="error"):
    """The error that ended the run."""

    text: str
    user: bool = False
    """Whether the user's input caused it."""
    code: str = ""
    """Stable dotted name, such as `data.duplicate_column`."""


class End(Event, tag="end"):
    """Last event of a worker."""

    status: Status
    reason: str


AnyEvent: Any = functools.reduce(operator.or_, Event.__subclasses__())
"""The union of the classes above."""
_decode = msgspec.json.Decoder(AnyEvent).decode


def decode(line: bytes) -> Event | None:
    """Decode one line; None for event types unknown to this version and for lines that are not events."""
    try:
        event: Event = _decode(line)
    except (ValueError, RecursionError):
        return None
    return event


def is_damaged(line: bytes) -> bool:
    """Whether a line that `decode` rejected is damaged, as opposed to an event type of a later version."""
    try:
        return msgspec.json.decode(line, type=_Tagged).type in _KNOWN
    except (ValueError, RecursionError):
        return True


class _Tagged(msgspec.Struct):
    type: str


_KNOWN = {str(kind.__struct_config__.tag) for kind in Event.__subclasses__()}


def opening_of(kinds: Iterable[type[Event]]) -> tuple[bytes, ...]:
    """Line prefixes of these event types as `EventLog` writes them."""
    return tuple(f'{{"type":"{kind.__struct_config__.tag}"'.encode() for kind in kinds)
