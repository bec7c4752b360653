"""Numbers of answers in the notations of different countries."""

from __future__ import annotations

from fractions import Fraction

import pytest

from engine.evaluation.metrics import best_score, is_formatted
from engine.evaluation.numbers import COMMA, POINT, NumberFormat, is_number, number_of

NBSP, THIN, NARROW, MINUS = "\u00a0", "\u2009", "\u202f", "\u2212"
NOTATIONS: list[tuple[str, str | None, str | None]] = [
    # text, with a decimal point, with a decimal comma
    ("0", "0", "0"),
    ("72", "72", "72"),
    ("1250", "1250", "1250"),
    ("12.5", "12.5", None),
    ("12,5", None, "12.5"),
    ("12.50", "12.5", None),
    ("12,50", None, "12.5"),
    ("1,250", "1250", "1.25"),
    ("1.250", "1.25", "1250"),
    ("0.125", "0.125", None),
    ("0,125", None, "0.125"),
    ("1,250.50", "1250.5", None),
    ("1.250,50", None, "1250.5"),
    ("1,250,000", "1250000", None),
    ("1.250.000", None, "1250000"),
    ("12,34,567", "1234567", None),
    ("1,00,000.5", "100000.5", None),
    (f"1{NBSP}250", "1250", "1250"),
    (f"1{NARROW}250,5", None, "1250.5"),
    (f"1{THIN}250.5", "1250.5", None),
    ("1 250", "1250", "1250"),
    ("1 250 000,75", None, "1250000.75"),
    ("1'250.5", "1250.5", None),
    ("1’250’000", "1250000", "1250000"),
    ("12,3456", None, "12.3456"),
    ("1234,567", None, "1234.567"),
    ("1,2,3", None, None),
    ("1.2.3", None, None),
    ("1,25,0", None, None),
    ("1.250.50", None, None),
    ("1,250'000", None, None),
    (".5", "0.5", None),
    (",5", None, "0.5"),
    ("-3.5", "-3.5", None),
    (f"{MINUS}3,5", None, "-3.5"),
    ("+7", "7", "7"),
    ("- 7", "-7", "-7"),
    ("$1,250", "1250", "1.25"),
    ("12,50 €", None, "12.5"),
    ("€ 1.250,00", None, "1250"),
    ("-$5.25", "-5.25", None),
    ("£12.50", "12.5", None),
    ("¥1,000,000", "1000000", None),
    ("₹1,00,000", "100000", None),
    ("12.5%", "12.5", None),
    ("12,5 %", None, "12.5"),
    ("50 %", "50", "50"),
    ("1e3", "1000", "1000"),
    ("1.5e3", "1500", None),
    ("1,5E-3", None, "0.0015"),
    ("2.5e+2", "250", None),
    ("1.5×10^3", "1500", None),
    ("1,5·10^-3", None, "0.0015"),
    ("3 x 10^8", "300000000", "300000000"),
    ("6.02 × 10²³", "602000000000000000000000", None),
    (r"2.5 \times 10^{-4}", "0.00025", None),
    ("1/2", "1/2", "1/2"),
    ("#### 1,250", "1250", "1.25"),
    ("The answer is: 20/35", "4/7", "4/7"),
    (r"so $\boxed{42}$.", "42", "42"),
    (r"\boxed{-\frac{1}{2}}", "-1/2", "-1/2"),
    (r"\boxed{\frac{3}{4}}", "3/4", "3/4"),
    ("00012", "12", "12"),
    ("1e9999", None, None),
    ("5.", "5", "5"),
    ("it costs 5, then 6.5.", "6.5", None),
    ("10-5", "5", "5"),
    ("no number", None, None),
    ("1/0", None, None),
]


@pytest.mark.parametrize(("text", "point", "comma"), NOTATIONS)
def test_a_notation_is_read_exactly_or_not_at_all(text: str, point: str | None, comma: str | None) -> None:
    for decimal, expected in ((POINT, point), (COMMA, comma)):
        assert number_of(text, decimal) == (None if expected is None else Fraction(expected))


def test_texts_with_several_numbers_or_words_are_not_numbers() -> None:
    assert all(map(is_number, ("12", "12.5 %", "$ 1,250", "1 250", "-3", "work\n#### 12", "1e3", "00012")))
    assert not any(map(is_number, ("", "2024-01-05", "12:30", "5-7", "1/2", "12 kg", "A1", "1, 2", "ten")))


@pytest.mark.parametrize(
    ("answers", "decimal"),
    [
        (["1250", "7", "12"], POINT),
        (["1,250", "7.5", "12"], POINT),
        (["1.250", "7,5", "12"], COMMA),
        (["1.250,50 €", "1.250 €"], COMMA),
        (["1,250,000", "1,250"], POINT),
        (["3,14", "2,718"], COMMA),
        (["it costs $1.50, so\n#### 1,250", "#### 3"], POINT),
    ],
)
def test_the_notation_is_decided_from_all_answers(answers: list[str], decimal: str) -> None:
    found = NumberFormat.of(answers)
    assert (found.decimal, found.share, found.doubt) == (decimal, 1.0, "")


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (["1,250", "3,400", "17"], "1,250"),
        (["1.250", "17"], "1.250"),
        (["1.5", "2,5"], "a decimal point and others a decimal comma"),
        (["00012", "10400"], "leading zeros, such as 00012"),
        (["12 €", "12 $"], "different units"),
        (["12%", "12", "3%"], "different units"),
    ],
)
def test_numbers_that_cannot_be_compared_say_why(answers: list[str], why: str) -> None:
    assert why in NumberFormat.of(answers * 3).doubt


def test_a_few_numbers_in_another_notation_are_not_numbers() -> None:
    found = NumberFormat.of(["1.5"] * 98 + ["2,5", "1.250,5"])
    assert (found.decimal, found.doubt, found.share) == (POINT, "", 0.98)


def test_an_amount_is_not_equal_to_one_in_another_notation() -> None:
    assert best_score("number", "1,250", ["12,50 €"])["number"] == 0
    assert best_score("number_comma", "12,5", ["12,50 €"])["number_comma"] == 1
    assert best_score("number", "50", ["1.000,50"])["number"] == 0
    assert best_score("number", "3", ["1e3"])["number"] == 0
    assert not is_formatted("number", "12,5") and is_formatted("number_comma", "12,5")
