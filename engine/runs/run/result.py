"""Schema of `result.json`: the outcome of a run, the load while it trained, and its scores on tasks by item."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from engine.config.files import read_regular, write_atomically
from engine.config.quantities import percent
from engine.config.text import listed, visible
from engine.runs.run.usage import ModelAccount, SplitOverlap

Status = Literal["finished", "stopped", "failed", "out_of_memory", "diverged"]

Z_95 = 1.96
"""97.5% quantile of the standard normal distribution."""

EXACT_DEGREES = 100
"""Degrees of freedom up to which `student_quantile` sums the series of the distribution."""


def student_quantile(degrees: int) -> float:
    """t with P(|T| < t) = 95% for Student's t on `degrees` degrees of freedom.

    By bisection of its distribution, and with many degrees by an expansion in their inverse, which then is exact to six
    digits (Abramowitz and Stegun, 1964, 26.7.3 to 26.7.5).
    """
    if degrees > EXACT_DEGREES:
        first, second = (Z_95**3 + Z_95) / 4, (5 * Z_95**5 + 16 * Z_95**3 + 3 * Z_95) / 96
        return Z_95 + first / degrees + second / degrees**2
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def _within(t: float, degrees: int) -> float:
    """P(|T| < t)."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    series = 0.0
    for n in range(2 + odd, degrees + 1, 2):
        series += term
        term *= (n - 1) / n * cosine**2
    return 2 / math.pi * (angle + sine * series) if odd else sine * series


TASK, TASKS = "benchmark", "benchmarks"
"""What tasks are called in files and for readers."""
SCHEMA_VERSION = 1
"""`v` of events, results and ladders; rises when a field is renamed or changes its meaning."""
MIN_ITEMS = 6
"""Paired items needed for a significant difference: five that agree have a sign-test p of 2 / 2**5 > 0.05."""
MIN_ENDED = 0.9
"""Share of answers that end below which runs warn, and verdicts have a caveat."""


class Interval(Struct, kw_only=True):
    """A mean over test items with its 95% confidence interval.

    Of a run over items (`evaluation.intervals`), of a trained rung of a ladder over items and seeds
    (`ladder.statistics`).
    """

    mean: float | None
    """None if it is not finite."""
    low: float | None
    """Lower bound."""
    high: float | None
    """Upper bound."""
    rows: int
    """Number of items."""

    def widened(self, all_alike: float, bounds: tuple[float, float]) -> Interval:
        """Widen the interval of scores that all equal the metric's lower or upper bound, where it has zero width.

        Uses Wilson's score interval (1927), which for n of n successes ends at n / (n + z²). Scores without a finite
        bound stay as they are.
        """
        (least, greatest), extent = bounds, bounds[1] - bounds[0]
        if self.rows < 2 or self.low is None or self.high is None:
            return self
        if not math.isfinite(extent) or all_alike not in bounds:
            return self
        reach = extent * Z_95**2 / (self.rows + Z_95**2)
        low = self.low if all_alike == least else min(self.low, greatest - reach)
        high = max(self.high, least + reach) if all_alike == least else self.high
        return Interval(mean=self.mean, low=low, high=high, rows=self.rows)

    def negated(self) -> Interval:
        """The interval of the opposite difference."""
        mean, low, high = (None if end is None else -end for end in (self.mean, self.high, self.low))
        return Interval(mean=mean, low=low, high=high, rows=self.rows)


class Score(Struct, kw_only=True):
    """Scores of one model on the test items."""

    loss: Interval
    """Mean negative log-likelihood in nats per answer token; the interval resamples items."""
    perplexity: float | None
    """exp of the mean loss."""
    metric: str
    """Its name."""
    score: Interval
    """Of the metric."""
    extra: dict[str, Interval] = field(default_factory=dict)
    """Additional scores of the same answers, such as exact match next to the share of correct JSON fields."""
    seconds: float = 0.0
    """Duration of scoring."""
    ended: Interval | None = None
    """Share of answers that an end token ended; the others reached `evaluation.max_new_tokens`. None if not known."""
    format_errors: Interval | None = None
    """Share of answers without the format that the metric needs, which score 0; None if it needs none."""


class MeasuredPeak(Struct, kw_only=True):
    """Peak memory in bytes, by definition of memory; null if this machine does not report it."""

    rss: int | None = None
    """Peak resident set of the worker, interpreter and libraries included."""
    rss_training: int | None = None
    """Peak resident set while training."""
    allocated: int | None = None
    """Of tensors, by torch's caching allocator."""
    reserved: int | None = None
    """Of torch's caching allocator."""
    nvml_used: int | None = None
    """On the GPU, by all processes (NVML)."""
    allocated_training: int | None = None
    """As `allocated`, while training."""
    reserved_training: int | None = None
    """`allocated` and `reserved` while training, including evaluations during training."""
    paged: int | None = None
    """Paged optimizer state in CUDA unified memory: on the GPU if there is room, and not counted in `reserved`."""

    @property
    def gpu_training(self) -> int | None:
        """GPU memory while training: reserved by the caching allocator plus paged optimizer state."""
        return self.reserved_training + (self.paged or 0) if self.reserved_training else None

    @property
    def training(self) -> int | None:
        """Memory while training: on the GPU, or the resident set on a CPU."""
        return self.gpu_training or self.rss_training


class General(Struct, kw_only=True):
    """Loss on held-out general text per passage, before and after training; the rise measures forgetting."""

    text: str
    """Name of the text and hash of its content."""
    tokens: list[int]
    """Predicted tokens in each passage."""
    before: list[float]
    """Summed negative log-likelihood of each passage in nats; empty if the base model was not evaluated."""
    after: list[float]
    """The same of the trained model."""


class TaskResult(Struct, kw_only=True):
    """Scores on a task; those of its items are in the folder `TASKS` of the run."""

    metric: str
    """As the task names it."""
    higher_is_better: bool
    """Direction of the metric."""
    is_share: bool
    """Whether scores are shares from 0 to 1."""
    before: Interval | None = None
    """Of the base model; None if it was not scored."""
    after: Interval | None = None
    """Of the trained model."""


class Predicted(Struct, kw_only=True):
    """Peak memory in bytes, predicted before the first step."""

    tier: Literal["formula", "dry run", "probe"]
    """What predicted it."""
    training: int
    """Peak while training."""
    evaluation: int | None = None
    """Peak of held-out loss and generation; None if the tier does not predict it."""


class Result(Struct, kw_only=True):
    """Content of `result.json`; written once, atomically, when a worker ends."""

    v: int = SCHEMA_VERSION
    """Rises when a field is renamed or changes its meaning."""
    status: Status
    """How the run ended."""
    reason: str
    """Why, as text."""
    name: str
    """The directory's name."""
    preset: str
    """Its name."""
    method: str
    """Its name."""
    model: str
    """As configured."""
    data: str
    """As configured."""
    metric: str
    """The metric of `score`; `auto` if the run ended before it was decided."""
    created: float
    """Unix seconds."""
    ended: float
    """Unix seconds."""
    metric_reason: str = ""
    """Why this metric was decided; '' if it was set."""
    from_run: str = ""
    """The run whose adapter or model this one started from: `before` is its score. '' for the base model."""
    steps: int = 0
    """Optimizer steps done."""
    planned_steps: int = 0
    """Optimizer steps of the configuration."""
    micro_batch: int | None = None
    """Rows of the largest micro-batch."""
    automatic: dict[str, Any] = field(default_factory=dict)
    """Settings that `auto` chose to save memory, by key."""
    before: Score | None = None
    """The base model on the test items."""
    after: Score | None = None
    """The trained model on the same items."""
    validation_loss: list[tuple[int, float | None]] = field(default_factory=list)
    """(step, loss) on the validation rows."""
    final_validation: float | None = None
    """Of the finished model on at most 512 validation rows, nats/token; used to choose learning rates."""
    selected_step: int | None = None
    """Step of the weights that are kept; None: the last one, without `train.select` and `train.patience`."""
    stopped_early: bool = False
    """Whether training stopped before the planned steps (`train.patience`)."""
    validation_seconds: float = 0.0
    """Duration of the validation losses during training."""
    general: General | None = None
    """Loss on general text."""
    tasks: dict[str, TaskResult] = field(default_factory=dict, name=TASKS)
    """By the name of the task."""
    parameters: int = 0
    """Parameters of the model, excluding adapters."""
    trainable: int = 0
    """Trained parameters."""
    account: ModelAccount | None = None
    """Use of every weight of the model; None if the run ended before it was ready for training."""
    tokens: int = 0
    """Tokens of the rows of all training steps."""
    computed_tokens: int | None = None
    """Tokens of the forward passes of all training steps, with padding, and shared prefixes once; None if unknown."""
    tokens_per_second: float | None = None
    """`tokens` over all training steps, each counted once: comparable with other tools."""
    computed_tokens_per_second: float | None = None
    """`computed_tokens` over the same time."""
    step_seconds: float = 0.0
    """Duration of the optimizer steps, each counted once; excludes validations and checkpoints."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each phase."""
    peak: MeasuredPeak = field(default_factory=MeasuredPeak)
    """Peak memory."""
    predicted: list[Predicted] = field(default_factory=list)
    """Peaks predicted before the first step."""
    peak_training_bytes: int | None = None
    """Measured peak of training, as the planner predicts it: on a GPU the memory reserved by the caching allocator; on
    a CPU the resident set minus its size before the model was loaded.
    """
    load: TrainingLoad | None = None
    """Load of the machine during training; None if every worker that trained was killed before it recorded it."""
    energy: float | None = None
    """Energy drawn by the GPU in joules, over all workers and phases of the run."""
    joules: dict[str, float] = field(default_factory=dict)
    """Energy of each phase; empty if not measured."""
    cost: float | None = None
    """Price of the run in `currency`; None without a price."""
    currency: str = "USD"
    """ISO 4217 code."""
    artifact_bytes: int = 0
    """Size of `model/`."""
    last_checkpoint: str = ""
    """Its directory, relative to the run."""
    warnings: list[str] = field(default_factory=list)
    """As texts."""
    warning_codes: list[str] = field(default_factory=list)
    """Stable code of each warning."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of Python, ftbench and the libraries that affect the numbers."""
    machine: dict[str, Any] = field(default_factory=dict)
    """Device, CPU, memory, system."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Hashes of data, test rows, model and general text."""
    overlap: dict[str, SplitOverlap] = field(default_factory=dict)
    """`test/train` and `validation/train`."""

    @property
    def training_seconds(self) -> float:
        """Seconds of the optimizer steps, and of the validations where they decide which weights are kept."""
        return self.step_seconds + (0.0 if self.selected_step is None else self.validation_seconds)

    @property
    def selection(self) -> str:
        """`weights of step 8, stopped early after step 14 of 24`; '' without `train.select` and `train.patience`."""
        if self.selected_step is None:
            return ""
        early = f", stopped early after step {self.steps} of {self.planned_steps}" if self.stopped_early else ""
        return f"weights of step {self.selected_step}{early}"

    @property
    def active_seconds(self) -> float:
        """Seconds in all phases except waiting in the device queue."""
        return sum(seconds for phase, seconds in self.seconds.items() if phase != "waiting")


DEFAULT_OTHER_LOAD = 0.1
"""Share of CPU time that other processes may use before a timing counts as disturbed."""
SATURATED = 0.85
"""Other processes slow a run down only if together they use at least this share of its CPUs."""
MAX_NAMES = 3
"""Processes that are named."""
HARMLESS = ("power cap",)
"""Reasons for lower clocks that are normal at full load."""


class TrainingLoad(Struct, kw_only=True):
    """Load of the machine during training, over all workers of a run."""

    seconds: float = 0.0
    """Time from the first to the last step, validation included."""
    cpus: int = 0
    """CPUs that the worker may use."""
    cpu_seconds: float = 0.0
    """CPU time of the worker."""
    other_cpu_seconds: float | None = None
    """CPU time of all other processes on the CPUs of the worker; null if the system does not report it."""
    pressure_seconds: float | None = None
    """Time in which a task of the system waited for a CPU (/proc/pressure/cpu)."""
    gpu_processes: list[str] = field(default_factory=list)
    """Other processes that computed on the GPU."""
    clock: float | None = None
    """Mean clock of the GPU's multiprocessors in MHz."""
    max_clock: float | None = None
    """Highest clock that the GPU supports, in MHz."""
    throttled: list[str] = field(default_factory=list)
    """Why the GPU lowered its clocks: `power cap`, `temperature`, `hardware slowdown`, `power brake`."""
    complete: bool = True
    """Whether every worker that trained recorded its load; one that was killed did not."""

    def add(self, other: TrainingLoad) -> None:
        """Add the load of a later worker of the same run."""
        total = self.seconds + other.seconds
        if self.clock is None or other.clock is None:
            self.clock = other.clock if self.clock is None else self.clock
        elif total:
            self.clock = (self.clock * self.seconds + other.clock * other.seconds) / total
        self.seconds, self.cpus = total, other.cpus
        self.cpu_seconds += other.cpu_seconds
        self.other_cpu_seconds = _sum(self.other_cpu_seconds, other.other_cpu_seconds)
        self.pressure_seconds = _sum(self.pressure_seconds, other.pressure_seconds)
        self.gpu_processes = list(dict.fromkeys([*self.gpu_processes, *other.gpu_processes]))
        self.throttled = list(dict.fromkeys([*self.throttled, *other.throttled]))
        self.max_clock = other.max_clock if self.max_clock is None else self.max_clock

    @property
    def other_share(self) -> float | None:
        """Share of the CPU time of the worker's CPUs that other processes used."""
        capacity = self.seconds * self.cpus
        return self.other_cpu_seconds / capacity if self.other_cpu_seconds is not None and capacity else None

    def disturbance(self, allowed: float = DEFAULT_OTHER_LOAD) -> str:
        """Why the timing of the run is disturbed; '' if it is not, or if nothing is known."""
        reasons = []
        share, capacity = self.other_share, self.seconds * self.cpus
        used = self.cpu_seconds + (self.other_cpu_seconds or 0.0)  # by the worker and other processes
        if share is not None and share > allowed and capacity and used / capacity >= SATURATED:
            reasons.append(f"other processes used {percent(share, 0)} of the time of its CPUs")
        if self.gpu_processes and allowed < 1:
            names = listed([visible(name, 40) for name in self.gpu_processes[:MAX_NAMES]])
            reasons.append(f"its GPU was also used by {names}")
        if (causes := [cause for cause in self.throttled if cause not in HARMLESS]) and allowed < 1:
            reasons.append(f"its GPU lowered its clocks ({listed(causes)})")
        return "; ".join(reasons)


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


class TaskScores(Struct, kw_only=True):
    """The scores of one model on one task: items beside the run's own test rows (`engine/evaluation/tasks.py`)."""

    task: str = field(name=TASK)
    metric: str
    """As the task names it."""
    higher_is_better: bool
    is_share: bool
    """Whether scores are shares from 0 to 1."""
    fingerprint: str
    """SHA-256 of what decides the scores besides the model; scores with different fingerprints are not comparable."""
    score: Interval
    """The mean over the items, with its 95% confidence interval."""
    items: list[float] = field(default_factory=list)
    """By item, in the order of the task; empty in events."""
    seconds: float = 0.0


def file_stem(task: str) -> str:
    """The task's name as a part of file names."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", task).lstrip(".") or "_"


def task_fingerprint(task: str) -> str:
    """The key of a task among the fingerprints of a result or a ladder."""
    return f"{TASK} {task}"


def write_scores(path: Path, scores: TaskScores) -> None:
    """Write atomically, and create the folder. Raises OSError."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomically(path, msgspec.json.encode(scores))


def read_scores(path: Path, fingerprint: str | None = None) -> TaskScores | None:
    """The stored scores; None if they are missing, damaged, or have another fingerprint."""
    try:
        scores = msgspec.json.decode(read_regular(path), type=TaskScores)
    except (OSError, ValueError, RecursionError):
        return None
    return scores if scores.items and fingerprint in (None, scores.fingerprint) else None
