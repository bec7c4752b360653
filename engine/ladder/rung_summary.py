"""What a ladder shows of the runs or exports of one rung: status, reason, and ranges over the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from engine.runs.ladder import LadderEntry
from engine.runs.result import Interval
from engine.runs.rung_results import SeedRange

NO_RESULT_YET = ("planned", "live", "skipped", "finished")


def status_of(entries: Sequence[LadderEntry]) -> str:
    """`finished`, `partly`, the first failure, `skipped` or `planned`."""
    statuses = [entry.status for entry in entries]
    if "finished" in statuses:
        return "finished" if set(statuses) == {"finished"} else "partly"
    wrong = [status for status in statuses if status not in NO_RESULT_YET]
    return wrong[0] if wrong else "skipped" if set(statuses) == {"skipped"} else "planned"


def reason_of(entries: Sequence[LadderEntry]) -> str:
    """Why an entry is not finished; '' if none says."""
    return next((entry.reason for entry in entries if entry.status != "finished" and entry.reason), "")


def mean_share(values: Iterable[Interval | None]) -> float | None:
    """The mean of the shares; None if one is not known."""
    known = list(values)
    means = [value.mean for value in known if value is not None and value.mean is not None]
    return fmean(means) if means and len(means) == len(known) else None


def seed_range(values: Iterable[float | None]) -> SeedRange | None:
    """Mean, lowest and highest of the values that are known; None without any."""
    known = [value for value in values if value is not None]
    return SeedRange(mean=fmean(known), low=min(known), high=max(known)) if known else None
