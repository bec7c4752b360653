"""Evaluate a run's model before and after training: test rows, validation rows, general text, tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import msgspec
import torch
from transformers import PreTrainedTokenizerBase

from engine.config.device_defaults import answers_together
from engine.config.files import write_atomically
from engine.config.metric_specs import metric_spec
from engine.config.quantities import percent
from engine.config.schema import Config
from engine.data.items import (
    FINAL_VALIDATION_ROWS,
    EvaluationItem,
    all_rows,
    few_shot_items,
    few_shot_rows,
    sampled,
    sampled_by_rows,
)
from engine.data.prepared import Preparation
from engine.data.rows import Row
from engine.evaluation.general_text import general_rows
from engine.evaluation.generate import Generator, end_tokens
from engine.evaluation.metrics import Choices, mean_loss
from engine.evaluation.preflight import unscorable_warning
from engine.evaluation.score import (
    Progress,
    Scorer,
    item_losses,
    no_progress,
    read_items,
    row_losses,
    summarize,
    write_items,
)
from engine.methods.model_source import maximum_positions
from engine.runs.run import events
from engine.runs.run.predictions import ScoredItem
from engine.runs.run.result import MIN_ENDED, TASK, General, Score, read_scores, write_scores
from engine.runs.run.run_dir import RunDir
from engine.runs.task_hooks import Task, load_tasks
from engine.training.batches import Packing, answer_tokens
from engine.training.ranks import Ranks
from engine.training.row_independence import ONE_ROW
from engine.worker.run_log import RunLog

LEARNING_PROMPTS, LEARNING_TOKENS = 3, 64
"""Validation prompts that are answered at each validation during training, and the maximum tokens of an answer."""
SAMPLES = 3
"""Test items logged as `sample` events, before and after training."""


@dataclass
class Evaluator:
    """Scores the base model and the tuned model on the same items; `evaluation.when` selects which of them.

    Training takes its rows and packing from here, so that both losses are computed alike.
    """

    config: Config
    tokenizer: PreTrainedTokenizerBase
    rows: Preparation
    run_dir: RunDir
    device: str
    """"cuda" or "cpu"."""
    ranks: Ranks
    log: RunLog
    packing: Packing = field(init=False)
    """Set by `create_scorer`, as is `scorer`."""
    scorer: Scorer = field(init=False)
    test: list[EvaluationItem] = field(init=False)
    validation: list[EvaluationItem] = field(init=False)
    prompts: list[str] = field(init=False)
    """The text of each test item's prompt."""
    tasks: list[Task] = field(init=False)
    choices: Choices | None = None
    general: list[Row] = field(init=False, default_factory=list)
    text: str = ""
    base_items: list[ScoredItem] | None = None
    base_general: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises UserError if a task cannot be loaded."""
        config = self.config
        self.tasks = load_tasks(config)
        self.test = sampled(self.rows.test_items, config.evaluation.rows)
        self.validation = sampled_by_rows(self.rows.validation_items, FINAL_VALIDATION_ROWS)
        if metric_spec(config.evaluation.metric).picks_from_choices and self.scores_test:
            self.choices = Choices.of(self.rows.train)
        if config.evaluation.when != "never":
            self.text, self.general = general_rows(config, self.tokenizer)
        if self.scores_test and (
            notice := unscorable_warning(config.evaluation.metric, self.test, config.evaluation.reasoning_tags)
        ):
            self.log.warn(notice.code, notice.text)
        self.prompts = [self.tokenizer.decode(item.row.prompt) for item in self.test]

    @property
    def scores_test(self) -> bool:
        """Whether test items exist and `evaluation.when` asks for their score."""
        return bool(self.test) and self.config.evaluation.when != "never"

    def create_scorer(self, base: torch.nn.Module, packing: Packing) -> None:
        """Create the scorer from the model's configuration; runs no forward pass."""
        evaluation = self.config.evaluation
        ends = end_tokens(self.tokenizer, base, self.rows.train)
        # Padding in front of a prompt would change the answer of such a model.
        batch = 1 if packing == ONE_ROW else answers_together(evaluation.batch, self.device)
        generator = Generator(self.tokenizer, evaluation.max_new_tokens, batch, self.device, ends, self.log.warn)
        self.packing = packing
        self.scorer = Scorer(evaluation.metric, generator, packing, self.tokenizer.pad_token_id, self.device)
        self.scorer.tags = evaluation.reasoning_tags
        self.scorer.progress = self.log.progress
        if self.choices:
            self.scorer.choose_from(self.choices, self.test)

    def run_worst_case(self, model: torch.nn.Module, held_out: Sequence[Row]) -> None:
        """Run the largest loss and generation batches for the memory probe; reduces the latter until it fits."""
        if held_out:
            row_losses(model, held_out, self.packing, self.tokenizer.pad_token_id, self.device)
        if self.scores_test:
            self.scorer.probe_generation(model, self.test)

    @property
    def loss_rows(self) -> list[Row]:
        """All rows whose loss is measured: validation rows, test rows and general text."""
        scored = [] if self.config.evaluation.when == "never" else [*all_rows(self.test), *self.general]
        return [*all_rows(self.validation), *scored]

    def score_before_training(self, base: torch.nn.Module, logged: events.Eval | None) -> None:
        """Score the model that training starts from, or reuse the predictions of an earlier worker of this run.

        `logged`: the score that it logged.
        """
        file, ranks = self.run_dir.predictions_file, self.ranks
        self.base_general = self._general_losses(base)
        self._score_tasks(base, "before")
        if not self.scores_test:
            return
        self.base_items = ranks.broadcast(lambda: read_items(file, self.test, self.prompts))
        if self.base_items is None:
            self.base_items, seconds = _timed(lambda: self._items(base, self.test))
            if ranks.is_first:
                write_items(file, self.test, self.prompts, self.base_items, None)
            self._log_score("before", self.base_items, seconds)
        else:
            score = self._summary(self.base_items, logged.seconds if logged else 0.0)
            if logged is None or logged.score != score:  # else the log contains it already
                self._log_score("before", self.base_items, score.seconds)
        bos, new_tokens = self.tokenizer.bos_token_id, self.config.evaluation.max_new_tokens
        for shots in self.config.evaluation.base_shots:  # number of examples in each prompt
            limit, few_shot_file = maximum_positions(base.config), self.run_dir.few_shot_file(shots)
            if ranks.broadcast(partial(read_items, few_shot_file, self.test, self.prompts)) is not None:
                continue
            items = few_shot_items(self.test, self.rows.train, shots, bos, new_tokens, limit)
            scored = self._items(base, items)
            if ranks.is_first:
                examples = few_shot_rows(self.test, self.rows.train, shots, new_tokens, limit)
                places = msgspec.json.encode([row.where for row in examples])
                write_atomically(self.run_dir.few_shot_examples_file(shots), places)
                write_items(few_shot_file, self.test, self.prompts, scored, None)

    def score_after_training(self, model: torch.nn.Module) -> None:
        """Score the trained model: validation items, then test items, general text and tasks."""
        if self.validation:
            loss = self.loss(model, self.validation, self.log.progress)
            rows, step = len(self.validation), self.log.step
            self.log.write(events.Eval(when="after", split="validation", step=step, rows=rows, loss=loss))
        if self.scores_test:
            items, seconds = _timed(lambda: self._items(model, self.test))
            if self.ranks.is_first:
                write_items(self.run_dir.predictions_file, self.test, self.prompts, self.base_items, items)
            self._log_score("after", items, seconds)
        if self.general:
            after = self._general_losses(model)
            tokens = [answer_tokens(row) for row in self.general]
            general = General(text=self.text, tokens=tokens, before=self.base_general, after=after)
            self.log.write(events.GeneralLoss(general=general))
        if self.config.evaluation.when != "never":
            self._score_tasks(model, "after")

    def loss(self, model: torch.nn.Module, items: Sequence[EvaluationItem], progress: Progress = no_progress) -> float:
        """Mean negative log-likelihood per answer token, in nats.

        During training there is no `progress`: a stop request must not end it before the checkpoint is saved.
        """
        pad, device = self.tokenizer.pad_token_id, self.device
        losses = self.ranks.mapped(lambda part: item_losses(model, part, self.packing, pad, device, progress), items)
        return mean_loss(losses)

    def _items(self, model: torch.nn.Module, items: Sequence[EvaluationItem]) -> list[ScoredItem]:
        """The model's answers to the items with their scores; each rank answers a part of them."""
        return self.ranks.mapped(lambda part: self.scorer.items(model, part), items)

    def learning_answers(self, model: torch.nn.Module) -> list[tuple[EvaluationItem, str, str]]:
        """(item, its prompt, the model's answer) for the first LEARNING_PROMPTS validation items.

        Shown while the model learns, and not scored. Empty if nothing is evaluated, or the metric is a loss.
        """
        evaluation = self.config.evaluation
        if evaluation.when == "never" or not metric_spec(evaluation.metric).needs_answers:
            return []
        if self.ranks.splits_evaluation and not self.ranks.is_first:
            return []
        items = self.validation[:LEARNING_PROMPTS]
        generator = self.scorer.generator
        limited = replace(generator, max_new_tokens=min(LEARNING_TOKENS, generator.max_new_tokens))
        answers = (self.scorer.chooser or limited).answers
        outputs = answers(model.eval(), [item.row for item in items], lambda done: None) if items else []
        prompts = [self.tokenizer.decode(item.row.prompt) for item in items]
        return list(zip(items, prompts, outputs, strict=True))

    def _general_losses(self, model: torch.nn.Module) -> list[float]:
        """Summed negative log-likelihood of each passage in nats."""
        pad, device = self.tokenizer.pad_token_id, self.device
        total = -(-len(self.general) // self.ranks.size)

        def progress(done: int) -> None:
            self.log.progress("general text", done, total)

        losses = self.ranks.mapped(
            lambda part: row_losses(model, part, self.packing, pad, device, progress), self.general
        )
        return [loss.nll for loss in losses]

    def _summary(self, scored: Sequence[ScoredItem], seconds: float) -> Score:
        """Means over the test items; items of one group are one unit of the intervals."""
        return summarize(scored, self.config.evaluation.metric, seconds, [item.group for item in self.test])

    def _log_score(self, when: Literal["before", "after"], scored: Sequence[ScoredItem], seconds: float) -> None:
        """Log the score on the test items and the first SAMPLES answers."""
        score = self._summary(scored, seconds)
        self.log.write(
            events.Eval(
                when=when,
                split="test",
                step=self.log.step if when == "after" else 0,
                rows=len(self.test),
                loss=score.loss.mean,
                seconds=score.seconds,
                score=score,
            )
        )
        if when == "after" and score.ended and (score.ended.mean or 0.0) < MIN_ENDED:
            share, limit = percent(score.ended.mean), self.config.evaluation.max_new_tokens
            text = f"only {share} of the answers ended with an end token; the others were truncated at {limit} tokens"
            advice = "use a larger `--set evaluation.max_new_tokens=N`, or check that the end token is in the loss"
            self.log.warn("evaluation.unended_answers", f"{text}; {advice}")
        for answer, item, prompt in list(zip(scored, self.test, self.prompts, strict=True))[:SAMPLES]:
            value = (answer.scores or {}).get(score.metric)
            self.log.write(sample_event(when, item, prompt, answer.output, value))

    def _score_tasks(self, model: torch.nn.Module, when: Literal["before", "after"]) -> None:
        """Score a model, except where an earlier worker of this run did and this one has not trained further. The
        scores of each task are written before the next one starts.
        """
        ranks = self.ranks
        if ranks.splits_evaluation and not ranks.is_first:  # the library is not split among ranks
            return
        for task in self.tasks:
            self.log.check_stop()
            name, path, scores = task.name, self.run_dir.task_file(task.name, when), None
            if when == "before" or not self.log.has_trained:
                read = partial(read_scores, path, task.fingerprint)
                scores = read() if ranks.splits_evaluation else ranks.broadcast(read)
            if scores is None:

                def progress(done: int, total: int, name: str = name) -> None:
                    self.log.progress(f"{TASK} {name}", done, total)

                batch = answers_together(self.config.evaluation.batch, "cpu")  # the worker has decided for its device
                scores = task.score(model, self.tokenizer, batch, progress)
                if ranks.is_first:
                    write_scores(path, scores)
            without_items = msgspec.structs.replace(scores, items=[])
            self.log.write(events.TaskScored(when=when, scores=without_items))


def sample_event(
    when: Literal["before", "during", "after"],
    item: EvaluationItem,
    prompt: str,
    output: str,
    score: float | None = None,
    step: int | None = None,
) -> events.Sample:
    references = list(item.references) if len(item.references) > 1 else []
    return events.Sample(
        when=when, step=step, prompt=prompt, target=item.target, output=output, score=score, references=references
    )


def _timed(work: Callable[[], list[ScoredItem]]) -> tuple[list[ScoredItem], float]:
    """The items and the duration of computing them in seconds."""
    started = time.monotonic()
    items = work()
    return items, time.monotonic() - started
