"""The chart as text, without an app."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from tui.charts import AXIS, DASHES, ChartStyle, Curve, Series, draw, line_sample, sparkline
from tui.format import number


def series(*values: float | None) -> Series:
    made = Series()
    made.extend(enumerate(values, 1))
    return made


def plain(rows: Sequence[Sequence[tuple[str, str]]]) -> list[str]:
    return ["".join(text for text, _ in row) for row in rows]


def styles(rows: Sequence[Sequence[tuple[str, str]]]) -> set[str]:
    return {style for row in rows for text, style in row if text.strip()}


@pytest.mark.parametrize("columns", [12, 40, 93, 160])
@pytest.mark.parametrize("rows", [3, 5, 9, 30])
def test_the_chart_has_exactly_the_given_size(columns: int, rows: int) -> None:
    drawn = plain(draw([Curve(series(3, 2, 1), "train")], columns, rows, ChartStyle()))
    assert [len(row) for row in drawn] == [columns] * rows


def test_marks_fit_into_the_narrowest_chart() -> None:
    drawn = plain(draw([Curve(series(3, 2, 1), "eval", marks=True)], 12, 3, ChartStyle()))
    assert any(row[AXIS:].strip() for row in drawn[:2])


def test_a_falling_loss_begins_high_at_the_left_and_ends_low_at_the_right() -> None:
    drawn = plain(draw([Curve(series(*(10 - n / 10 for n in range(100))), "train")], 60, 10, ChartStyle()))
    top, bottom = drawn[0][AXIS:], drawn[8][AXIS:]
    assert top[:4].strip() and not top[-20:].strip()
    assert bottom[-4:].strip() and not bottom[:20].strip()
    assert drawn[0].startswith("    10 ") and drawn[8].startswith("   0.1 ")
    assert drawn[9].split() == ["1", "100"]


def test_values_that_are_not_finite_are_not_drawn() -> None:
    good = draw([Curve(series(3, 2, 1), "train")], 40, 8, ChartStyle())
    mixed = series(3, 2, 1)
    mixed.extend([(3.5, math.nan), (3.6, math.inf), (3.7, None)])
    assert draw([Curve(mixed, "train")], 40, 8, ChartStyle()) == good
    assert not "".join(plain(draw([Curve(series(math.nan), "train")], 40, 8, ChartStyle()))).strip()


def test_one_point_and_a_flat_line_have_an_axis_around_them() -> None:
    for values in ((2.0,), (2.0, 2.0, 2.0), (0.0,), (5e-4, 5e-4 - 1e-19, 5e-4)):
        drawn = plain(draw([Curve(series(*values), "train")], 40, 9, ChartStyle(log=values[0] > 0, smooth=0.6)))
        assert any(row[AXIS:].strip() for row in drawn[2:6]), values


def test_a_logarithmic_axis_spreads_the_small_values() -> None:
    values = [1000 / 2**n for n in range(11)]
    straight = plain(draw([Curve(series(*values), "train")], 60, 11, ChartStyle(log=True)))
    middle = straight[5][AXIS:]
    assert middle[20:36].strip(), "half of the decades lie in the middle of the picture"
    assert plain(draw([Curve(series(3, 0, -1), "train")], 40, 8, ChartStyle(log=True)))  # falls back to a plain axis


def test_ascii_mode_draws_only_ascii() -> None:
    drawn = "".join(plain(draw([Curve(series(3, 1, 2), "train")], 40, 8, ChartStyle(ascii=True))))
    assert drawn.isascii() and drawn.strip()


def test_smoothing_narrows_the_axis_to_the_trend() -> None:
    noisy = Curve(series(*(n % 2 * 10.0 for n in range(200))), "train")
    rough = plain(draw([noisy], 60, 8, ChartStyle()))
    smooth = plain(draw([noisy], 60, 8, ChartStyle(smooth=0.95)))
    assert float(rough[0].split()[0]) == 10.0
    assert float(smooth[0].split()[0]) < 8.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (12.345, "12.3"),
        (123.45, "123.5"),
        (45_678, "46k"),
        (0.001234, "0.0012"),
        (-0.001234, "-0.001"),
        (-0.01234, "-0.012"),
        (2e-5, "2.0e-5"),
        (-2e-5, "-2e-5"),
        (3.2e9, "3.2e9"),
    ],
)
def test_numbers_fit_the_axis(value: float, text: str) -> None:
    assert number(value) == text and len(text) < AXIS


@pytest.mark.parametrize("ascii_only", [False, True])
def test_lines_differ_without_color_and_the_legend_shows_them(ascii_only: bool) -> None:
    level = series(*[1.0] * 200)
    drawn = set()
    for place in range(len(DASHES)):
        rows = plain(draw([Curve(level, "one", place=place)], 60, 5, ChartStyle(ascii=ascii_only)))
        line = next(row[AXIS:] for row in rows[:-1] if row[AXIS:].strip())
        drawn.add(line)
        assert not ascii_only or line.isascii()
        if ascii_only and place:
            assert set(line.strip()) <= {str(place), " "} and str(place) in line_sample(place, ascii_only)
    samples = {line_sample(place, ascii_only) for place in range(len(DASHES))}
    assert len(drawn) == len(samples) == len(DASHES)


def test_a_growing_sparkline_changes_only_at_its_end() -> None:
    grown, before, changed = Series(), "", []
    for step in range(1, 400):
        grown.add(step, 5.0 / step + 1.0 + 0.01 * math.sin(step))
        now = sparkline(grown, 18)
        assert len(now) <= 18
        changed.append(sum(a != b for a, b in zip(before[:-1], now, strict=False)))
        before = now
    assert sum(count > 0 for count in changed) < 20  # only where blocks are merged or the scale grows


@pytest.mark.parametrize("until", [None, 400])
def test_a_spike_at_the_start_does_not_flatten_the_rest(until: float | None) -> None:
    rest = [2 + 0.3 * math.cos(n / 20) for n in range(380)]
    drawn = plain(draw([Curve(series(*[400.0] * 3, *rest), "train")], 70, 12, ChartStyle(), until))
    assert all(row[AXIS:].strip() for row in drawn[:-1])  # every row has a part of the curve
    assert "vertical axis cut: values at the start up to 400" in drawn[-1]
    assert {len(row) for row in drawn} == {70}


def test_only_a_spike_at_the_start_that_hides_the_rest_is_cut() -> None:
    late = [2.0] * 300 + [400.0] * 3 + [2.1] * 80
    warm_up = [n / 1000 for n in range(10)] + [1.0] * 390
    mild = [20.0, *(2 + 0.3 * math.cos(n / 20) for n in range(380))]
    for values in (late, warm_up, mild):
        assert "cut" not in plain(draw([Curve(series(*values), "train")], 70, 12, ChartStyle()))[-1]
    spike = [400.0, *mild[1:]]
    assert "cut" not in plain(draw([Curve(series(*spike), "train")], 70, 12, ChartStyle(log=True)))[-1]
