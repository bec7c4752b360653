"""Results in `ladder.json`: scores and costs of a rung, comparisons, tasks, the verdict and the summary."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from engine.runs.run.result import Interval, MeasuredPeak
from engine.runs.run.usage import ModelAccount


class SeedRange(Struct, kw_only=True):
    """Mean, lowest and highest value over the seeds; not a confidence interval."""

    mean: float
    """Over the seeds."""
    low: float
    """Lowest."""
    high: float
    """Highest."""
    values: list[float] = field(default_factory=list)
    """Of each seed; by default the lowest and the highest."""

    def __post_init__(self) -> None:
        self.values = self.values or ([self.low, self.high] if self.low < self.high else [self.low])


class AnswerUse(Struct, kw_only=True):
    """What a rung that is not trained took for its answers, and what is wrong with them."""

    endpoint: str
    """`http://host:8000/v1#model`."""
    answers: int = 0
    """Received ones."""
    cut: int = 0
    """Of these, cut off at `evaluation.max_new_tokens`."""
    empty: int = 0
    """Of these, without text."""
    reasoning: int = 0
    """Of these, with reasoning that the server returned separately, which is not scored."""
    refused: dict[str, int] = field(default_factory=dict)
    """Items that the server refused, by kind: `system_role`, `too_long`, `refused`."""
    prompt_tokens: int | None = None
    """Of all prompts; None if the server does not count them."""
    completion_tokens: int | None = None
    """Of all answers with their reasoning; None if the server does not count them."""
    cost: float | None = None
    """By the given prices per million tokens, in their currency."""
    seconds: SeedRange | None = None
    """Latency of an answer: mean, lowest and highest over the items."""


class RungResult(Struct, kw_only=True):
    """Scores and costs of a rung, of an artifact of a rung, or of the base model."""

    name: str
    """Of the rung; `base`, `base-4bit` and `base-4-shot` for the base model."""
    method: str
    """For the base model the row's name, for a rung that is not trained its kind."""
    source: str = ""
    """For an artifact: the rung whose runs it was exported from; '' for trained rungs."""
    status: str
    """finished, partly (not all seeds), or why there is no result: out_of_memory, diverged, failed, died."""
    reason: str = ""
    """Of `status`, as text."""
    learning_rate: float | None = None
    """Of its runs; None for the base model."""
    learning_rate_origin: str = ""
    """What set it: `preset demo`, `default for lora`, `command line`, `learning-rate trials`."""
    seeds: list[int] = field(default_factory=list)
    """Finished ones."""
    runs: list[str] = field(default_factory=list)
    """Directories of the finished runs, by seed."""
    score: Interval | None = None
    """The metric with its pointwise 95% interval over items and seeds."""
    by_seed: list[float] = field(default_factory=list)
    """Mean score of each seed, in the order of `seeds`."""
    extra: dict[str, float] = field(default_factory=dict)
    """Means of secondary scores of the same answers."""
    ended: float | None = None
    """Share of answers that an end token ended, mean over the seeds; None if not recorded or not generated."""
    format_errors: float | None = None
    """Share of answers without the format that the metric needs; None if it needs none."""
    loss: Interval | None = None
    """Held-out loss on the test rows, nats/token."""
    share_of_gain: Interval | None = None
    """Gain over the base model divided by full fine-tuning's, or without its score by that of the best rung;
    pointwise."""
    rule_p: float | None = None
    """Two-sided p of the share of the gain against that of the rule of thumb; None without a share."""
    no_share: str = ""
    """Why there is no share of gain."""
    not_compared: str = ""
    """Why the rung is in no comparison: it has fewer seeds than others, and they vary more."""
    peak: MeasuredPeak | None = None
    """The highest over the seeds."""
    disturbed: str = ""
    """Why the rung has no times and no costs that depend on them: all its timings are disturbed, or they were measured
    on another device than most runs of the ladder."""
    training_seconds: SeedRange | None = None
    """Optimizer steps only; of runs whose timing is not disturbed, as all times."""
    cpu_seconds: SeedRange | None = None
    """CPU time of the worker while training, also of disturbed runs; without runs of which a worker was killed, whose
    CPU time is unknown. None on a GPU and if not recorded."""
    all_seconds: SeedRange | None = None
    """All phases except waiting for the GPU and scoring the base model, which not every rung does."""
    tokens_per_second: SeedRange | None = None
    """Tokens of the rows."""
    computed_tokens_per_second: SeedRange | None = None
    """Tokens of the forward passes: with padding, shared prefixes once."""
    energy: SeedRange | None = None
    """Joules, in the phases of `all_seconds`."""
    money: SeedRange | None = None
    """Price of a run in `currency`."""
    currency: str = "USD"
    """ISO 4217 code."""
    money_note: str = ""
    """Source of the price per hour, or why it is unknown."""
    trainable: int = 0
    """Trained parameters."""
    parameters: int = 0
    """Parameters of the model without adapters."""
    automatic: dict[str, Any] = field(default_factory=dict)
    """Settings that `auto` chose to save memory, by key, of its last run."""
    account: ModelAccount | None = None
    """Use of every weight by its last run."""
    artifact_bytes: int = 0
    """Size of the adapter or the model."""
    export_seconds: SeedRange | None = None
    """Of an artifact: writing it, without its check. Its `all_seconds` are those of its runs plus these."""
    identical: float | None = None
    """Of an artifact: share of test items with the same answer as its run's, mean over the seeds."""
    generation: SeedRange | None = None
    """Of an artifact: tokens/s of its answers on `generation_device`."""
    generation_device: str = ""
    """Where `generation` was measured."""
    use: AnswerUse | None = field(default=None, name="served")
    """Of a rung that is not trained; it has no times, memory and losses."""
    general_loss: Interval | None = None
    """Loss on held-out general text, nats/token."""
    forgetting: Interval | None = None
    """Rise of that loss over the base model's."""


Finding = Literal["better", "worse", "as_good", "undecided"]
"""Of a against b: significantly better or worse, not worse by more than the margin, or none of these."""

NeededFor = Literal["difference", "as_good"]
"""What more test items and seeds would show: that two rungs differ, or that each is as good as the other."""


def finding_of(low: float, high: float, margin: float | None) -> Finding:
    """The finding of an interval of a − b, oriented so that higher is better: non-inferiority with a margin.

    None as the margin: nothing is as good, as on tasks.
    """
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "as_good" if margin is not None and low > -margin else "undecided"


class Comparison(Struct, kw_only=True):
    """The difference of two rungs, a − b, paired by test item."""

    a: str
    """A rung."""
    b: str
    """The rung it is compared with."""
    difference: Interval
    """Of the score, with a 95% interval that holds simultaneously for all comparisons."""
    p_adjusted: float
    """Two-sided, adjusted for all comparisons (single-step max-T); below 0.05 exactly where the interval excludes 0."""
    finding: Finding
    """Of a against b."""
    needed_for: NeededFor = "difference"
    """What the numbers below would show: `as_good` if the difference is less than half the margin."""
    needed_items: int | None = None
    """Test items that give 80% power if the true difference is the observed one, averaged over how seeds may vary; None
    if no realistic number does, or if only more seeds do and there is one seed, which does not show how they vary."""
    needed_seeds: int | None = None
    """Seeds needed as well; None if more items are enough."""
    loss_difference: Interval | None = None
    """Of the held-out loss, simultaneous."""


Topic = Literal[
    "quality",
    "preference",
    "forgetting",
    "time",
    "prototype",
    "ship",
    "artifact",
    "decided",
    "data",
    "caveat",
]


class VerdictSentence(Struct):
    """A sentence of the verdict with its topic."""

    topic: Topic
    """What it is about."""
    text: str
    """Its numbers are also in the tables."""


NOT_READ = (
    "Nobody has read the answers yet: the loss says how likely the references became, chrF and ROUGE-L how similar the "
    "answers are to them, and neither whether an answer is good."
)
"""Of the verdict on open answers, until an extension says who has compared them."""


class CostRatio(Struct, kw_only=True):
    """A rung's cost divided by full fine-tuning's, with its 95% confidence interval."""

    mean: float
    """Ratio of the means over the seeds."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""


class RungTradeoff(Struct, kw_only=True):
    """A rung in the figure of the summary: what it keeps of full fine-tuning's gain, at which share of its cost."""

    rung: str
    """Its name in `rows`."""
    title: str
    """Its name in text."""
    share_of_gain: Interval
    """As in `rows`."""
    cost: CostRatio
    """Ratio to full fine-tuning's cost."""


class SummaryRow(Struct, kw_only=True):
    """A rung in the table of the summary: every value as text, '' if unknown."""

    rung: str
    """Its name in `rows`."""
    title: str
    """Its name in text."""
    score: str
    """Its mean."""
    status: str = ""
    """Why there is no score."""
    score_bounds: str = ""
    """Its pointwise 95% interval."""
    score_rounded: str = ""
    """The same with fewer digits."""
    share: str
    """Of the reference's gain over the base model."""
    share_bounds: str = ""
    """Its interval."""
    cost: str
    """Ratio to the reference's cost."""
    cost_bounds: str = ""
    """Its interval."""
    memory: str
    """Peak while training."""
    artifact: str
    """Size."""
    decision: str
    """The finding on it, and what it is recommended for."""
    finding: str = ""
    """The finding alone, for a table that is shown while runs are missing."""
    drawn: list[float] = field(default_factory=list)
    """Lower bound, mean and upper bound of the score as parts of `scale`, beyond which the base model's may be; empty
    without an interval."""


class LadderSummary(Struct, kw_only=True):
    """The start of the report: decision, table, figure and headline."""

    ship: str = ""
    """The rung that is recommended; '' if none is."""
    decision: list[str] = field(default_factory=list)
    """What to ship, its size, and what it keeps at which cost; or why nothing is recommended."""
    headline: str
    """Whether the rule of thumb holds; first of all, which rungs are worse than the base model."""
    rows: list[SummaryRow]
    """As in `rows` of the ladder, without the base model in QLoRA's 4 bits."""
    scale: list[str]
    """The scores at the left and the right end of the drawn intervals."""
    tradeoffs: list[RungTradeoff]
    """The reference last; empty without a share of the gain or a cost."""
    cost: str
    """What the costs are of: `training time`, or `CPU time in training` if a timing was disturbed."""
    reference: str
    """What shares and ratios refer to, as text: full fine-tuning, or without its score the rung with the best one."""
    tests_rule: bool
    """Whether the reference is full fine-tuning, which the rule of thumb is about."""
    rule_gain: float
    """The share of the gain in the rule of thumb."""
    rule_cost: float
    """The share of the cost in the rule of thumb."""
    is_loss: bool = False
    """Whether the scores are held-out losses in nats/token: lower is better."""

    @property
    def score_title(self) -> str:
        """What the scores are, in heads of tables."""
        return "loss" if self.is_loss else "score"


class TaskRow(Struct, kw_only=True):
    """The scores of a rung or of the base model on one task."""

    name: str
    """Of the rung, or `base`, `base-4bit`."""
    score: Interval
    """Pointwise 95% interval over items and seeds."""
    by_seed: list[float] = field(default_factory=list)
    """Mean score of each seed."""
    difference: Interval | None = None
    """The rung's score minus the base model's, paired by item; simultaneous for all rungs and tasks. None for the
    base model, and if it has no score or the rung is not compared."""
    p_adjusted: float | None = None
    """Two-sided, adjusted for all rungs and tasks; below 0.05 exactly where the interval excludes 0."""
    finding: Literal["better", "worse", "undecided"] | None = None
    """Of the rung against the base model: significantly better or worse, or neither; None without a difference."""


class LadderTask(Struct, kw_only=True):
    """One task of a ladder."""

    name: str
    """Of the task."""
    metric: str
    """As the task names it."""
    higher_is_better: bool
    """Direction of the metric."""
    is_share: bool
    """Whether scores are shares from 0 to 1."""
    items: int
    """Number of items."""
    rows: list[TaskRow]
    """The base models first, then the rungs that have finished."""
