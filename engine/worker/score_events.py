"""Events and the warning about scores on the test items."""

from __future__ import annotations

from typing import Literal

from engine.config.quantities import percent
from engine.data.items import EvaluationItem
from engine.runs import events
from engine.runs.result import Score


def score_event(when: Literal["before", "after"], score: Score, rows: int, step: int) -> events.Eval:
    """The event of a score of `rows` test items."""
    return events.Eval(
        when=when,
        split="test",
        step=step,
        rows=rows,
        loss=score.loss.mean,
        loss_low=score.loss.low,
        loss_high=score.loss.high,
        perplexity=score.perplexity,
        metric=score.metric,
        score=score.score.mean,
        low=score.score.low,
        high=score.score.high,
        extra=score.extra,
        seconds=score.seconds,
        ended=score.ended,
        format_errors=score.format_errors,
    )


def sample_event(
    when: Literal["before", "during", "after"],
    item: EvaluationItem,
    prompt: str,
    output: str,
    score: float | None = None,
    step: int | None = None,
) -> events.Sample:
    """The event of one item with the model's answer."""
    references = list(item.references) if len(item.references) > 1 else []
    return events.Sample(
        when=when, step=step, prompt=prompt, target=item.target, output=output, score=score, references=references
    )


def unended_text(ended: float | None, limit: int) -> str:
    """The warning about answers that are truncated at `limit` tokens; `ended`: share of those that end."""
    what = f"only {percent(ended)} of the answers ended with an end token; the others were truncated at {limit} tokens"
    return f"{what}; raise evaluation.max_new_tokens, or check that the end token is in the loss"
