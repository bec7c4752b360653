"""A number is spelled in one way, and what is unknown is a dash."""

from __future__ import annotations

import math

import pytest

from engine.ladder import format as say
from engine.runs.ladder import SeedRange
from engine.runs.result import Interval


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (say.percent(0.5812), "58.1 %"),
        (say.percent(1.0), "100.0 %"),
        (say.points(-0.004), "−0.4 points"),
        (say.points(0.0231), "+2.3 points"),
        (say.points(-0.0001), "0.0 points"),
        (say.loss(0.47397), "0.474"),
        (say.loss_change(0.0121), "+0.012"),
        (say.ratio(0.868), "0.87 ×"),
        (say.ratio(12.34), "12.3 ×"),
        (say.ratio(0.0543), "0.054 ×"),
        (say.seconds(4.462), "4.46 s"),
        (say.seconds(53.08), "53.1 s"),
        (say.seconds(59.97), "1:00"),
        (say.seconds(245), "4:05"),
        (say.seconds(3725.4), "1:02:05"),
        (say.size(902_680_576), "861 MiB"),
        (say.size(1.32e9), "1.23 GiB"),
        (say.size(1023 << 20), "0.999 GiB"),
        (say.size(512), "512 B"),
        (say.energy(640), "640 J"),
        (say.energy(12_345), "12.3 kJ"),
        (say.energy(4_428_000), "1.23 kWh"),
        (say.money(0.0034, "EUR"), "0.0034 EUR"),
        (say.money(1234.5, "USD"), "1,234.50 USD"),
        (say.count(6450), "6,450"),
        (say.count(286_720), "287 k"),
        (say.count(9_999_999), "10.0 M"),
        (say.count(8.03e9), "8.03 B"),
        (say.whole(1900), "1,900"),
        (say.about(1853), "1,900"),
        (say.about(7), "7"),
        (say.rate(2e-4), "2e-4"),
        (say.rate(2.5e-5), "2.5e-5"),
        (say.rate(0.05), "0.05"),
        (say.p_value(0.0123), "0.012"),
        (say.p_value(0.0001), "< 0.001"),
        (say.score(0.5, "loss"), "0.500"),
        (say.difference(0.5, "json"), "+50.0 points"),
        (say.rung("qlora"), "QLoRA"),
        (say.rung("lora-r64"), "lora-r64"),
    ],
)
def test_a_number_has_one_spelling(said: str, wanted: str) -> None:
    assert said == wanted


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_what_is_unknown_is_a_dash(nothing: float | None) -> None:
    one = (say.percent, say.points, say.loss, say.loss_change, say.ratio, say.seconds, say.size, say.energy)
    assert {text(nothing) for text in (*one, say.count, say.rate, say.p_value)} == {"–"}
    assert say.money(nothing, "USD") == say.score(nothing, "json") == "–"


def test_intervals_are_in_the_unit_of_their_mean() -> None:
    interval = Interval(mean=0.02, low=-0.004, high=0.0509, rows=300)
    assert say.percent_bounds(interval) == "[−0.4, 5.1]"
    assert say.loss_bounds(interval) == "[−0.004, 0.051]"
    assert say.percent_bounds(None) == say.loss_bounds(Interval(mean=1.0, low=None, high=None, rows=1)) == ""


def test_a_range_that_prints_alike_is_not_printed() -> None:
    assert say.extent(SeedRange(mean=53.0, low=52.1, high=54.0), say.seconds) == "52.1 s – 54.0 s"
    assert say.extent(SeedRange(mean=53.0, low=53.01, high=53.02), say.seconds) == ""
    assert say.extent(None, say.seconds) == ""
