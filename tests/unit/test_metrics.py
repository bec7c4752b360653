"""Scores and intervals."""

from __future__ import annotations

import numpy as np
import pytest

from engine.evaluation.intervals import bootstrap
from engine.evaluation.metrics import contains, exact_match, json_fields, number


def test_exact_match_ignores_white_space_only() -> None:
    assert exact_match(" a  b\n", "a b")["exact_match"] == 1
    assert exact_match("A b", "a b")["exact_match"] == 0


@pytest.mark.parametrize(
    ("output", "target", "score"),
    [
        ("so 5 apples and 1,234 pears", "#### 1234", 1),
        ("work\n#### 42", "x\n#### 42", 1),
        ("the answer is 41", "#### 42", 0),
        ("no number", "#### 42", 0),
        ("-3.50", "-3.5", 1),
    ],
)
def test_number(output: str, target: str, score: int) -> None:
    assert number(output, target)["number"] == score


def test_json_counts_fields_and_added_ones_against() -> None:
    target = '{"a": 1, "b": null}'
    assert json_fields('{"b": null, "a": 1}', target) == {"json": 1, "exact_match": 1, "valid": 1}
    assert json_fields('{"a": 1, "b": "x"}', target)["json"] == 0.5
    assert json_fields('{"a": true, "b": null}', target)["json"] == 0.5
    assert json_fields('{"a": 1, "b": null, "c": 2}', target) == pytest.approx(
        {"json": 2 / 3, "exact_match": 0, "valid": 1}
    )
    assert json_fields("sorry", target) == {"json": 0, "exact_match": 0, "valid": 0}


def test_contains_ignores_case() -> None:
    assert contains("It is PARIS.", "paris")["contains"] == 1


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        found = bootstrap((random.random(150) < 0.7).astype(float).tolist(), seed=seed)
        hits += found.low <= 0.7 <= found.high
    assert 180 <= hits <= 199


def test_a_weighted_mean_is_per_token() -> None:
    assert bootstrap([1.0, 3.0], [3, 1]).mean == 1.5


def test_without_finite_values_there_is_nothing_to_say() -> None:
    assert bootstrap([1.0, float("nan")]).mean is None
