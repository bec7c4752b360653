"""Intervals of cost ratios cover at every noise up to the assumed one, and become narrow where noise is measured."""

from __future__ import annotations

import math

import pytest
from simulated_costs import CostCell, measure_costs

from engine.ladder.cost_ratios import MAX_NOISE, MIN_NOISE_SEEDS, ratio_interval
from engine.runs.run.result import Z_95


@pytest.mark.parametrize("seeds", [(1, 1), (2, 2), (1, 3), (2, 5), (5, 2), (3, 3), (3, 5), (5, 5)])
@pytest.mark.parametrize("noise", [(0.03, 0.03), (MAX_NOISE, MAX_NOISE), (0.03, MAX_NOISE), (MAX_NOISE, 0.03)])
def test_intervals_cover_at_every_noise_up_to_the_assumed_one(
    seeds: tuple[int, int], noise: tuple[float, float]
) -> None:
    covered, _, _ = measure_costs(CostCell(seeds, noise), 1500)
    assert covered > 0.93 - 2.5 * math.sqrt(0.93 * 0.07 / 1500)


def test_measured_noise_makes_intervals_narrow_and_is_not_limited() -> None:
    factors = [measure_costs(CostCell((seeds, seeds), (0.03, 0.03)), 500)[1] for seeds in (1, 2, 3, 5)]
    assert factors == sorted(factors, reverse=True) and factors[2] < 1.1
    for seeds in range(MIN_NOISE_SEEDS, 6):
        covered, _, _ = measure_costs(CostCell((seeds, seeds), (0.6, 0.6)), 1500)
        assert covered > 0.93


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_equal_timings_show_no_noise(count: int) -> None:
    low, high = ratio_interval([12.0] * count, [100.0] * count)
    assert math.log(high / low) == pytest.approx(2 * Z_95 * MAX_NOISE * math.sqrt(2 / count))
    assert math.sqrt(low * high) == pytest.approx(0.12)


def test_exchanging_the_costs_inverts_the_interval() -> None:
    own, full = [11.8, 12.3], [101.0, 99.0, 104.0, 100.0]
    low, high = ratio_interval(own, full)
    assert ratio_interval(full, own) == pytest.approx((1 / high, 1 / low))


def test_one_of_two_timings_that_is_disturbed_makes_the_interval_wide() -> None:
    low, high = ratio_interval([12.0, 30.0], [100.0, 100.0])
    assert low < 0.12 < high and high / low > 2 * math.exp(2 * Z_95 * MAX_NOISE)
