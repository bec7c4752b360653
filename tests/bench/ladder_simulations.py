"""Verdicts on simulated ladders with known true scores: how often they are right, and how often they claim too much.

    python tests/bench/ladder_simulations.py [--ladders 1000]

Four truths: methods that are equal, a little worse (QLoRA keeps 94 to 98%), much worse, and full fine-tuning without a
gain; 400 test items of different difficulty and 3 seeds each. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from verdict_criteria import CRITERIA


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ladders", type=int, default=1000, help="simulated ladders per truth")
    ladders = parser.parse_args().ladders
    print(f"{ladders:,} simulated ladders per truth\n")
    print("| truth | right | target | overclaims | target | met | time |\n|---|---|---|---|---|---|---|")
    met = True
    for criterion in CRITERIA:
        started = time.perf_counter()
        right, overclaims = criterion.rates(range(ladders))
        met &= (good := right >= 0.95 and overclaims <= 0.05)
        took = time.perf_counter() - started
        rates = f"{right:.1%} | ≥ 95% | {overclaims:.1%} | ≤ 5%"
        print(f"| {criterion.name} | {rates} | {'yes' if good else 'NO'} | {took:.0f} s |", flush=True)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
