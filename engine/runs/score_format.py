"""Scores, losses and differences, checks of artifacts and the figure of the summary as text.

Every function on a score, loss or difference also takes None and NaN and returns `–` or ''.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from engine.config.metric_specs import metric_spec
from engine.config.quantities import Number, decimal, integer, percent, share_percent, significant, size, with_unit
from engine.config.text import amount, visible
from engine.runs.ladder.rung_results import LadderSummary, RungTradeoff
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


def score_bounds(interval: Interval | None, metric: str) -> str:
    """The bounds of a score's interval, without the unit: `[55.6, 60.6]`, `[0.457, 0.492]`."""
    return _bounds(interval, metric_spec(metric).is_share)


def percent_bounds(interval: Interval | None, digits: int = 1) -> str:
    """The bounds of a share's interval, in percent."""
    return _bounds(interval, True, digits)


def with_bounds(interval: Interval | None, is_share: bool) -> str:
    """A score with its interval: `71.3% [68.0, 74.4]`, `0.474 [0.457, 0.492]`."""
    return f"{_score(interval.mean if interval else None, is_share)} {_bounds(interval, is_share)}".rstrip()


def difference_with_bounds(interval: Interval | None, is_share: bool) -> str:
    """A difference of two scores with its interval: `−1.2 points [−3.0, 0.5]`."""
    return f"{_difference(interval.mean if interval else None, is_share)} {_bounds(interval, is_share)}".rstrip()


def _score(value: Number, is_share: bool) -> str:
    return percent(value) if is_share else loss(value)


def _difference(value: Number, is_share: bool) -> str:
    return points(value) if is_share else decimal(value, 3, signed=True)


def _bounds(interval: Interval | None, is_share: bool, digits: int = 1) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return ""
    factor, digits = (100, digits) if is_share else (1, 3)
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


MIN_DRAWN, MAX_DRAWN = 12, 40


def summary_lines(summary: LadderSummary, columns: int, preliminary: bool = False) -> list[str]:
    """The summary's table in lines of at most `columns` characters: the values of a rung, then its drawn interval with
    the decision, and the values for which the line above has no room.

    A `preliminary` table has the findings without recommendations, which need all runs.
    """
    heads = ["rung", summary.score_title, "share of gain", "cost", "peak", "artifact"]
    table = [heads]
    for row in summary.rows:
        table.append([visible(row.title, 24), row.score, row.share, row.cost, row.memory, row.artifact])
    known = [place for place in range(len(heads)) if place < 2 or any(line[place] for line in table[1:])]
    widths = {place: max(len(line[place]) for line in table) for place in known}
    first: list[int] = []
    for place in known:
        if sum(widths[kept] + 2 for kept in (*first, place)) - 2 <= columns:
            first.append(place)
    below = []
    for row, line in zip(summary.rows, table[1:], strict=True):
        others = [f"{heads[place]} {line[place]}" for place in known if place not in first and line[place]]
        unbroken = [other.replace(" ", "\u00a0") for other in others]
        below.append("; ".join(filter(None, [row.finding if preliminary else row.decision, *unbroken])))
    wide = max(MIN_DRAWN, min(MAX_DRAWN, columns - widths[0] - 4 - max(map(len, below), default=0)))
    texts = ["  ".join((line[place] or "–").ljust(widths[place]) for place in first).rstrip() for line in table]
    lines = [texts[0]]
    for row, text, facts in zip(summary.rows, texts[1:], below, strict=True):
        lines.append(text)
        cells = [" "] * wide
        if row.drawn:  # an interval with its mean, `├──●───┤`
            low, mean, high = (min(wide - 1, max(0, round(end * (wide - 1)))) for end in row.drawn)
            cells[low : high + 1] = "─" * (high + 1 - low)
            cells[low], cells[high] = "├", "┤"
            cells[mean] = "●"
        wrapped = textwrap.wrap(facts, max(MIN_DRAWN, columns - widths[0] - wide - 4)) or [""] * bool(row.drawn)
        for number, part in enumerate(wrapped):
            drawn = "" if number else "".join(cells)
            lines.append(f"{'':{widths[0]}}  {drawn:{wide}}  {part}".replace("\u00a0", " ").rstrip())
    ends = f"{summary.scale[0]:<{wide // 2}}{summary.scale[1]:>{wide - wide // 2}}"
    of = f"{'':{widths[0]}}  {ends}  95% CI of the {summary.score_title}"
    unit = ["loss: held-out, nats/token; lower is better"] if summary.is_loss else []
    about = f"cost ({summary.cost}) and share of gain: relative to {summary.reference}"
    return [line[:columns] for line in (*lines, of, *unit, about)]


ROWS = 11
LEFT = 6
"""Columns of the labels of the vertical axis."""
MIN_COLUMNS, MAX_COLUMNS = 40, 76
LOWEST_SHARE, HIGHEST_SHARE = -0.5, 2.0
"""Intervals are cut at these shares of the gain: a wide one would leave no room for the others."""
COST_TICKS = ((1 / 64, "1/64"), (1 / 32, "1/32"), (1 / 16, "1/16"), (1 / 8, "1/8"), (1 / 4, "1/4"), (1 / 2, "1/2"),
              (1.0, "1"), (2.0, "2"), (4.0, "4"), (8.0, "8"))  # fmt: skip
CORNER = "░"


def tradeoff_lines(summary: LadderSummary, columns: int) -> list[str]:
    """The summary's figure in characters, share of gain against share of cost, for terminals and Markdown.

    Lines of at most `columns` characters; none without a rung that has both shares. Each rung is a cross: its letter at
    the means, `│` the confidence interval of its share of the gain, `─` the range of its cost over the seeds. The
    corner of the rule of thumb is shaded. The cost axis is logarithmic.
    """
    tradeoffs = summary.tradeoffs
    if len(tradeoffs) < 2:
        return []
    wide = max(MIN_COLUMNS, min(columns, MAX_COLUMNS)) - LEFT - 2
    costs = [end for tradeoff in tradeoffs for end in (tradeoff.cost.low, tradeoff.cost.high)]
    left, right = math.log2(min(0.5 * summary.rule_cost, 0.9 * min(costs))), math.log2(max(1.5, 1.1 * max(costs)))
    shares: list[tuple[float, float, float]] = []
    for gain in (tradeoff.share_of_gain for tradeoff in tradeoffs):
        mean = gain.mean or 0.0
        ends = (mean if gain.low is None else gain.low, mean, mean if gain.high is None else gain.high)
        low, mean, high = (min(HIGHEST_SHARE, max(LOWEST_SHARE, share)) for share in ends)
        shares.append((low, mean, high))
    bottom = min(summary.rule_gain - 0.1, *(low for low, _, _ in shares))
    top = max(1.05, *(high for _, _, high in shares))

    def column(cost: float) -> int:
        place = (math.log2(max(cost, 1e-9)) - left) / (right - left)
        return min(wide - 1, max(0, round(place * (wide - 1))))

    def row(share: float) -> int:
        return min(ROWS - 1, max(0, round((top - share) / (top - bottom) * (ROWS - 1))))

    cells = [[" "] * wide for _ in range(ROWS)]
    for line in cells[: row(summary.rule_gain) + 1] if summary.tests_rule else ():
        line[: column(summary.rule_cost) + 1] = CORNER * (column(summary.rule_cost) + 1)
    for tradeoff, (low, mean, high) in zip(tradeoffs, shares, strict=True):
        for place in range(column(tradeoff.cost.low), column(tradeoff.cost.high) + 1):
            cells[row(mean)][place] = "─"
        for number in range(row(high), row(low) + 1):
            cells[number][column(tradeoff.cost.mean)] = "│"
    named = list(zip(letters(tradeoffs), tradeoffs, strict=True))
    for (letter, tradeoff), (_, mean, _) in zip(named, shares, strict=True):  # letters replace the lines of crosses
        line = cells[row(mean)]
        free = [place for place in range(wide) if not line[place].isalnum()]  # not one that another rung has
        line[min(free, key=lambda place: abs(place - column(tradeoff.cost.mean)))] = letter
    labels = {row(share): f"{share:.0%}" for share in (bottom, summary.rule_gain, 1.0)}
    lines = [f"{labels.get(number, ''):>{LEFT}} │{''.join(line)}".rstrip() for number, line in enumerate(cells)]

    ticks, end = [" "] * wide, -1
    for cost, label in COST_TICKS:
        at = column(cost)
        if left <= math.log2(cost) <= right and at > end and at + len(label) <= wide:
            ticks[at : at + len(label)] = label
            end = at + len(label) + 1
    lines += [f"{'':>{LEFT}} └{'─' * wide}", f"{'':>{LEFT}}  {''.join(ticks)}".rstrip()]
    lines.append(f"{'':>{LEFT}}  {summary.cost} as a share of {of_reference(summary)}")
    rungs = "   ".join(f"{letter} {visible(tradeoff.title, 24)}" for letter, tradeoff in named)
    lines.append(rungs if len(rungs) <= columns else visible(rungs, columns))
    if summary.tests_rule:
        lines.append(f"{CORNER} rule of thumb: {summary.rule_gain:.0%} of the gain at one eighth of the cost")
    return [f"share of {of_reference(summary)} gain", *lines, "│ ─ 95% CI"]


def letters(tradeoffs: Sequence[RungTradeoff]) -> list[str]:
    """One capital letter per rung: its first one if no other rung has it, else a free one."""
    taken: list[str] = []
    for tradeoff in tradeoffs:
        own = [character.upper() for character in tradeoff.title if character.isascii() and character.isalnum()]
        free = (c for c in (*own, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") if c not in taken)
        taken.append(next(free, "?"))
    return taken


def of_reference(summary: LadderSummary) -> str:
    """`full fine-tuning's`."""
    return f"{summary.reference}'s"
