"""Evaluation metrics: direction, bounds, unit and formatting of each, without torch.

The scoring function is named by `MetricSpec.scoring` and imported only by the engine. A package installed next to
ftbench adds a metric with an entry point in the group `ftbench.metrics` that points to a `MetricSpec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from engine.config.errors import UserError
from engine.config.hooks import FIX, load_all

DEFAULT_MARGIN = 0.02
"""Loss of quality that is accepted by default: 2 points of a share, 0.02 nats/token of a loss."""
POINT = 0.01
"""A margin of 1 on the command line: one point of a share, 0.01 nats/token of a loss."""


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """How the scores of a metric are computed, compared and formatted."""

    name: str
    """In `evaluation.metric`."""
    title: str
    """In tables and sentences."""
    scoring: str = ""
    """`module:function` that scores (output, target): a dict with the metric's score under its name, unless that is the
    loss, and additional scores; '' for the held-out loss alone, which needs no answers."""
    format_check: str = ""
    """`module:function` that says whether an output has the format that the metric reads; '' if it reads any text."""
    lower_is_better: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest possible score of one test item; confidence intervals do not exceed them."""
    unit: str = "%"
    """% for shares from 0 to 1, which are shown times 100; otherwise the unit of the value, '' for none."""
    picks_from_choices: bool = False
    """Whether the model picks the most likely of the training rows' answers instead of generating one."""
    is_loss: bool = False
    """Whether the score is the held-out loss on the references; what `scoring` returns are additional scores."""

    @property
    def needs_answers(self) -> bool:
        """Whether the model has to answer test rows; the held-out loss is always measured."""
        return bool(self.scoring)

    @property
    def is_share(self) -> bool:
        """Whether scores are shares from 0 to 1."""
        return self.unit == "%"

    @property
    def scale(self) -> float:
        """Factor from a score to the number that is shown."""
        return 100.0 if self.is_share else 1.0


_SCORING = "engine.evaluation.metrics"
LOSS = MetricSpec(
    name="loss", title="loss", lower_is_better=True, bounds=(0.0, float("inf")), unit="nats/token", is_loss=True
)
OPEN = replace(LOSS, name="open", title="held-out loss", scoring=f"{_SCORING}:open_answer")
"""For answers without a single right text."""
_SECONDARY_TITLES = {"chrf": "chrF"}
"""Titles of scores that are no metric by themselves."""
AUTO = MetricSpec(name="auto", title="automatic", scoring="decided:later")
"""Decided from the training answers by `engine.evaluation.preflight`; until then it may need answers."""
BUILT_IN = (
    MetricSpec(name="exact_match", title="exact match", scoring=f"{_SCORING}:exact_match"),
    MetricSpec(name="number", title="number", scoring=f"{_SCORING}:number", format_check=f"{_SCORING}:has_number"),
    MetricSpec(
        name="number_comma",
        title="number (decimal comma)",
        scoring=f"{_SCORING}:number_comma",
        format_check=f"{_SCORING}:has_number_comma",
    ),
    MetricSpec(name="json", title="json", scoring=f"{_SCORING}:json_fields", format_check=f"{_SCORING}:is_object"),
    MetricSpec(name="boxed", title="boxed answer", scoring=f"{_SCORING}:boxed", format_check=f"{_SCORING}:has_box"),
    MetricSpec(name="set", title="set of labels", scoring=f"{_SCORING}:label_set", format_check=f"{_SCORING}:is_list"),
    MetricSpec(name="choice", title="choice", scoring=f"{_SCORING}:choice", picks_from_choices=True),
    MetricSpec(name="contains", title="contains", scoring=f"{_SCORING}:contains"),
    MetricSpec(name="rouge", title="ROUGE-L", scoring=f"{_SCORING}:rouge"),
    MetricSpec(name="tool_calls", title="tool calls", scoring="engine.evaluation.tool_calls:tool_calls"),
    OPEN,
    LOSS,
)


def metric_text(name: str, reason: str = "") -> str:
    """`json (automatic: 98.2% of 1,004 training answers are JSON objects)`; `json` if it was set."""
    return f"{name} (automatic: {reason})" if reason else name


@cache
def metric_specs() -> Mapping[str, MetricSpec]:
    """Every metric by name: the built-in ones, then those of installed packages.

    Raises UserError for a hook that is not a MetricSpec or takes a name that exists.
    """
    specs = {spec.name: spec for spec in BUILT_IN}
    for hook, spec in load_all("ftbench.metrics", "a MetricSpec", lambda loaded: isinstance(loaded, MetricSpec)):
        if spec.name in (AUTO.name, *specs):
            raise UserError(f"two metrics are named {spec.name!r}", hook.place, FIX, "extension.name_taken")
        specs[spec.name] = spec
    return specs


def metric_names() -> tuple[str, ...]:
    """The values of `evaluation.metric`."""
    return (AUTO.name, *metric_specs())


def metric_spec(name: str) -> MetricSpec:
    """The metric of this name; also `auto`.

    A result may name a metric whose package is no longer installed: it is read as a share where higher is better.
    """
    if name == AUTO.name:
        return AUTO
    return metric_specs().get(name) or MetricSpec(
        name=name, title=_SECONDARY_TITLES.get(name, name.replace("_", " ")), scoring="unknown:unknown"
    )
