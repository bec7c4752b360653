"""Decide what a server serves, from its answers and those that the run recorded, without NumPy and torch.

Only items on which run and base answer differently tell them apart. There, an answer speaks for the model whose answer
it equals, else for the one with which it has more text in common from the start: another engine or precision rounds
differently, and a long answer parts somewhere. What is decided is decided by the Wilson interval of such a share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import median
from typing import Literal

from msgspec import Struct, field

from engine.config.errors import Notice
from engine.config.quantities import percent
from engine.config.text import amount
from engine.runs.endpoint import ChatAnswer
from engine.runs.run.exports import FidelityOutcome
from engine.runs.run.result import Z_95, Interval

Outcome = Literal["tuned", "base", "other", "undecided"]
EXIT_STATUS: dict[Outcome, int] = {"tuned": 0, "base": 1, "other": 1, "undecided": 3}
MAX_SHARE = 0.05
"""Share of answers up to which a fault in them is not one of the server."""
LOAD_ADAPTER = (
    "load the adapter and request it by its name (vLLM: --enable-lora --lora-modules NAME=FOLDER, then #NAME); if it "
    "is loaded, the server does not apply it: serve the merged weights (`ftbench export RUN`)"
)


class ServerCheck(Struct, kw_only=True):
    """Output of `check --json`."""

    endpoint: str
    """`http://host:8000/v1#model`."""
    run: str
    """Its name."""
    metric: str
    """With which the answers are scored."""
    outcome: Outcome
    """What is served: the tuned model, the base model, something else, or undecided."""
    sentence: str
    """The outcome and why."""
    hint: str = ""
    """What to do."""
    rows: int = 0
    """Test items that were asked."""
    differing: int | None = None
    """Of these, with different recorded answers of run and base; None without answers of the base model."""
    as_run: int = 0
    """Answers equal to the run's."""
    for_run: int = 0
    """Of the differing items, answers that speak for the run: equal, or longer in common with it."""
    for_base: int = 0
    """The same for the base model."""
    parted_after: float | None = None
    """Median number of words after which other answers than the run's part from it; None if there are none."""
    faults: list[Notice] = field(default_factory=list)
    """What the server does otherwise: prompt, end of answers, refusals."""
    warnings: list[Notice] = field(default_factory=list)
    """What does not change the answers, as failed requests that were repeated."""
    prompt_tokens: int | None = None
    """Of all prompts, as the server counts them; None if it does not."""
    expected_prompt_tokens: int | None = None
    """Of the same prompts in the run."""
    score: Interval | None = None
    """Of the server's answers; None for a metric that needs likelihoods."""
    run_score: Interval | None = None
    """Of the run's answers to the same items."""
    difference: Interval | None = None
    """Server minus run, paired by test item."""
    needed_rows: int | None = None
    """Test items that would decide an undecided check, if shares stay; None if it is decided, or no number would."""


@dataclass(frozen=True)
class AskedItem:
    """A test item with the recorded answers and the server's."""

    run: str
    run_ended: bool
    """Whether an end token ended the run's answer."""
    base: str | None
    served: ChatAnswer | None
    """None if the server refused the request."""
    refused: str
    """Why, '' if it did not."""
    prompt_tokens: int
    """Of the prompt in the run."""
    without_system: int | None
    """The same without the system prompt; None if there is none."""


def wilson(count: int, of: int) -> tuple[float, float]:
    """Wilson's interval (1927) of a share."""
    share, square = count / of, Z_95**2 / of
    middle, reach = share + square / 2, Z_95 * math.sqrt(share * (1 - share) / of + square / 4 / of)
    return (middle - reach) / (1 + square), (middle + reach) / (1 + square)


def is_majority(count: int, of: int) -> bool | None:
    """Whether the share is above one half; None if its interval contains one half."""
    if not of:
        return None
    low, high = wilson(count, of)
    return True if low > 0.5 else False if high < 0.5 else None


def decide(check: ServerCheck, items: Sequence[AskedItem], max_tokens: int, by_score: FidelityOutcome | None) -> None:
    """Fill in the outcome and what it is decided by. `by_score`: of the difference of the scores, as for an export."""
    answered = [(item, item.served) for item in items if item.served]
    check.rows = len(items)
    check.as_run = sum(_same(served, item.run) for item, served in answered)
    parted = [_words_in_common(served.text, item.run) for item, served in answered if not _same(served, item.run)]
    check.parted_after = median(parted) if parted else None
    check.faults += [*_prompt_faults(check, answered), *_answer_faults(items, max_tokens)]
    knows_base = all(item.base is not None for item in items)
    apart = [(item, served) for item, served in answered if item.base is None or item.base.strip() != item.run.strip()]
    if knows_base:
        check.differing = sum(item.base is not None and item.base.strip() != item.run.strip() for item in items)
        votes = [_vote(served, item.run, item.base or "") for item, served in apart]
        check.for_run, check.for_base = votes.count(1), votes.count(-1)
    is_run = is_majority(check.for_run, len(apart)) if knows_base else is_majority(check.as_run, len(answered))
    equals_run = is_majority(check.as_run, len(answered))

    if knows_base and is_majority(check.for_base, len(apart)):
        check.outcome, check.hint = "base", LOAD_ADAPTER
        where = f"of {amount(len(apart), 'answer')} on which run and base differ"
        check.sentence = (
            f"serves the base model: {check.for_base} {where} are the base model's, {check.for_run} the run's"
        )
    elif check.faults:
        check.outcome = "other"
        check.sentence = f"serves something else: {'; '.join(fault.text for fault in check.faults)}"
        check.hint = "compare chat template, system prompt, end tokens and length limit with those of the export"
    elif is_run and by_score != "worse" and (by_score == "pass" or equals_run):
        check.outcome = "tuned"
        check.sentence = f"serves the tuned model: {check.as_run} of {amount(len(answered), 'answer')} are the run's"
    elif is_run is False or by_score == "worse":
        check.outcome = "other"
        part = "" if check.parted_after is None else f", others part after {check.parted_after:g} words (median)"
        nobody = " and few the base model's" if knows_base else ""
        counts = f"{check.as_run} of {amount(len(answered), 'answer')} are the run's{nobody}{part}"
        reason = (
            "the prompts have the tokens of the run" if check.prompt_tokens else "the server counts no prompt tokens"
        )
        check.sentence = f"serves something else: {counts}; {reason}"
        check.hint = "compare the weights, and the quantization, with those of the export"
    else:
        check.outcome = "undecided"
        _say_undecided(check, len(apart), knows_base)


def _say_undecided(check: ServerCheck, apart: int, knows_base: bool) -> None:
    count, of = (check.for_run, apart) if knows_base else (check.as_run, check.rows)
    if knows_base and not check.differing:
        check.sentence = f"undecided: run and base give the same answer to each of {amount(check.rows, 'row')}"
        check.hint = "ask rows on which they differ: a run that has learned nothing cannot be told from its base"
        return
    check.needed_rows = rows_needed(count, of, check.rows)
    where = "on which run and base differ" if knows_base else "asked"
    needed = (
        f"about {amount(check.needed_rows, 'test row')} would decide" if check.needed_rows else "more would not decide"
    )
    speaking = f"{count} of {amount(of, 'row')} {where} speak for the run"
    check.sentence = f"undecided: {speaking} ({percent(count / of if of else None, 0)}); {needed}"
    check.hint = "ask more test rows (--items), or use a larger test split"


def rows_needed(count: int, of: int, rows: int) -> int | None:
    """Test rows with which the interval of the share excludes one half, if all shares stay; None if none would."""
    share = count / of if of else 0.5
    for needed in range(of + 1, 100_000):
        if is_majority(round(share * needed), needed) is not None:
            return math.ceil(needed * rows / of) if of else needed
    return None


def _same(served: ChatAnswer, text: str) -> bool:
    return served.text.strip() == text.strip()


def _words_in_common(served: str, text: str) -> int:
    return _in_common(served.split(), text.split())


def _in_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Elements that are equal from the start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _vote(served: ChatAnswer, run: str, base: str) -> int:
    """1 for the run, -1 for the base model, 0 for neither."""
    answer = served.text.strip()
    run, base = run.strip(), base.strip()
    if answer in (run, base):
        return 1 if answer == run else -1
    with_run, with_base = (_in_common(answer, text) for text in (run, base))
    return (with_run > with_base) - (with_run < with_base)


def _prompt_faults(check: ServerCheck, answered: Sequence[tuple[AskedItem, ChatAnswer]]) -> list[Notice]:
    """What the server's number of prompt tokens shows; nothing if it does not count them."""
    counted = [(item, served.prompt_tokens) for item, served in answered if served.prompt_tokens is not None]
    if len(counted) < len(answered) or not counted:
        return []
    check.prompt_tokens = sum(tokens for _, tokens in counted)
    check.expected_prompt_tokens = sum(item.prompt_tokens for item, _ in counted)
    off = [(item, tokens) for item, tokens in counted if tokens != item.prompt_tokens]
    if len(off) <= MAX_SHARE * len(counted):
        return []
    item, tokens = off[0]
    counts = f"{tokens} prompt tokens instead of {item.prompt_tokens}"
    if all(tokens == item.without_system for item, tokens in off):
        return [Notice("check.system_prompt", f"the system prompt is dropped ({counts})")]
    if {tokens - item.prompt_tokens for item, tokens in off} in ({1}, {-1}) and len(off) == len(counted):
        twice = "twice" if tokens > item.prompt_tokens else "missing"
        return [Notice("check.prompt_start", f"a token of the prompt, as that of its beginning, is {twice} ({counts})")]
    text = f"another chat template: {amount(len(off), 'prompt')} of {len(counted)} have other lengths ({counts})"
    return [Notice("check.chat_template", text)]


def _answer_faults(items: Sequence[AskedItem], max_tokens: int) -> list[Notice]:
    """Answers that are refused, end early or do not end."""
    refused = [item.refused for item in items if item.refused]
    answered = [(item, item.served) for item in items if item.served]
    cut, endless = list[ChatAnswer](), 0
    for item, served in answered:
        text, run = served.text.strip(), item.run.strip()
        tokens = served.completion_tokens
        if served.finish == "length" and (
            tokens < max_tokens if tokens is not None else run != text and run.startswith(text)
        ):
            cut.append(served)
        endless += item.run_ended and text != run and bool(run) and text.startswith(run)
    faults = []
    if len(refused) > MAX_SHARE * len(items):
        text = f"{amount(len(refused), 'request')} of {len(items)} are refused, first: {refused[0]}"
        faults.append(Notice("check.refused", text))
    if len(cut) > MAX_SHARE * len(answered):
        limits = {served.completion_tokens for served in cut}
        at = f" at {limits.pop()} tokens" if len(limits) == 1 and None not in limits else ""
        text = f"{amount(len(cut), 'answer')} of {len(answered)} are cut{at}, though {max_tokens} were asked for"
        faults.append(Notice("check.cut", text))
    if endless > MAX_SHARE * len(answered):
        text = (
            f"{amount(endless, 'answer')} of {len(answered)} go on after the run's have ended: an end token is missing"
        )
        faults.append(Notice("check.end_token", text))
    return faults
