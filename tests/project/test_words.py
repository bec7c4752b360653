"""Texts that a user or reader sees use the terms of the field's documentation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from places import BENCH

sys.path.insert(0, str(BENCH))

import words


def test_no_text_for_readers_uses_a_word_of_the_required_list() -> None:
    found = [f"{hit.path}:{hit.line}: {hit.mark}: {hit.excerpt}" for hit in words.hits(words.REQUIRED)]
    assert found == [], f"{len(found)} hits, see python tests/bench/words.py"


@pytest.mark.parametrize(
    ("source", "marks"),
    [
        ('"""It goes on beside it."""', ["goes on", "beside"]),
        ("value = 1  # begun anew", ["begun", "anew"]),
        ('text = f"no card: {reason} is none"', ["card", "is none"]),
        ('text = "rows a "\\\n    "pass"', ["a pass"]),
        ("card = lies = begun = mend", []),
        ('event["card"] = "model card"', []),
        ('option = "--card NAME"', []),
        ('text = "besides, the beginning of a passage depends on recommended cardinalities"', []),
    ],
)
def test_the_search_finds_words_in_texts_and_not_in_names(source: str, marks: list[str], tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(source)
    found = words.hits(words.REQUIRED, (str(file),))
    assert sorted(hit.mark for hit in found) == sorted(marks)
