"""Scores and intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.config.errors import UserError
from engine.config.metric_specs import metric_specs
from engine.config.preset_library import resolve_preset
from engine.evaluation.intervals import RESAMPLES, bootstrap, paired_interval, score_interval
from engine.evaluation.metrics import (
    best_score,
    contains,
    exact_match,
    json_fields,
    number,
    rouge,
    scoring_function,
    words,
)
from engine.runs.run.result import Interval


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
        ("12 - 7, that is 12-7 = 5", "#### 5", 1),
        ("from 10-5", "5", 1),
        ("12345678901234567891", "12345678901234567890", 0),
        ("7" * 10_000, "7", 0),
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
    assert json_fields('{"a": [{"x": 1}]}', '{"a": [{"x": true}]}')["json"] == 0
    assert json_fields('{"a": [1, {"x": 1.0}]}', '{"a": [1.0, {"x": 1}]}')["exact_match"] == 1
    assert json_fields("sorry", target) == {"json": 0, "exact_match": 0, "valid": 0}


@pytest.mark.parametrize(
    ("output", "score", "exact"),
    [
        ('["fear", "joy"]', 1, 1),
        ('```json\n["Joy", "fear"]\n```', 1, 1),
        ('["joy", "joy"]', 2 / 3, 0),
        ('["joy", "anger", "love", "fear"]', 2 / 3, 0),
        ("[]", 0, 0),
        ("joy, fear", 0, 0),
        ('{"joy": 1}', 0, 0),
    ],
)
def test_a_set_of_labels_is_scored_by_f1(output: str, score: float, exact: float) -> None:
    assert best_score("set", output, ['["joy", "fear"]']) == pytest.approx({"set": score, "exact_match": exact})
    assert best_score("set", "[]", ["[]"])["set"] == 1 and best_score("set", '["joy"]', ["[]"])["set"] == 0


@pytest.mark.parametrize(
    ("output", "target", "score"),
    [
        (r"so \boxed{\frac{1}{2}}", r"\boxed{\dfrac{1}{2}}", 1),
        (r"\boxed{ x + y }", r"\boxed{x+y}", 1),
        (r"\boxed{\left(3, 4\right)}", r"\boxed{(3,4)}", 1),
        (r"\boxed{1,000}", r"\boxed{1000}", 1),
        (r"\boxed{3} or rather \boxed{x}", r"\boxed{x}", 1),
        (r"\boxed{y}", r"\boxed{x}", 0),
        (r"\boxed{\frac{1}{2}", r"\boxed{\frac{1}{2}}", 0),
        ("x", r"\boxed{x}", 0),
    ],
)
def test_the_last_box_is_compared(output: str, target: str, score: float) -> None:
    assert best_score("boxed", output, [target]) == {"boxed": score}


def test_an_object_in_a_block_of_code_is_an_object() -> None:
    for fenced in ('```json\n{"a": 1}\n```', '\n```\n{"a": 1}```\n'):
        assert best_score("json", fenced, ['{"a": 1}'])["json"] == best_score("json", '{"a": 1}', [fenced])["json"] == 1
    assert best_score("json", 'it is ```json\n{"a": 1}\n```', ['{"a": 1}'])["json"] == 0


@pytest.mark.parametrize("metric", ["exact_match", "contains", "rouge", "number", "json", "tool_calls", "open"])
def test_reasoning_that_does_not_end_is_no_answer(metric: str) -> None:
    right = {"number": "72", "json": '{"a": 1}'}.get(metric, "so it is")
    ended, cut = f"<think>\nfoo 71\n</think>\n\n{right}", f"<think>\nfoo {right}"
    name = "chrf" if metric == "open" else metric
    assert best_score(metric, ended, [right])[name] == pytest.approx(1)
    assert set(best_score(metric, cut, [right]).values()) == {0}
    # the generation prompt opens the block: the reference closes it without opening it
    assert set(best_score(metric, f"foo {right}", [f"foo\n</think>\n{right}"]).values()) == {0}
    assert best_score(metric, f"foo\n</think>\n{right}", [f"bar\n</think>\n{right}"])[name] == pytest.approx(1)


def test_the_tags_of_reasoning_can_be_set() -> None:
    tags = ["<reasoning>", "</reasoning>"]
    assert best_score("number", "<reasoning>71</reasoning> 72 <think>", ["72"], tags)["number"] == 1
    assert best_score("number", "<reasoning> 72", ["72"], tags)["number"] == 0
    chosen = resolve_preset("demo-lora", None, {"evaluation.reasoning_tags": tags}).config
    assert chosen.evaluation.reasoning_tags == tags
    with pytest.raises(UserError):
        resolve_preset("demo-lora", None, {"evaluation.reasoning_tags": ["<a>"]})


def test_contains_ignores_case() -> None:
    assert contains("It is PARIS.", "paris")["contains"] == 1
    assert contains("It is PARIS.", "")["contains"] == 0


def test_rouge_equals_rouge_score_on_english() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    reference = RougeScorer(["rougeL"], use_stemmer=False)
    texts = [
        "The cat sat on the mat.",
        "a CAT, sat; on a mat",
        "don't stop - 3.5 times_over",
        "",
        "mat mat the cat sat",
    ]
    for output in texts:
        for target in filter(None, texts):
            assert rouge(output, target)["rouge"] == reference.score(target, output)["rougeL"].fmeasure


def test_rouge_of_one_sentence_by_hand() -> None:
    # The longest common subsequence of 6 words and 5 has 4: precision 4/5, recall 4/6.
    assert rouge("the cat lay on mat", "the cat sat on the mat")["rouge"] == pytest.approx(8 / 11)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Привет, мир!", ["привет", "мир"]),
        ("καλή μέρα", ["καλή", "μέρα"]),
        ("今天天气 ok", ["今", "天", "天", "气", "ok"]),
        ("ありがとう", list("ありがとう")),
        ("안녕 세상", ["안녕", "세상"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("naïve cafe\u0301 x_y", ["naïve", "café", "x", "y"]),
    ],
)
def test_words_of_every_script_count_for_rouge(text: str, parts: list[str]) -> None:
    assert words(text) == parts
    assert rouge(text, text)["rouge"] == 1
    assert rouge("xyzzy", text)["rouge"] == 0 < rouge(parts[0], text)["rouge"] < 1


def test_a_target_of_punctuation_needs_an_equal_answer() -> None:
    assert rouge("🙂", "🙂")["rouge"] == 1 and rouge("🙁", "🙂")["rouge"] == 0


def test_every_metric_is_between_0_and_1() -> None:
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'
    for spec in (spec for spec in metric_specs().values() if spec.needs_answers):
        score = scoring_function(spec.name)
        right = call if spec.name == "tool_calls" else "yes 5"  # "no" where no call is expected is right
        best, worst = score(right, right), score("no", right)
        assert set(best) == set(worst) and all(0 <= value <= 1 for value in [*best.values(), *worst.values()])
        assert spec.is_loss or (best[spec.name], worst[spec.name]) == (1, 0)


def test_the_interval_has_its_nominal_coverage() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        interval = bootstrap((random.random(150) < 0.7).astype(float).tolist())
        hits += interval.low <= 0.7 <= interval.high
    assert 180 <= hits <= 199


def test_a_weighted_mean_is_per_token() -> None:
    assert bootstrap([1.0, 3.0], [3, 1]).mean == 1.5


def test_without_finite_values_there_is_no_mean() -> None:
    assert bootstrap([1.0, float("nan")]).mean is None


@pytest.mark.parametrize(("score", "low", "high"), [(1.0, 0.8389, 1.0), (0.0, 0.0, 0.1611)])
def test_twenty_rows_with_equal_scores_have_an_interval(score: float, low: float, high: float) -> None:
    """Wilson's interval for 20 of 20."""
    interval = score_interval([score] * 20)
    assert interval.mean == score and (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


def test_only_equal_scores_at_a_finite_bound_are_widened() -> None:
    half = score_interval([0.5] * 20)  # as in a ladder, where equal scores of bounded metrics are not certain
    assert half.low == pytest.approx(0.426, abs=1e-3) and score_interval([1.0]).low is None
    ten = score_interval([10.0] * 20, (0.0, 10.0))
    assert (ten.low, ten.high) == pytest.approx((8.389, 10.0), abs=1e-3)
    for value in (0.0, 1.0):
        interval = score_interval([value] * 20, (0.0, float("inf")))
        assert (interval.low, interval.high) == (value, value)


@pytest.mark.parametrize("rows", [2, 50, 3_000])
def test_resamples_do_not_depend_on_the_blocks_in_which_they_are_drawn(rows: int) -> None:
    source = np.random.default_rng(1)
    values, weights = source.random(rows), source.integers(0, 3, rows).astype(float) + (np.arange(rows) == 0)
    mean, random = (values * weights).sum() / weights.sum(), np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        chosen = random.integers(0, rows, rows)
        total = weights[chosen].sum()
        means.append((values[chosen] * weights[chosen]).sum() / total if total else mean)
    interval = bootstrap(values.tolist(), weights.tolist())
    assert (interval.mean, interval.low, interval.high) == (mean, *np.quantile(means, [0.025, 0.975]))


def test_a_gain_of_few_or_identical_items_has_no_narrow_interval() -> None:
    def gain(values: list[float], bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
        return paired_interval(values, bounds)

    few = gain([1.0] * 5)
    assert (few.mean, few.low, few.high) == (1.0, None, None)
    same = gain([1.0] * 6)
    assert same.low == pytest.approx((6 - 1.96**2) / (6 + 1.96**2), abs=0.001) and same.high == 1.0
    assert gain([0.0] * 100).low == pytest.approx(-(1.96**2) / (100 + 1.96**2), abs=1e-4)  # Tango 1998
    many = gain([1.0, 0.0, 0.0, -1.0] * 250)
    plain = bootstrap([1.0, 0.0, 0.0, -1.0] * 250)
    assert many.low == pytest.approx(plain.low, abs=0.004) and many.high == pytest.approx(plain.high, abs=0.004)
    losses = gain([0.25] * 8, (0.0, float("inf")))
    assert losses.low == losses.high == 0.25


def test_the_interval_of_a_gain_covers_where_the_bootstrap_does_not() -> None:
    random, contained = np.random.default_rng(5), [0, 0]
    for _ in range(200):
        values = (random.random(10) < 0.1).astype(float).tolist()
        for place, interval in enumerate((bootstrap(values), paired_interval(values, (0.0, 1.0)))):
            assert interval.low is not None and interval.high is not None
            contained[place] += interval.low <= 0.1 <= interval.high
    assert contained[0] < 150 and contained[1] >= 190


def test_the_lower_bound_of_a_gain_is_rarely_too_high() -> None:
    """Where nearly all items gain, and of losses with heavy tails; nominal are 2.5%."""
    random, above = np.random.default_rng(1), [0, 0]
    for _ in range(150):
        most = np.where(random.random(100) < 0.97, 1.0, 0.0)
        above[0] += (paired_interval(most.tolist(), (0.0, 1.0)).low or 0.0) > 0.97
        skewed = -random.lognormal(0.0, 1.0, 100)
        above[1] += (paired_interval(skewed.tolist(), (0.0, math.inf), [1.0] * 100).low or 0.0) > -math.exp(0.5)
    assert above[0] <= 3 and above[1] <= 8
