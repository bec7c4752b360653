"""Sentences of the verdict on what judges and people prefer."""

from __future__ import annotations

from engine.config.lora_advice import VARIANT_TITLES
from engine.config.method_specs import method_specs
from engine.config.quantities import decimal, duration, integer, percent
from engine.config.text import amount, listed, visible
from engine.runs.endpoint import TokenPrice
from engine.runs.ladder.ladder_state import BASE, SERVED_PREFIX, is_base, is_served
from engine.runs.ladder.preferences import (
    MAX_SWAPPED,
    MAX_UNREADABLE,
    JudgeCheck,
    JudgePlan,
    Judgment,
    RatedPair,
    RatingSummary,
    WinRate,
)
from engine.runs.run.result import MIN_ITEMS, Interval
from engine.runs.score_format import percent_bounds

SETTLED = 0.95
"""Probability that the finding stays from which more ratings are said not to change it."""


def rung_noun(name: str) -> str:
    """`LoRA`, `the base model`, `lora-3f2a`."""
    if name == BASE:
        return "the base model"
    if is_served(name):
        return visible(name.removeprefix(SERVED_PREFIX))
    if name in VARIANT_TITLES:
        return VARIANT_TITLES[name]
    noun = method_specs()[name].in_text if name in method_specs() else visible(name)
    return f"the {noun} model" if is_base(name) else noun


def why_unusable(check: JudgeCheck) -> list[str]:
    """Why a judge cannot be believed; empty for a usable one."""
    reasons = []
    if check.swapped is not None and check.swapped > MAX_SWAPPED:
        reasons.append(
            f"it decides {percent(check.swapped)} of {amount(check.comparisons, 'pair')} differently when the answers "
            f"are swapped (at most {percent(MAX_SWAPPED, 0)})"
        )
    if check.unreadable is not None and check.unreadable > MAX_UNREADABLE:
        reasons.append(
            f"{percent(check.unreadable)} of its verdicts are not readable (at most {percent(MAX_UNREADABLE, 0)})"
        )
    if check.people is not None:
        kappa = check.people.kappa
        if kappa.mean is None:
            reasons.append("it decides all pairs alike, so its agreement with people is no better than chance")
        elif kappa.low is not None and kappa.low <= 0:
            reasons.append(f"its agreement with people may be chance: Cohen's kappa {kappa_text(kappa)}")
    if check.verdicts and check.comparisons == 0 and not reasons:
        reasons.append("no pair has a readable verdict in both orders")
    return reasons


def kappa_text(kappa: Interval) -> str:
    """`0.62 [0.45, 0.79]`."""
    bounds = f" [{decimal(kappa.low, 2)}, {decimal(kappa.high, 2)}]" if kappa.low is not None else ""
    return f"{decimal(kappa.mean, 2)}{bounds}"


def judge_sentences(state: Judgment, complete: int) -> list[str]:
    """What the verdict says of a judge: its win rates, or why they are left out."""
    judge = f"The judge {visible(state.title, 80)}"
    if state.unusable:
        return [f"{judge} is unusable: {'; '.join(state.unusable)}. Its win rates are not in the verdict."]
    if not state.rates:
        return []
    partly = f" of {integer(state.items)}" if complete < state.items else ""
    head = f"{judge} compared {integer(complete)}{partly} test items in both orders{_checked(state.check)}."
    return [head, *(rate_sentence(rate) for rate in state.rates)]


def _checked(check: JudgeCheck) -> str:
    """`; it decides 4.0% of the pairs differently when they are swapped, and agrees with people (kappa 0.62 […])`."""
    parts = []
    if check.swapped is not None:
        parts.append(f"decides {percent(check.swapped)} of the pairs differently when they are swapped")
    if check.people is not None:
        agrees = f"agrees with people on {percent(check.people.same)} of {amount(check.people.comparisons, 'pair')}"
        few = "" if check.people.kappa.low is not None else f", fewer than {MIN_ITEMS} items"
        parts.append(f"{agrees} (kappa {kappa_text(check.people.kappa)}{few})")
    return f"; it {listed(parts)}" if parts else ""


def rate_sentence(rate: WinRate) -> str:
    """`The judge prefers LoRA to the base model: win rate 71.2%, simultaneous 95% CI [65.0, 77.1].`"""
    a, b = rung_noun(rate.a), rung_noun(rate.b)
    if rate.finding == "worse":
        a, b = b, a
    said = f"No significant preference between {a} and {b}" if rate.finding == "undecided" else f"It prefers {a} to {b}"
    return f"{said}: {win_rate_text(rate)}."


def win_rate_text(rate: WinRate) -> str:
    """The win rate of the preferred rung; of rung a if none is."""
    value, name = rate.rate, rung_noun(rate.a)
    if rate.finding == "worse":
        name = rung_noun(rate.b)
        mean, low, high = (None if end is None else 1 - end for end in (value.mean, value.high, value.low))
        value = Interval(mean=mean, low=low, high=high, rows=value.rows)
    bounds = f", 95% CI {percent_bounds(value)}" if value.low is not None else f" with fewer than {MIN_ITEMS} items"
    ties = f", {percent(rate.ties)} ties" if rate.ties >= 0.0005 else ""
    return f"win rate of {name} {percent(value.mean)}{bounds}{ties}"


def rating_sentences(summary: RatingSummary) -> list[str]:
    """`LoRA is preferred to the base model by 2 people on 60 items: …`."""
    texts = [_rated(pair) for pair in summary.pairs]
    if texts and summary.agreement:
        few = "" if summary.agreement.kappa.low is not None else f", fewer than {MIN_ITEMS} common items"
        texts.append(
            f"Two raters agree on {percent(summary.agreement.same)} of {amount(summary.agreement.comparisons, 'pair')} "
            f"that both rated (Cohen's kappa {kappa_text(summary.agreement.kappa)}{few})."
        )
    if summary.stale:
        texts.append(f"{amount(summary.stale, 'rating')} of answers that have changed since are not counted.")
    return texts


def _rated(pair: RatedPair) -> str:
    rate = pair.win_rate
    by = f"by {_people(pair)} on {amount(pair.items, 'item')}"
    if rate.finding == "undecided":
        text = f"No significant preference between {rung_noun(rate.a)} and {rung_noun(rate.b)} {by}"
    else:
        better, worse = (rate.a, rate.b) if rate.finding == "better" else (rate.b, rate.a)
        noun = rung_noun(better)
        text = f"{noun[:1].upper()}{noun[1:]} is preferred to {rung_noun(worse)} {by}"
    good = f"both good {percent(pair.both_good)}, both bad {percent(pair.both_bad)}"
    text = f"{text}: {win_rate_text(rate)} ({good})"
    return f"{text}. {settled_text(pair)}" if settled_text(pair) else f"{text}."


def settled_text(pair: RatedPair) -> str:
    """Whether more ratings would change the finding; '' where that is unknown or nothing is left."""
    left = pair.of - pair.items
    if pair.settled is None or left <= 0:
        return ""
    if pair.settled >= SETTLED:
        sure = "more than 99%" if pair.settled > 0.99 else percent(pair.settled, 0)
        return f"Rating the other {amount(left, 'item')} would not change this ({sure} sure)."
    return f"Rating the other {amount(left, 'item')} may change this ({percent(1 - pair.settled, 0)})."


def progress_of_ratings(summary: RatingSummary | None) -> list[str]:
    """How far the results are decided, without the names of rungs: raters must not see which one is ahead."""
    lines = []
    for number, pair in enumerate(summary.pairs if summary else [], 1):
        label = f"comparison {number}: " if summary and len(summary.pairs) > 1 else ""
        rated = f"{pair.items} of {pair.of} items rated by {_people(pair)}"
        if pair.settled is None:
            status = f"at least {MIN_ITEMS} are needed for a result"
        elif pair.win_rate.finding == "undecided":
            status = "no significant preference yet"
        else:
            status = "decided: one of the two is significantly preferred"
        lines.append(f"{label}{rated}; {status}. {settled_text(pair)}".rstrip())
    return lines


def expected_lines(plan: JudgePlan, items: int, requests: int, reused: int, tokens: tuple[int, int]) -> list[str]:
    """What a judge will compare and take at most, before it starts. tokens: of prompts, and at most of verdicts."""
    pairs = ", ".join(f"{visible(a)} with {visible(b)}" for a, b in plan.pairs)
    known = f", {reused:,} verdicts are known" if reused else ""
    lines = [
        f"judge {visible(plan.judge)}",
        f"compares {pairs} on {amount(items, 'test item')}, in both orders",
        f"at most {amount(requests, 'request')}{known}: about {tokens[0]:,} tokens of prompts and at most "
        f"{tokens[1]:,} of verdicts",
    ]
    if plan.price:
        cost = TokenPrice(*plan.price).cost(*tokens)
        lines.append(f"costs at most about {cost:.2f}, at {plan.price[0]:g} and {plan.price[1]:g} per million tokens")
    limits = [f"{plan.token_limit:,} tokens"] if plan.token_limit is not None else []
    limits += [f"a cost of {plan.cost_limit:g}"] if plan.cost_limit is not None else []
    lines.append(f"stops at {' or '.join(limits)}" if limits else "no limit: set one with --max-tokens or --max-cost")
    return lines


def _people(pair: RatedPair) -> str:
    return "1 person" if pair.raters == 1 else f"{pair.raters} people"


def progress_text(state: Judgment) -> str:
    """`412 of 1,200 verdicts, 3:10 left, 1,204,311 tokens, 0.41`."""
    parts = [visible(state.note)] if state.note and state.status == "running" else []
    parts.append(f"{integer(state.done)} of {integer(state.requests)} verdicts")
    if (left := state.seconds_left) is not None and state.done < state.requests:
        parts.append(f"{duration(left)} left")
    if tokens := state.prompt_tokens + state.completion_tokens:
        parts.append(f"{integer(tokens)} tokens")
    if state.cost is not None:
        parts.append(f"cost {state.cost:.2f}")
    if state.retries:
        parts.append(f"{amount(state.retries, 'attempt')} repeated")
    return ", ".join(parts)
