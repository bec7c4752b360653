"""Score a model on one benchmark, item by item."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from transformers import PreTrainedTokenizerBase

from engine.config.errors import RunFailed
from engine.evaluation.benchmarks.loaded_model import LoadedModel, Progress
from engine.evaluation.benchmarks.tasks import SEED, Benchmark
from engine.evaluation.forward import within_memory
from engine.evaluation.intervals import bootstrap, score_interval
from engine.runs.benchmark_scores import BenchmarkScores, are_shares
from engine.training.guards import OutOfMemory


def score_benchmark(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, benchmark: Benchmark, batch: int, progress: Progress
) -> BenchmarkScores:
    """The scores of all items, in order. Halves the batch size on out-of-memory.

    Raises what `progress` raises, and OutOfMemory if not even one request fits in memory.
    """
    begin = time.monotonic()
    was_training = model.training
    try:
        values = _within_memory(lambda size: _scores(model, tokenizer, benchmark, size, progress), batch)
    finally:
        model.train(was_training)
    is_share = are_shares(benchmark.metric, values)
    return BenchmarkScores(
        benchmark=benchmark.name,
        metric=benchmark.metric,
        higher_is_better=benchmark.higher_is_better,
        is_share=is_share,
        fingerprint=benchmark.fingerprint,
        score=score_interval(values) if is_share else bootstrap(values),
        items=values,
        seconds=time.monotonic() - begin,
    )


def _within_memory(score: Callable[[int], list[float]], batch: int) -> list[float]:
    """The scores with the largest batch size that fits in memory: `batch`, half of it, and so on."""
    while (values := within_memory(partial(score, batch))) is None:
        if batch == 1:
            raise OutOfMemory("a single request of a benchmark does not fit in memory")
        batch = (batch + 1) // 2
    return values


def _scores(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, benchmark: Benchmark, batch: int, progress: Progress
) -> list[float]:
    torch.manual_seed(SEED)
    values = benchmark.item_scores(LoadedModel(model, tokenizer, batch, progress), benchmark.limit)
    if not all(map(math.isfinite, values)):
        text = f"benchmark {benchmark.name}: the {benchmark.metric} of an item is not finite"
        raise RunFailed(text, "benchmark.not_finite")
    return values
