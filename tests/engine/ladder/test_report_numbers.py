"""A number has one format; unknown values are a dash."""

from __future__ import annotations

import math

import pytest

from engine.config import quantities
from engine.ladder import phrases
from engine.runs import score_format
from engine.runs.ladder.rung_results import SeedRange
from engine.runs.run.result import Interval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (quantities.percent(0.5812), "58.1%"),
        (quantities.percent(1.0), "100.0%"),
        (score_format.points(-0.004), "−0.4 points"),
        (score_format.points(0.0231), "+2.3 points"),
        (score_format.points(-0.0001), "0.0 points"),
        (score_format.loss(0.47397), "0.474"),
        (score_format.difference(0.0121, "loss"), "+0.012"),
        (quantities.ratio(0.868), "0.87×"),
        (quantities.ratio(12.34), "12.3×"),
        (quantities.ratio(0.0543), "0.054×"),
        (quantities.duration(4.462), "4.46 s"),
        (quantities.duration(53.08), "53.1 s"),
        (quantities.duration(59.97), "1:00"),
        (quantities.duration(245), "4:05"),
        (quantities.duration(3725.4), "1:02:05"),
        (quantities.size(902_680_576), "861 MiB"),
        (quantities.size(1.32e9), "1.23 GiB"),
        (quantities.size(1023 << 20), "0.999 GiB"),
        (quantities.size(512), "512 B"),
        (quantities.energy(640), "640 J"),
        (quantities.energy(12_345), "12.3 kJ"),
        (quantities.energy(4_428_000), "1.23 kWh"),
        (quantities.money(0.0034, "EUR"), "0.0034 EUR"),
        (quantities.money(1234.5, "USD"), "1,234.50 USD"),
        (quantities.count(6450), "6,450"),
        (quantities.count(286_720), "287k"),
        (quantities.count(9_999_999), "10.0M"),
        (quantities.count(8.03e9), "8.03B"),
        (quantities.integer(1900), "1,900"),
        (phrases.rounded_up(1853), "1,900"),
        (phrases.rounded_up(7), "7"),
        (quantities.rate(2e-4), "2e-4"),
        (quantities.rate(2.5e-5), "2.5e-5"),
        (quantities.rate(0.05), "0.05"),
        (phrases.p_value(0.0123), "0.012"),
        (phrases.p_value(0.0001), "< 0.001"),
        (score_format.score(0.5, "loss"), "0.500"),
        (score_format.difference(0.5, "json"), "+50.0 points"),
        (phrases.rung_title("qlora"), "QLoRA"),
        (phrases.rung_title("lora-r64"), "lora-r64"),
    ],
)
def test_a_number_has_one_format(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_an_unknown_value_is_a_dash(nothing: float | None) -> None:
    functions = (
        quantities.percent,
        score_format.points,
        score_format.loss,
        quantities.ratio,
        quantities.duration,
        quantities.size,
        quantities.energy,
    )
    assert {text(nothing) for text in (*functions, quantities.count, quantities.rate, phrases.p_value)} == {"–"}
    assert (
        quantities.money(nothing, "USD")
        == score_format.score(nothing, "json")
        == "–"
        == score_format.difference(nothing, "loss")
    )


def test_intervals_have_the_unit_of_their_mean() -> None:
    interval = Interval(mean=0.02, low=-0.004, high=0.0509, rows=300)
    assert score_format.percent_bounds(interval) == "[−0.4, 5.1]"
    assert score_format.score_bounds(interval, "loss") == "[−0.004, 0.051]"
    unbounded = Interval(mean=1.0, low=None, high=None, rows=1)
    assert score_format.percent_bounds(None) == score_format.score_bounds(unbounded, "loss") == ""


def test_a_range_of_equal_texts_is_empty() -> None:
    assert phrases.seed_range_text(SeedRange(mean=53.0, low=52.1, high=54.0), quantities.duration) == "52.1 s – 54.0 s"
    assert phrases.seed_range_text(SeedRange(mean=53.0, low=53.01, high=53.02), quantities.duration) == ""
    assert phrases.seed_range_text(None, quantities.duration) == ""
