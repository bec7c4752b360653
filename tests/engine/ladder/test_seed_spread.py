"""The distribution of the spread between seeds: known cases, the prior, and rungs that lack seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.ladder.statistics import (
    POINTS,
    PRIMES,
    ItemScores,
    MeanSamples,
    SeedEvidence,
    chi_square_ratio,
    f_tail,
    find_outliers,
    normal,
    seed_deviations,
    uniform,
)

MEDIAN = 0.015


def evidence(std: float, seeds: int, residual: float = 0.0) -> SeedEvidence:
    """A rung whose seeds have exactly this standard deviation."""
    return SeedEvidence(seeds, std**2 * (seeds - 1), residual)


@pytest.mark.parametrize(("ratio", "above", "below"), [(4.965, 1, 10), (3.490, 3, 12), (161.4, 1, 1), (2.866, 4, 20)])
def test_the_tail_of_f_has_its_tabulated_values(ratio: float, above: int, below: int) -> None:
    assert f_tail(ratio, above, below) == pytest.approx(0.05, abs=2e-4)


def test_the_points_have_the_moments_of_their_distributions() -> None:
    values = np.stack([normal(coordinate) for coordinate in range(len(PRIMES) + 2)])
    correlation = values @ values.T / POINTS
    used = correlation[: len(PRIMES), : len(PRIMES)] - np.eye(len(PRIMES))
    assert abs(used).max() < 0.04
    assert (values**4).mean(1) == pytest.approx(np.full(len(values), 3.0), abs=0.15)
    assert uniform(0).mean() == pytest.approx(0.5, abs=0.002)
    assert chi_square_ratio(0, 9).var() == pytest.approx(2 / 9, rel=0.03)
    assert len(uniform(0)) == POINTS


def test_with_one_seed_the_prior_stands_alone() -> None:
    for found in seed_deviations([evidence(0.0, 1)] * 3, MEDIAN):
        assert np.median(found) == pytest.approx(MEDIAN, rel=0.03)
        assert 3 * MEDIAN < np.quantile(found, 0.95) < 4 * MEDIAN


@pytest.mark.parametrize("std", [0.004, 0.015, 0.06])
def test_many_seeds_determine_their_spread(std: float) -> None:
    (found, *_) = seed_deviations([evidence(std, 20)] * 2, MEDIAN)
    assert np.median(found) == pytest.approx(std, rel=0.1)
    assert np.quantile(found, 0.95) < 1.6 * std


def test_residuals_are_not_counted_as_spread_between_seeds() -> None:
    """The means of the seeds differ exactly as much as their residuals explain."""
    alone, explained = (seed_deviations([evidence(0.02, 10, residual)], MEDIAN)[0] for residual in (0.0, 0.02**2))
    assert np.median(explained) < 0.6 * np.median(alone)


def test_what_other_rungs_say_never_makes_a_rung_with_fewer_seeds_more_certain() -> None:
    few, calm, wild = evidence(0.01, 2), evidence(0.002, 5), evidence(0.08, 5)
    (alone,) = seed_deviations([few], MEDIAN)
    for others in (calm, wild):
        assert (seed_deviations([few, others, others], MEDIAN)[0] >= alone).all()
    one = evidence(0.0, 1)
    with_calm, with_wild = (np.median(seed_deviations([one, others, others], MEDIAN)[0]) for others in (calm, wild))
    assert MEDIAN < with_calm * 1.05 < with_wild


def test_a_rung_that_lacks_seeds_and_varies_more_is_find_outliers() -> None:
    calm = evidence(0.005, 5)
    assert find_outliers([evidence(0.05, 2), calm, calm]) == [True, False, False]
    assert find_outliers([evidence(0.006, 2), calm, calm]) == [False] * 3
    assert find_outliers([evidence(0.05, 5), calm, calm]) == [False] * 3  # it has as many seeds
    assert find_outliers([evidence(0.0, 1), calm, calm]) == [False] * 3  # one seed has no variance


def test_without_spread_between_many_seeds_the_interval_is_that_of_the_items() -> None:
    """Items alternate between a difference of 0 and 1: the standard error of the mean is known."""
    items = 1000
    a, b = np.zeros((20, items)), np.zeros((20, items))
    a[:, ::2] = 1.0
    (found,) = MeanSamples({"a": ItemScores(a), "b": ItemScores(b)}, (-math.inf, math.inf)).differences([("a", "b")])
    assert found.half_width == pytest.approx(1.96 * 0.5 / math.sqrt(items), rel=0.05)
