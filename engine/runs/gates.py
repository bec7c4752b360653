"""Gates for pipelines: whether the lower bound of a gain's 95% interval is at least a required value."""

from __future__ import annotations

from msgspec import Struct

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.runs.ladder import Ladder
from engine.runs.result import Interval
from engine.runs.rungs import is_base


class Gain(Struct, kw_only=True, frozen=True):
    """The gain of a run or rung over another; positive is better."""

    candidate: str
    reference: str
    metric: str
    gain: Interval
    """With a 95% interval, paired by test item."""

    def clears(self, least: float) -> bool:
        """Whether the lower bound is at least `least`. False without an interval."""
        return self.gain.low is not None and self.gain.low >= least


def gain_of_rung(ladder: Ladder, rung: str | None, against: str) -> Gain:
    """The gain of a rung of a finished ladder over `base` or another rung, with the ladder's simultaneous interval.

    `rung` may be None if the ladder has one trained rung besides `against`. Raises UserError for unknown rungs.
    """
    rungs = [row.name for row in ladder.rows if not is_base(row.name)]
    trained = [row.name for row in ladder.rows if not is_base(row.name) and not row.source]
    known = ", ".join([*rungs, "base"])
    if rung is None:
        others = [name for name in trained if name != against]
        if len(others) != 1:
            do = f"name one with --rung: {', '.join(others)}" if others else "wait until it has results"
            raise UserError("the ladder has several rungs" if others else "no results", ladder.name, do, "gate.which")
        rung = others[0]
    for comparison in ladder.comparisons:
        sign = {(rung, against): 1, (against, rung): -1}.get((comparison.a, comparison.b))
        if sign is not None and ladder.work:
            metric = metric_spec(ladder.work.metric)
            difference = comparison.difference
            positive = sign * (-1 if metric.lower_is_better else 1) > 0
            return Gain(
                candidate=rung,
                reference="the base model" if against == "base" else against,
                metric=metric.name,
                gain=difference if positive else difference.negated(),
            )
    what = f"no comparison of {rung} and {against}"
    raise UserError(what, ladder.name, f"rungs of this ladder: {known}", "gate.no_comparison")
