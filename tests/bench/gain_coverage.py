"""How often the interval of a gate's gain contains the true gain: the bootstrap alone, and `paired_interval`.

    python tests/bench/gain_coverage.py [SAMPLES]

Items are right (1) or wrong (0) for both models, so a difference is +1, -1 or 0 with known probabilities. Prints, for
numbers of items and probabilities, the share of samples whose 95% interval contains the true gain, and the share whose
lower bound is above it: a gate at the true gain would pass.
"""

from __future__ import annotations

import sys

import numpy as np

from engine.evaluation.intervals import bootstrap, paired_interval

ITEMS = (6, 10, 20, 50, 100, 300)
DISCORDANT = ((0.97, 0.0), (0.9, 0.0), (0.5, 0.0), (0.3, 0.05), (0.1, 0.02), (0.05, 0.05), (0.02, 0.0))
"""Probabilities of +1 and -1."""


def measure(items: int, better: float, worse: float, samples: int) -> list[float]:
    """Shares in percent: contained by the bootstrap, by `paired_interval`; lower bound of the latter too high."""
    random, true = np.random.default_rng(0), better - worse
    counts = np.zeros(3)
    for _ in range(samples):
        drawn = random.random(items)
        values = np.where(drawn < better, 1.0, np.where(drawn < better + worse, -1.0, 0.0)).tolist()
        found = (bootstrap(values), paired_interval(values, (0.0, 1.0)))
        ends = [(one.low or 0.0, one.high or 0.0) for one in found]
        counts += [*(low <= true <= high for low, high in ends), ends[1][0] > true]
    return [100 * float(count) / samples for count in counts]


def main() -> None:
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print("| items | P(+1) | P(-1) | bootstrap covers, % | paired_interval covers, % | its lower bound above, % |")
    print("|---|---|---|---|---|---|")
    for items in ITEMS:
        for better, worse in DISCORDANT:
            found = measure(items, better, worse, samples)
            print(f"| {items} | {better} | {worse} | {' | '.join(f'{value:.1f}' for value in found)} |", flush=True)


if __name__ == "__main__":
    main()
