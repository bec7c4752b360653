"""Scores of one answer against its accepted answers (references), between 0 and 1.

With several references the best one counts. What that means for each metric:

- `exact_match`: 1 where the answer equals any reference;
- `choice`: 1 where the most likely allowed answer equals any reference;
- `contains`: 1 where the answer contains any reference;
- `rouge`: the highest ROUGE-L F1 over the references, as rouge-score's `score_multi` takes it;
- `number`: 1 where the final number is that of any reference;
- `json`: the highest share of right fields over the references; exact match and validity are those of that reference;
- `loss` (`score.item_losses`): no best one, but the mean over the references of summed loss and of tokens, so that an
  item with many references weighs as much as one with a single reference of that length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from importlib import import_module
from typing import Any

from engine.config.metric_specs import metric_spec
from engine.evaluation.rouge import rouge_l, words

Scores = dict[str, float]
"""The metric's own score under its name, further views beside it."""

NUMBER = re.compile(r"(?:(?<!\w)-)?\d[\d,]*(?:\.\d+)?")
"""A minus is a sign where no word or number stands before it: `10-5` ends on 5."""


def exact_match(output: str, target: str) -> Scores:
    """1 where the answers are equal but for white space around and between words."""
    return {"exact_match": float(squeezed(output) == squeezed(target))}


def choice(output: str, target: str) -> Scores:
    """1 where the likeliest of the allowed answers (`choices`) is the target."""
    return {"choice": exact_match(output, target)["exact_match"]}


def contains(output: str, target: str) -> Scores:
    """1 where the target occurs in the answer, ignoring case; an empty target only in an empty answer."""
    wanted, given = squeezed(target).lower(), squeezed(output).lower()
    return {"contains": float(wanted in given if wanted else not given)}


def rouge(output: str, target: str) -> Scores:
    """ROUGE-L F1; where the target has no word in it (signs alone), whether the answer is equal."""
    if not words(target):
        return {"rouge": exact_match(output, target)["exact_match"]}
    return {"rouge": rouge_l(output, target)}


def number(output: str, target: str) -> Scores:
    """1 where the final numbers agree: after the last `####` (GSM8K's form) where there is one, else the last."""
    wanted, given = final_number(target), final_number(output)
    return {"number": float(wanted is not None and wanted == given)}


def json_fields(output: str, target: str) -> Scores:
    """`json`: the share of the target's fields that are right; `exact_match`: whether all are and none is added.

    An answer that is not a JSON object scores 0 in both. `valid` says whether it was one.
    """
    wanted, given = _object(target), _object(output)
    if wanted is None:
        return exact_match(output, target) | {"json": exact_match(output, target)["exact_match"], "valid": 0.0}
    if given is None:
        return {"json": 0.0, "exact_match": 0.0, "valid": 0.0}
    right = sum(1 for key, value in wanted.items() if key in given and _equal(given[key], value))
    extra = len(set(given) - set(wanted))
    share = right / max(1, len(wanted) + extra)
    return {"json": share, "exact_match": float(right == len(wanted) and not extra), "valid": 1.0}


def scoring_function(metric: str) -> Callable[[str, str], Scores]:
    """The function of a metric that scores an answer against a target."""
    module, _, name = metric_spec(metric).scoring.partition(":")
    function: Callable[[str, str], Scores] = getattr(import_module(module), name)
    return function


def best_score(metric: str, output: str, references: Sequence[str]) -> Scores:
    """The views against the reference with the highest score; of equal ones the first with the best further views."""
    score = scoring_function(metric)
    found = [score(output, reference) for reference in references]
    sign = -1 if metric_spec(metric).lower_is_better else 1
    return max(found, key=lambda views: (sign * views[metric], sum(views.values())))


def final_number(text: str) -> Decimal | None:
    """The number an answer ends on, exactly; None where it has none."""
    tail = text.rsplit("####", 1)[-1] if "####" in text else text
    found = NUMBER.findall(tail)
    if not found:
        return None
    return Decimal((found[0] if "####" in text else found[-1]).replace(",", ""))


def squeezed(text: str) -> str:
    """Words with single spaces between them."""
    return " ".join(text.split())


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _equal(given: Any, wanted: Any) -> bool:
    """JSON equality at every depth: true is not 1, and 1 is 1.0."""
    if isinstance(wanted, dict) and isinstance(given, dict):
        return given.keys() == wanted.keys() and all(_equal(given[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list) and isinstance(given, list):
        return len(given) == len(wanted) and all(map(_equal, given, wanted))
    return isinstance(given, bool) == isinstance(wanted, bool) and bool(given == wanted)
