"""What `ftbench ladder --dry-run` expects: hours and power, from an earlier ladder on the same work or from a prior."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
from made_ladder import made_ladder

from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_dir import create as make_ladder
from engine.runs.ladder.ladder_plan import CRITICAL, PRIOR_SEED_STD, Forecast, forecast_rows, make_plan, shared
from engine.runs.ladder.ladder_state import BASE, Ladder


def test_without_an_earlier_ladder_the_prior_is_named_and_hours_are_unknown(tmp_path: Path) -> None:
    prediction = Forecast(make_plan("demo", [], {}), tmp_path, lambda: "exact_match")
    assert prediction.source.startswith("assumed") and prediction.seed_std == PRIOR_SEED_STD
    assert prediction.hours(3) is None
    assert list(prediction.differences) == ["2 points", "5 points", "10 points"]
    powers = [prediction.power(0.06, seeds) or 0.0 for seeds in range(1, 9)]
    assert powers == sorted(powers)
    assert 0.3 < powers[2] < 0.5  # simulated ladders of 300 items and 3 seeds: 33.7 to 50.0%
    assert forecast_rows(prediction, [2])[0][:3] == ["2", "6", "–"]


def test_an_earlier_ladder_on_the_same_work_gives_hours_and_variances(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    plan = make_plan("demo", [], {})
    assert Forecast(plan, tmp_path, lambda: "exact_match").source.startswith("assumed")  # other settings
    _same_work(folder, ladder, shared(plan.rungs))
    damaged = make_ladder(tmp_path, plan)
    damaged.state_file.write_text("{damaged")  # not readable: it is left out of the forecast
    prediction = Forecast(plan, tmp_path, lambda: pytest.fail("the earlier ladder has the metric"))
    assert ladder.name in prediction.source and ladder.work and prediction.items == ladder.work.test
    assert prediction.seed_std == pytest.approx(0.004)
    seconds = sum(row.all_seconds.mean for row in ladder.rows if row.all_seconds)
    assert prediction.hours(2) == pytest.approx(2 * seconds / 3600)
    seeds = len(ladder.seeds)
    intervals = [compared.difference for compared in ladder.comparisons if compared.b != BASE]
    half = fmean((interval.high or 0.0) - (interval.low or 0.0) for interval in intervals) / 2
    assert prediction.power(half, seeds) == pytest.approx(0.5, abs=0.1)  # of a difference as large as half an interval
    assert seeds in CRITICAL


@pytest.mark.parametrize("metric", ["auto", "open", "loss"])
def test_of_a_loss_nothing_is_assumed_and_differences_are_in_nats(tmp_path: Path, metric: str) -> None:
    plan = make_plan("demo", [], {"evaluation.metric": metric})
    prediction = Forecast(plan, tmp_path, lambda: "open")
    assert prediction.metric == metric.replace("auto", "open") and prediction.source.startswith("unknown")
    assert list(prediction.differences) == ["0.02 nats/token", "0.05 nats/token", "0.1 nats/token"]
    assert forecast_rows(prediction, [3]) == [["3", "9", "–", "–", "–", "–"]]
    folder, ladder = made_ladder(tmp_path, metric="loss")
    _same_work(folder, ladder, shared(plan.rungs))
    prediction = Forecast(plan, tmp_path, lambda: pytest.fail("the earlier ladder has the metric"))
    assert prediction.metric == "loss" and all(text in prediction.source for text in (ladder.name, "nats/token"))
    chances = [prediction.power(size, 3) or 0.0 for size in prediction.differences.values()]
    assert chances == sorted(chances) and chances[-1] > 0


def _same_work(folder: LadderDir, ladder: Ladder, settings: dict[str, object]) -> None:
    ladder.config = settings
    ladder.status = "finished"
    folder.write_state(ladder)
