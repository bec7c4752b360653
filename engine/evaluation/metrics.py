"""Scores of one answer against its target, between 0 and 1."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Scores = dict[str, float]
"""The metric's own score under its name, further views beside it."""

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def exact_match(output: str, target: str) -> Scores:
    """1 where the answers are equal but for white space around and between words."""
    return {"exact_match": float(_squeezed(output) == _squeezed(target))}


def contains(output: str, target: str) -> Scores:
    """1 where the target occurs in the answer, ignoring case."""
    return {"contains": float(_squeezed(target).lower() in _squeezed(output).lower())}


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


METRICS: dict[str, Callable[[str, str], Scores]] = {
    "exact_match": exact_match,
    "contains": contains,
    "number": number,
    "json": json_fields,
}


def final_number(text: str) -> float | None:
    """The number an answer ends on, None where it has none."""
    tail = text.rsplit("####", 1)[-1] if "####" in text else text
    found = NUMBER.findall(tail)
    if not found:
        return None
    return float((found[0] if "####" in text else found[-1]).replace(",", ""))


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _equal(given: Any, wanted: Any) -> bool:
    """JSON equality: true is not 1."""
    return (type(given) is type(wanted) and given == wanted) or (
        {type(given), type(wanted)} == {int, float} and given == wanted
    )
