"""The check of an exported artifact as lines of text, for the command line and the model card."""

from __future__ import annotations

from collections.abc import Iterator

from engine.config.metric_specs import metric_spec
from engine.config.quantities import decimal, integer, percent, significant, size
from engine.config.text import amount
from engine.runs import score_format
from engine.runs.exports import Fidelity, MergeCandidate
from engine.runs.result import MIN_ITEMS


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
    if check.score and check.score.mean is not None:
        yield f"{metric.title}, artifact", score_format.with_bounds(check.score, check.metric)
    if check.run_score and check.run_score.mean is not None:
        yield f"{metric.title}, run", score_format.with_bounds(check.run_score, check.metric)
    if check.base_score and check.base_score.mean is not None:
        yield f"{metric.title}, before the training", score_format.with_bounds(check.base_score, check.metric)
    if check.gain and check.gain.mean is not None:
        text = score_format.difference_with_bounds(check.gain, check.metric)
        yield "gain over it", f"{text}, paired by test item"
    if check.difference and check.difference.mean is not None:
        text = score_format.difference_with_bounds(check.difference, check.metric)
        yield "difference", f"{text}, paired by test item"
    if metric.needs_answers and check.loss_difference and check.loss_difference.mean is not None:
        text = score_format.difference_with_bounds(check.loss_difference, "loss")
        yield "held-out loss, difference", f"{text} nats/token"
    if check.identical is not None:
        yield "identical answers", percent(check.identical)
    if check.ended is not None:
        yield "ended by an end token", f"{percent(check.ended)} of the answers"
    if check.largest_logit_difference is not None:
        tokens = amount(check.logits_compared, "answer token")
        yield "largest logit difference", f"{significant(check.largest_logit_difference)} over {tokens}"
    if check.system_prompt:
        length = amount(check.system_prompt, "character")
        yield "system prompt", f"all training rows have the same ({length}): begin every request with it"
    yield "weights", f"{size(check.bytes)}, {check.type}"
    if check.copied:
        modules = ", ".join(f"{name} ({amount(number, 'tensor')})" for name, number in check.copied.items())
        yield "copied from the base", f"{modules}: the run neither loads nor trains them"
    if check.vllm_names is not None:
        accepted = "accepted" if check.vllm_names else "not accepted"
        yield (
            "names of the weights",
            f"{accepted} by vLLM's mapping of the family (read in its source; no server was run)",
        )
    if check.tensor_types:
        yield "tensor types", ", ".join(f"{name} {integer(number)}" for name, number in check.tensor_types.items())
    if check.seconds_per_token:
        yield "generation", f"{decimal(1 / check.seconds_per_token, 1)} tokens/s on {check.device}"
    for one in check.candidates:
        yield base_fact(check, one)


def base_fact(check: Fidelity, one: MergeCandidate) -> tuple[str, str]:
    """(what, score and difference) of a QLoRA adapter with one of its bases."""
    score = score_format.with_bounds(one.score, check.metric)
    if check.kind != "adapter":
        return f"merged into the {one.base} base", score + (", kept" if one.kept else "")
    if one.difference and one.difference.mean is not None:
        score += f", difference {score_format.difference_with_bounds(one.difference, check.metric)}"
    return ("on the 4-bit base" if one.kept else "on the 16-bit base, as vLLM loads it"), score
