"""Scores of test items, and their differences between two models, paired by item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.config.metric_specs import metric_spec
from engine.evaluation.intervals import bootstrap, group_sums, paired_interval, score_interval
from engine.evaluation.predictions import ScoredItem
from engine.runs.run.result import Interval


def values_of(items: Sequence[ScoredItem], metric: str) -> list[float]:
    """The metric of each item: its score, or its mean loss."""
    if metric_spec(metric).is_loss:
        return [item.nll / item.loss_weight for item in items]
    return [(item.scores or {}).get(metric, 0.0) for item in items]


def mean_with_interval(items: Sequence[ScoredItem], metric: str, groups: Sequence[str] = ()) -> Interval | None:
    """Mean of the metric with its interval. `groups`: keys of items that depend on each other."""
    if not items:
        return None
    values = values_of(items, metric)
    if not metric_spec(metric).is_loss:
        return score_interval(values, metric_spec(metric).bounds, groups)
    weights = np.array([item.loss_weight for item in items])
    sums, weights = group_sums(np.array([values]) * weights, weights, groups)
    return bootstrap((sums[0] / weights).tolist(), weights.tolist())


def difference_of(
    items: Sequence[ScoredItem], reference: Sequence[ScoredItem] | None, metric: str, groups: Sequence[str] = ()
) -> Interval | None:
    """items − reference, with a paired interval that is also valid for few items and for equal scores.

    None for no items, or if their numbers differ. `groups`: keys of items that depend on each other.
    """
    if not items or reference is None or len(items) != len(reference):
        return None
    pairs = zip(values_of(items, metric), values_of(reference, metric), strict=True)
    weights = [item.loss_weight for item in items] if metric_spec(metric).is_loss else None
    return paired_interval([a - b for a, b in pairs], metric_spec(metric).bounds, weights, groups)


def gain_of(
    items: Sequence[ScoredItem], reference: Sequence[ScoredItem], metric: str, groups: Sequence[str] = ()
) -> Interval:
    """`difference_of`, positive if it is an improvement. Raises ValueError for another number of items."""
    found = difference_of(items, reference, metric, groups)
    if found is None:
        raise ValueError(f"{len(items)} and {len(reference)} test items")
    return found.negated() if metric_spec(metric).lower_is_better else found
