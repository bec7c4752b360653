"""The caveat on learning rates that were chosen by trials: what that cost."""

from __future__ import annotations

from engine.config.quantities import duration, integer
from engine.runs.ladder import Ladder


def trial_cost(ladder: Ladder) -> tuple[int, float]:
    """Number of learning-rate trials, and the seconds of those that have ended."""
    trials = [entry for entry in ladder.entries if entry.kind == "trial"]
    return len(trials), sum(entry.seconds or 0.0 for entry in trials)


def chosen_rates(ladder: Ladder) -> str:
    """`Learning rates were chosen by the loss on the validation rows: 9 trials took 4:32 …`; '' without trials."""
    count, seconds = trial_cost(ladder)
    if not count:
        return ""
    halved = any(entry.kind == "trial" and entry.steps is not None for entry in ladder.entries)
    how = ", by successive halving" if halved else ""
    text = f"Learning rates were chosen by the loss on the validation rows{how}"
    return f"{text}: {integer(count)} trials took {duration(seconds)}, which is not part of the costs above."
