"""Fixed quasi-random points: integrals over several random variables without a random seed.

Richtmyer's lattice (1951), as used for multivariate normal and t probabilities by Genz & Bretz (2009): coordinate j of
point i is the fractional part of (i + 1/2) times the square root of a prime. The primes are chosen so that the
coordinates are nearly uncorrelated over POINTS points. There is no random seed that could change a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import count, islice
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

POINTS = 1 << 12

# fmt: off
PRIMES = (
    2, 3, 5, 7, 11, 13, 17, 19, 59, 61, 31, 37, 41, 43, 47, 67, 73, 83, 97, 103, 107, 163, 167, 197, 229, 239, 281, 307,
    317, 373, 397, 409, 479, 487, 541, 757, 1063, 1069, 1277, 1721, 1801, 1933, 1951, 1993, 2017, 2053, 2399, 2447,
)
# fmt: on
"""Of the first coordinates: any two have a correlation below 0.04, as normal values and squared. 14 rungs need 48."""

Floats = NDArray[np.float64]


@lru_cache(maxsize=64)
def uniform(coordinate: int) -> Floats:
    """(POINTS,) one coordinate of the points, between 0 and 1."""
    points: Floats = np.modf((np.arange(POINTS) + 0.5) * np.sqrt(_prime(coordinate)))[0]
    points.setflags(write=False)
    return points


@lru_cache(maxsize=64)
def normal(coordinate: int) -> Floats:
    """(POINTS,) the same coordinate as standard normal values, with mean 0 and variance 1 over the points."""
    values: Floats = np.array([*map(NormalDist().inv_cdf, uniform(coordinate))])
    values = (values - values.mean()) / values.std()
    values.setflags(write=False)
    return values


def chi_square_ratio(coordinate: int, freedom: int) -> Floats:
    """(POINTS,) values of chi-square / freedom, by the approximation of Wilson & Hilferty (1931)."""
    if freedom < 1:
        return np.ones(POINTS)
    spread = 2 / (9 * freedom)
    return np.asarray(np.maximum(1 - spread + normal(coordinate) * np.sqrt(spread), 0.05) ** 3)


def _prime(number: int) -> int:
    """The prime of a coordinate; beyond PRIMES, the next larger ones."""
    if number < len(PRIMES):
        return PRIMES[number]
    larger = (prime for prime in _primes() if prime > PRIMES[-1])
    return next(islice(larger, number - len(PRIMES), None))


def _primes() -> Iterator[int]:
    return (n for n in count(2) if all(n % divisor for divisor in range(2, int(n**0.5) + 1)))
