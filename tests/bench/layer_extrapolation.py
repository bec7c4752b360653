"""Compare the dry run's peaks from few layers with those from all, as a Markdown table.

    OMP_NUM_THREADS=1 python tests/bench/layer_extrapolation.py

The tests compare a sample of these cases (`tests/deep_models.py`).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from deep_models import OTHERS, SAMPLE, Case, all_layers

from engine.memory.formula.estimate import MemoryEstimate


def timed(case: Case) -> tuple[MemoryEstimate, float]:
    """The estimate and the CPU seconds that it took."""
    started = time.process_time()
    return case.planned(), time.process_time() - started


def main() -> int:
    SAMPLE[0].planned()  # imports
    different = 0
    print("| model | method | checkpointing | metric | peaks | few layers | all layers |")
    print("|---|---|---|---|---|---:|---:|")
    for case in (*SAMPLE, *OTHERS):
        few, quick = timed(case)
        with all_layers():
            whole, slow = timed(case)
        different += few != whole
        same = "equal" if few == whole else "DIFFERENT"
        print(f"| {' | '.join(map(str, case))} | {same} | {quick:.1f} s | {slow:.1f} s |", flush=True)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
