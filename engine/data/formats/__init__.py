"""The data formats: one module each, with an object `FORMAT`. Adding a module adds a format.

The value of data.format is the module's name with `-` instead of `_`.
"""

from __future__ import annotations

from engine.data.conversation import Example, Problem
from engine.data.detection import detect
from engine.data.format import Format
from engine.data.recognition import agree, converse

__all__ = ["Example", "Format", "Problem", "agree", "converse", "detect"]
