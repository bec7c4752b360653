"""The figures of a sentence, for tests of what it states whatever its words."""

from __future__ import annotations

import re

FIGURE = re.compile(r"(?<![\w.-])[+−-]?\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?(?:%|(?![\w.,:-]*[A-Za-z]))")


def figures(text: str) -> str:
    """All numbers in their order: `2 1:30 −4.5% 5e-3`; the digits of a name such as `lora-3f2a` are none."""
    return " ".join(match.group() for match in FIGURE.finditer(text))
