"""Time of head and cross entropy in chunks against whole logits: `python tests/bench/chunked_loss.py`.

2,048 positions, hidden size 576, vocabulary 49,152 (SmolLM2-135M), forward and backward, one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from engine.training.chunked_loss import ChunkedCrossEntropy
from engine.training.loss import SummedCrossEntropy

POSITIONS, HIDDEN, VOCABULARY, REPEATS = 2048, 576, 49152, 4


def best_time(work: Callable[[], object]) -> float:
    """Seconds of the fastest of REPEATS runs, after one that is not measured."""
    work()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    torch.set_num_threads(1)
    print("| data type | head | whole logits, s | chunks, s |\n|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        hidden = torch.randn(POSITIONS, HIDDEN, dtype=dtype, requires_grad=True)
        targets = torch.randint(0, VOCABULARY, (POSITIONS,))
        for trained in (False, True):
            weight = (torch.randn(VOCABULARY, HIDDEN, dtype=dtype) * 0.02).requires_grad_(trained)

            def whole() -> None:
                logits = torch.nn.functional.linear(hidden, weight)  # noqa: B023
                SummedCrossEntropy.apply(logits, targets).backward()  # noqa: B023

            def chunks() -> None:
                ChunkedCrossEntropy.apply(hidden, weight, None, targets, None, 1.0, dtype).backward()  # noqa: B023

            row = (str(dtype).removeprefix("torch."), "trained" if trained else "frozen")
            print(f"| {' | '.join(row)} | {best_time(whole):.2f} | {best_time(chunks):.2f} |", flush=True)


if __name__ == "__main__":
    main()
