"""Compare an artifact's answers with the run's, paired by test item."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.config.metric_specs import metric_spec
from engine.evaluation.intervals import bootstrap, of_scores
from engine.evaluation.score import Item
from engine.runs.result import Interval
from engine.runs.run_dir import RunDir


class _Line(msgspec.Struct):
    base: Item | None = None
    tuned: Item | None = None


def run_items(run: RunDir, who: str = "tuned") -> list[Item] | None:
    """The run's recorded items (`tuned` or `base`), None if it has none."""
    try:
        lines = [line for line in run.predictions_file.read_bytes().split(b"\n") if line]
        items = [getattr(msgspec.json.decode(line, type=_Line), who) for line in lines]
    except (OSError, msgspec.DecodeError):
        return None
    return items if items and all(item is not None for item in items) else None


def values_of(items: Sequence[Item], metric: str) -> list[float]:
    """The metric of each item: its score, or its mean loss."""
    if not metric_spec(metric).needs_answers:
        return [item.nll / item.loss_weight for item in items]
    return [(item.scores or {}).get(metric, 0.0) for item in items]


def scores_of(items: Sequence[Item], metric: str) -> Interval | None:
    """Mean of the metric with its interval."""
    if not items:
        return None
    values = values_of(items, metric)
    if metric_spec(metric).needs_answers:
        return of_scores(values)
    return bootstrap(values, [item.loss_weight for item in items])


def difference_of(items: Sequence[Item], reference: Sequence[Item] | None, metric: str) -> Interval | None:
    """items − reference with the bootstrap interval of paired items; None if they are not the same number of items."""
    if not items or reference is None or len(items) != len(reference):
        return None
    pairs = zip(values_of(items, metric), values_of(reference, metric), strict=True)
    weights = None if metric_spec(metric).needs_answers else [item.loss_weight for item in items]
    return bootstrap([a - b for a, b in pairs], weights)


def loss_difference(items: Sequence[Item], reference: Sequence[Item] | None) -> Interval | None:
    """Difference of the held-out loss in nats per answer token, paired by item."""
    return difference_of(items, reference, "loss")
