"""Score a run's model on its benchmarks before and after training, each benchmark once in all workers of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from engine.evaluation.benchmarks.tasks import Benchmark, load_benchmarks
from engine.runs import events
from engine.runs.benchmark_scores import BenchmarkScores, read_scores, write_scores
from engine.worker.run_context import RunContext


@dataclass
class BenchmarkScorer:
    """Scores a model on the configured benchmarks; writes the scores of each benchmark before it starts the next."""

    run: RunContext
    tokenizer: PreTrainedTokenizerBase
    benchmarks: list[Benchmark] = field(init=False)

    def __post_init__(self) -> None:
        """Raises UserError if a benchmark cannot be loaded."""
        self.benchmarks = load_benchmarks(self.run.config.evaluation)

    def before(self, base: torch.nn.Module) -> None:
        """Score the base model, except where an earlier worker of this run did."""
        self._score(base, "before", reuse=True)

    def after(self, model: torch.nn.Module) -> None:
        """Score the trained model, except where an earlier worker did and this one has not trained further."""
        self._score(model, "after", reuse=not self.run.has_trained)

    def _score(self, model: torch.nn.Module, when: Literal["before", "after"], reuse: bool) -> None:
        ranks = self.run.ranks
        if ranks.splits_evaluation and not ranks.is_first:  # the library is not split among ranks
            return
        for benchmark in self.benchmarks:
            if ranks.is_first:
                self.run.stopping.check()
            path = self.run.dir.benchmark_file(benchmark.name, when)
            scores = self._known(path, benchmark) if reuse else None
            if scores is None:
                from engine.evaluation.benchmarks.item_scores import score_benchmark  # imports the library

                def progress(done: int, total: int, name: str = benchmark.name) -> None:
                    self.run.progress(f"benchmark {name}", done, total)

                batch = self.run.config.evaluation.batch
                scores = score_benchmark(model, self.tokenizer, benchmark, batch, progress)
                if ranks.is_first:
                    write_scores(path, scores)
            self.run.log.write(_event(when, scores))

    def _known(self, path: Path, benchmark: Benchmark) -> BenchmarkScores | None:
        """The scores that an earlier worker wrote."""
        ranks = self.run.ranks
        if ranks.splits_evaluation:
            return read_scores(path, benchmark.fingerprint)
        return ranks.broadcast(lambda: read_scores(path, benchmark.fingerprint))


def _event(when: Literal["before", "after"], scores: BenchmarkScores) -> events.BenchmarkScored:
    return events.BenchmarkScored(
        when=when,
        benchmark=scores.benchmark,
        metric=scores.metric,
        higher_is_better=scores.higher_is_better,
        is_share=scores.is_share,
        fingerprint=scores.fingerprint,
        score=scores.score,
        seconds=scores.seconds,
    )
