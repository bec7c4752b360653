"""Score a model on one benchmark, item by item, by the library's interface to a model that is in memory already."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import GenerationConfig, PreTrainedTokenizerBase

from engine.config.errors import RunFailed
from engine.config.model_config import length_limit
from engine.evaluation.forward import halved, within_memory
from engine.evaluation.intervals import score_interval
from engine.extensions.benchmarks import tasks
from engine.extensions.benchmarks.tasks import SEED, Benchmark
from engine.methods.adapters import unwrap_peft
from engine.methods.model_source import vocabulary_size
from engine.runs.run.result import TaskScores

Progress = Callable[[int, int], None]
"""Called with the requests done and all requests; may raise."""
LOGITS_BYTES = 1 << 29
"""Upper limit of the logits of a batch, in fp32: the library keeps those of all tokens."""


SHARES = ("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "exact_match")
"""Metrics of the library whose score of an item is between 0 and 1."""


class LoadedModel(HFLM):
    """Answers the library's requests with a loaded model: log-likelihoods, and greedy generation.

    Its chat template is not applied: the prompts are those of the task. The tokenizer is a copy, because the library
    changes its padding.
    """

    def __init__(
        self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, batch: int, progress: Progress
    ) -> None:
        super().__init__(pretrained=model, tokenizer=copy.deepcopy(tokenizer), backend="causal", batch_size=batch)
        self.batch, self.cache_hook = batch, _Progress(progress)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        self.cache_hook.begin(len(requests))
        return super().loglikelihood(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        self.cache_hook.begin(len(requests))
        inner = unwrap_peft(self.model)
        own = inner.generation_config
        tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        inner.generation_config = GenerationConfig(**tokens)  # no temperature or penalty of the model's own
        longest = max((self._longest_answered(*request.args) for request in requests), default=1)
        self.batch_size_per_gpu = self._rows_together(longest)
        try:
            return super().generate_until(requests, disable_tqdm=True)
        finally:
            inner.generation_config = own

    def _longest_answered(self, context: str, settings: dict[str, Any]) -> int:
        """Tokens of a request of `generate_until` with the longest answer that it allows."""
        return len(self.tok_encode(context)) + int(normalize_gen_kwargs(settings, self.max_gen_toks)["max_gen_toks"])

    def _rows_together(self, longest: int) -> int:
        """The batch size for rows of up to `longest` tokens: 1 if their RoPE depends on their length, since the library
        passes no positions that would tell a shorter row from its padding.
        """
        limit = length_limit(unwrap_peft(self.model).config.to_dict())
        return 1 if limit and longest > limit else self.batch

    def _loglikelihood_tokens(self, requests: Sequence[Any], **options: Any) -> list[tuple[float, bool]]:
        """Reduces the batch size so that the logits of the longest requests keep within LOGITS_BYTES."""
        longest = max((len(context) + len(answer) for _, context, answer in requests), default=1)
        vocabulary = vocabulary_size(unwrap_peft(self.model).config)
        most = self._rows_together(longest)
        self.batch_size_per_gpu = max(1, min(most, LOGITS_BYTES // (4 * longest * vocabulary)))
        return super()._loglikelihood_tokens(requests, **options)


class _Progress:
    """Receives every answered request, in the place of the library's cache."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.done, self.total = progress, 0, 0

    def begin(self, total: int) -> None:
        self.done, self.total = 0, total
        self.progress(0, total)

    def add_partial(self, attribute: str, request: Any, answer: Any) -> None:
        self.done += 1
        self.progress(self.done, self.total)


@contextlib.contextmanager
def _limited_expressions(benchmark: Benchmark) -> Iterator[None]:
    """Limit the CPU time from the model's last answer on if the task is a file.

    Its regular expressions read texts on which none could be tried before. A signal can interrupt `re`.
    """
    task = benchmark.task
    seconds = tasks.LOAD_SECONDS + tasks.ITEM_SECONDS * benchmark.items

    def read_answers() -> None:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        type(task).apply_filters(task)

    def refuse(*_: object) -> NoReturn:
        text = f"benchmark {benchmark.name}: a regular expression of the task takes too long for the model's answers"
        raise RunFailed(text, "benchmark.timeout")

    if not benchmark.from_file:
        yield
        return
    before = signal.signal(signal.SIGPROF, refuse)
    task.apply_filters = read_answers
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        del task.apply_filters


def score_benchmark(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, benchmark: Benchmark, batch: int, progress: Progress
) -> TaskScores:
    """The scores of all items, in order. Halves the batch size on out-of-memory.

    Raises what `progress` raises, OutOfMemory if not even one request fits in memory, and RunFailed if the regular
    expressions of a task file take too long.
    """
    begin = time.monotonic()
    was_training = model.training

    def score() -> list[float]:
        torch.manual_seed(SEED)
        with _limited_expressions(benchmark):
            return benchmark.item_scores(LoadedModel(model, tokenizer, batch, progress), benchmark.limit)

    try:
        while (values := within_memory(score)) is None:
            batch = halved(batch, "a single request of a benchmark does not fit in memory")
    finally:
        model.train(was_training)
    if not all(map(math.isfinite, values)):
        text = f"benchmark {benchmark.name}: the {benchmark.metric} of an item is not finite"
        raise RunFailed(text, "benchmark.not_finite")
    is_share = benchmark.metric in SHARES or set(values) <= {0.0, 1.0}
    return TaskScores(
        task=benchmark.name,
        metric=benchmark.metric,
        higher_is_better=benchmark.higher_is_better,
        is_share=is_share,
        fingerprint=benchmark.fingerprint,
        score=score_interval(values, (0.0, 1.0) if is_share else (-math.inf, math.inf)),
        items=values,
        seconds=time.monotonic() - begin,
    )
