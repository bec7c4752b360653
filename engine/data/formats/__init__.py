"""The data formats: one module each, with an object `FORMAT`; a new module here is a new format.

The module's name is the name that data.format takes, with `-` for `_`.
"""

from __future__ import annotations

from engine.data.conversation import Example, Problem
from engine.data.detection import detect
from engine.data.format import Format
from engine.data.recognition import agree, converse

__all__ = ["Example", "Format", "Problem", "agree", "converse", "detect"]
