"""Scores, losses and differences, and checks of artifacts as text.

Every function on a score, loss or difference also takes None and NaN and returns `–` or ''.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.config.metric_specs import metric_spec
from engine.config.quantities import Number, decimal, integer, percent, share_percent, significant, size, with_unit
from engine.config.text import amount
from engine.runs.run.exports import Fidelity, MergeCandidate
from engine.runs.run.result import MIN_ITEMS, Interval


def points(value: Number) -> str:
    """A difference of two shares in percentage points, `+2.3 points`."""
    return with_unit(decimal(None if value is None else value * 100, 1, signed=True), "points")


def loss(value: Number) -> str:
    """A loss in nats/token, `0.474`."""
    return decimal(value, 3)


def score(value: Number, metric: str) -> str:
    """A score of the metric: in percent if it is a share."""
    return _score(value, metric_spec(metric).is_share)


def difference(value: Number, metric: str) -> str:
    """A difference of two scores: in percentage points if the metric is a share, else `+0.012`."""
    return _difference(value, metric_spec(metric).is_share)


def score_bounds(interval: Interval | None, metric: str, fewer: int = 0) -> str:
    """The bounds of a score's interval, without the unit: `[55.6, 60.6]`, `[0.457, 0.492]`; with `fewer` digits."""
    return _bounds(interval, metric_spec(metric).is_share, fewer)


def percent_bounds(interval: Interval | None, digits: int = 1) -> str:
    """The bounds of a share's interval, in percent."""
    return _bounds(interval, True, 1 - digits)


def with_bounds(interval: Interval | None, is_share: bool) -> str:
    """A score with its interval: `71.3% [68.0, 74.4]`, `0.474 [0.457, 0.492]`."""
    return " ".join(score_parts(interval, is_share)).rstrip()


def difference_with_bounds(interval: Interval | None, is_share: bool) -> str:
    """A difference of two scores with its interval: `−1.2 points [−3.0, 0.5]`."""
    return " ".join(difference_parts(interval, is_share)).rstrip()


def score_parts(interval: Interval | None, is_share: bool) -> tuple[str, str]:
    """The same as two texts: `71.3%`, `[68.0, 74.4]`."""
    return _score(interval.mean if interval else None, is_share), _bounds(interval, is_share)


def difference_parts(interval: Interval | None, is_share: bool) -> tuple[str, str]:
    """The same of a difference: `−1.2 points`, `[−3.0, 0.5]`."""
    return _difference(interval.mean if interval else None, is_share), _bounds(interval, is_share)


def _score(value: Number, is_share: bool) -> str:
    return percent(value) if is_share else loss(value)


def _difference(value: Number, is_share: bool) -> str:
    return points(value) if is_share else decimal(value, 3, signed=True)


def _bounds(interval: Interval | None, is_share: bool, fewer: int = 0) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return ""
    factor, digits = (100, 1 - fewer) if is_share else (1, 3 - fewer)
    return f"[{decimal(interval.low * factor, digits)}, {decimal(interval.high * factor, digits)}]"


def outcome_sentence(check: Fidelity) -> str:
    """The outcome and why, in one sentence."""
    if check.defects:
        return f"worse: {check.defects[0].text}"
    metric = metric_spec(check.metric)
    margin = f"{check.margin * metric.scale:g} {'points' if metric.is_share else metric.unit}"
    if check.difference is None or not check.difference.rows:
        return "undecided: the run has no scores of test items to compare with"
    if check.difference.rows < MIN_ITEMS:
        return f"undecided: {amount(check.difference.rows, 'test item')}; an interval needs at least {MIN_ITEMS}"
    if check.difference.low is None:
        return "undecided: a score is not a finite number"
    if check.outcome == "pass":
        return f"pass: not worse than the run by more than the margin of {margin}"
    if check.outcome == "worse":
        return f"worse: worse than the run by more than the margin of {margin}"
    items = amount(check.difference.rows, "test item")
    return f"undecided: {items} do not show whether it is worse by more than the margin of {margin}"


def fidelity_facts(check: Fidelity) -> Iterator[tuple[str, str]]:
    """(name, value) of every figure of the check."""
    metric = metric_spec(check.metric)
    yield "outcome", outcome_sentence(check)
    for defect in check.defects[1:]:
        yield "defect", defect.text
    for warning in check.warnings:
        yield "warning", warning.text
    scored = (("artifact", check.score), ("run", check.run_score), ("before the training", check.base_score))
    for model, interval in scored:
        if interval and interval.mean is not None:
            yield f"{metric.title}, {model}", with_bounds(interval, metric.is_share)
    for name, interval in (("gain over it", check.gain), ("difference", check.difference)):
        if interval and interval.mean is not None:
            yield name, f"{difference_with_bounds(interval, metric.is_share)}, paired by test item"
    if not metric.is_loss and check.loss_difference and check.loss_difference.mean is not None:
        text = difference_with_bounds(check.loss_difference, is_share=False)
        yield "held-out loss, difference", f"{text} nats/token"
    if check.identical is not None:
        yield "identical answers", percent(check.identical)
    if check.ended is not None:
        yield "ended by an end token", f"{percent(check.ended)} of the answers"
    if check.largest_logit_difference is not None:
        tokens = amount(check.logits_compared, "answer token")
        yield "largest logit difference", f"{significant(check.largest_logit_difference)} over {tokens}"
    if check.experts_changed:
        reason = "a small difference decides between experts with nearly equal scores"
        yield "experts chosen", f"{share_percent(check.experts_changed)} differ from the run's: {reason}"
        if check.logit_difference_with_same_experts is not None:
            tokens = amount(check.logits_with_same_experts, "answer token")
            value = significant(check.logit_difference_with_same_experts)
            yield "logit difference, same experts", f"{value} over {tokens}"
    elif check.experts_changed is not None:
        yield "experts chosen", "those of the run for every token"
    if check.system_prompt:
        length = amount(check.system_prompt, "character")
        yield "system prompt", f"all training rows have the same ({length}): begin every request with it"
    yield "weights", f"{size(check.bytes)}, {check.type}"
    if check.copied:
        modules = ", ".join(f"{name} ({amount(number, 'tensor')})" for name, number in check.copied.items())
        yield "copied from the base", f"{modules}: the run neither loads nor trains them"
    if check.vllm_names is not None:
        accepted = f"{'' if check.vllm_names else 'not '}accepted by vLLM's mapping of the family"
        yield "names of the weights", f"{accepted} (read in its source; no server was run)"
    if check.tensor_types:
        yield "tensor types", ", ".join(f"{name} {integer(number)}" for name, number in check.tensor_types.items())
    if check.seconds_per_token:
        yield "generation", f"{decimal(1 / check.seconds_per_token, 1)} tokens/s on {check.device}"
    for candidate in check.candidates:
        yield base_fact(check, candidate)


def base_fact(check: Fidelity, candidate: MergeCandidate) -> tuple[str, str]:
    """(what, score and difference) of a QLoRA adapter with one of its bases."""
    is_share = metric_spec(check.metric).is_share
    score = with_bounds(candidate.score, is_share)
    if check.kind != "adapter":
        return f"merged into the {candidate.base} base", score + (", kept" if candidate.kept else "")
    if candidate.difference and candidate.difference.mean is not None:
        score += f", difference {difference_with_bounds(candidate.difference, is_share)}"
    return ("on the 4-bit base" if candidate.kept else "on the 16-bit base, as vLLM loads it"), score
