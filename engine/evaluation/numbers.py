"""Read the number of an answer exactly, with a decimal point or a decimal comma.

`1,250` is 1250 in one notation and 1.25 in the other. Which of them the answers of a dataset have is decided once, from
all of them (`NumberFormat.of`), and is part of the metric's name: `number` or `number_comma`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from engine.config.quantities import share_percent

POINT, COMMA = ".", ","
DIGITS_LIMIT = 4000
"""A model that repeats itself writes longer numbers; Python converts at most 4,300 digits."""
DOUBTFUL_SHARE, CODES_SHARE = 0.05, 0.005
"""Share of numbers in the other notation or with another unit, and share with leading zeros, above which answers are
compared as text."""
_MINUS, _SPACES, _CURRENCIES = "-\u2212", "\u00a0\u2009\u202f", "$€£¥₹₽₩₺₴฿"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_POWER = (
    rf"[eE](?P<e>[{_MINUS}+]?\d+)(?!\w)|\s?(?:[×x·*]|\\times|\\cdot)\s?10"
    rf"(?:(?:\^|\*\*)[{{(]?(?P<power>[{_MINUS}+]?\d+)[}})]?|(?P<raised>⁻?[⁰¹²³⁴-⁹]+))"
)
_NUMBER = re.compile(
    rf"(?:(?<![\w)])(?P<sign>[{_MINUS}+])\s?)?(?P<unit>[{_CURRENCIES}])?\s?"
    rf"(?P<digits>\d+(?:[.,'’{_SPACES}]\d+)*|(?<!\w)[.,]\d+)(?:{_POWER})?"
)
"""A sign (a minus only if no word or number precedes it: the last number of `10-5` is 5), a currency, digits with
separators, a power of ten."""
_SPACED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?: \d{3})+(?!\d)")
"""Groups of three digits with ordinary spaces, which are one number only in an answer without words."""
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_MARKER = re.compile(r"####|\\boxed\{|\bthe (?:final )?answer is:?\s", re.IGNORECASE)
"""What precedes the final number in GSM8K, MATH and MetaMathQA."""

_NOTATION = re.compile(r"\\[dt]?frac|\\text\s?\{[^{}]*\}|\\[$%!,;: ]|\\(?:times|cdot)\s*10\^\{?-?\d+\}?|\^\\circ")
"""What a number in LaTeX may have besides digits: a fraction, a unit, a power of ten."""
_EXPRESSION = re.compile(r"[^\W\d_]|[\^_=+*()\[\]\\]")
"""What makes the content of a box an expression instead of a number."""


def _digits(decimal: str) -> re.Pattern[str]:
    """Digits alone, or in groups of three (in India also of two) with the same separator; then decimals."""
    other, lakh = (COMMA, r"|[1-9]\d?(?:,\d\d)+,\d{3}") if decimal == POINT else (POINT, "")
    grouped = rf"[1-9]\d{{0,2}}(?P<mark>[{other}'’{_SPACES}])\d{{3}}(?:(?P=mark)\d{{3}})*"
    return re.compile(rf"(?:{grouped}{lakh}|\d*)(?:[{decimal}]\d+)?")


_DIGITS = {decimal: _digits(decimal) for decimal in (POINT, COMMA)}
_LEADING_ZERO = re.compile(r"0\d")


def number_of(text: str, decimal: str = POINT) -> Fraction | None:
    """The final number of an answer, exactly; None without one, or if it is not in this notation.

    After the last `####`, `\\boxed{` or `the answer is` the first number of that line, else the last one of the text.
    It may be a quotient such as `1/2`, after such a marker or if there is nothing else.
    """
    numbers, scope, is_marked = _numbers(text)
    quotient = _FRACTION.search(scope) if is_marked else _FRACTION.fullmatch(scope.strip("$"))
    if quotient and (not numbers or quotient.start() < numbers[0].start()):
        above, below = (number_of(part, decimal) for part in quotient.groups())
        negative = scope[: quotient.start()].rstrip().endswith(tuple(_MINUS))
        return None if above is None or not below else above / below * (-1 if negative else 1)
    if not numbers:
        return None
    first = 0 if is_marked else len(numbers) - 1
    if len(numbers) > 1 and (is_marked or not _has_words(scope)) and _between(scope, *numbers[:2]) == "/":
        below = _value(numbers[1], decimal)
        above = _value(numbers[0], decimal)
        return above / below if above is not None and below else None
    return _value(numbers[first], decimal)


def is_number(text: str) -> bool:
    """Whether an answer is a number with at most a unit of one sign (`$`, `%`), or names its number after a marker."""
    numbers, scope, is_marked = _numbers(text)
    if (box := box_of(text)) is not None:
        return bool(numbers) and not _EXPRESSION.search(_NOTATION.sub("", box))
    return bool(numbers) and (is_marked or (len(numbers) == 1 and not _has_words(scope)))


def box_of(text: str) -> str | None:
    """The content of the last \\boxed{} (or \\fbox{}), whose braces may be nested; None without a complete one."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return None


@dataclass(frozen=True)
class NumberFormat:
    """How the numbers of a dataset's answers are read."""

    decimal: str = POINT
    share: float = 0.0
    """Share of the answers that are, or name, a number."""
    doubt: str = ""
    """Why they are not compared as numbers: a clause; '' without a doubt."""

    @classmethod
    def of(cls, answers: Sequence[str]) -> NumberFormat:
        """Decide the notation from all numbers in the answers that are, or name, a number."""
        texts = [text for text in answers if is_number(text)]
        if not texts:
            return cls()
        evidence: Counter[str] = Counter()
        unclear, codes, units = "", [], Counter[str]()
        for text in texts:
            numbers, scope, is_marked = _numbers(text)
            digits = (numbers[0] if is_marked else numbers[-1])["digits"]
            codes += [digits] if _LEADING_ZERO.match(digits) else []
            units["" if is_marked else _unit(scope)] += 1
            for number in _NUMBER.finditer(text):
                marks = [decimal for decimal in (POINT, COMMA) if _value(number, decimal) is not None]
                if len(marks) == 1:
                    evidence[marks[0]] += 1
                elif len(marks) == 2 and _value(number, POINT) != _value(number, COMMA):
                    unclear = unclear or number["digits"]
        decimal = COMMA if evidence[COMMA] > evidence[POINT] else POINT
        other = evidence[POINT if decimal == COMMA else COMMA]
        most = max(units[""] + units.most_common(1)[0][1] if not units["%"] else 0, units.most_common(1)[0][1])
        doubt = ""
        if len(codes) > CODES_SHARE * len(texts):
            doubt = f"{share_percent(len(codes) / len(texts))} of them have leading zeros, such as {codes[0]}"
        elif other > DOUBTFUL_SHARE * evidence.total():
            doubt = "some of them have a decimal point and others a decimal comma"
        elif unclear and not evidence:
            doubt = f"whether the separator of {unclear} is a decimal mark is not clear"
        elif len(texts) - most > DOUBTFUL_SHARE * len(texts):
            doubt = f"they have different units ({' and '.join(unit or 'none' for unit, _ in units.most_common(3))})"
        readable = [text for text in texts if doubt or number_of(text, decimal) is not None]
        return cls(decimal, len(readable) / len(answers), doubt)


def _numbers(text: str) -> tuple[list[re.Match[str]], str, bool]:
    """The numbers in the part of a text that has the final one, this part, and whether a marker precedes it."""
    marker = next(reversed(list(_MARKER.finditer(text))), None)
    scope = text.strip() if marker is None else text[marker.end() :].strip().partition("\n")[0]
    if not _has_words(scope):
        scope = _SPACED.sub(lambda match: match[0].replace(" ", _SPACES[0]), scope)
    return list(_NUMBER.finditer(scope)), scope, marker is not None


def _has_words(scope: str) -> bool:
    return any(map(str.isalnum, _NUMBER.sub("", scope)))


def _between(scope: str, first: re.Match[str], second: re.Match[str]) -> str:
    return scope[first.end() : second.start()].strip()


def _unit(scope: str) -> str:
    """The sign next to a number that stands alone, such as `€` and `%`; '' without one."""
    return "".join(letter for letter in scope if letter in f"{_CURRENCIES}%‰°")


def _value(number: re.Match[str], decimal: str) -> Fraction | None:
    """A match of _NUMBER as a fraction; None if it is not in this notation, or has more digits than Python converts."""
    digits, power = number["digits"], number["e"] or number["power"] or (number["raised"] or "0")
    exponent = int(power.translate(_SUPERSCRIPTS).replace("\u2212", "-"))
    if len(digits) + abs(exponent) > DIGITS_LIMIT or not _DIGITS[decimal].fullmatch(digits):
        return None
    whole, _, decimals = digits.partition(decimal)
    value = Fraction(f"{re.sub(r'[^0-9]', '', whole) or '0'}.{decimals or '0'}") * Fraction(10) ** exponent
    return -value if number["sign"] and number["sign"] in _MINUS else value
