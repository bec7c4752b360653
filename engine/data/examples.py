"""Read the usable rows of a dataset as conversations, without a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from engine.config.schema import Data
from engine.data.conversation import Example
from engine.data.detection import detect
from engine.data.recognition import to_example
from engine.data.source import read

SAMPLE_ROWS = 100
"""Training rows from which end tokens and system prompt are taken."""


def training_examples(data: Data) -> list[Example]:
    """The first training rows. Raises UserError if the data cannot be read."""
    return list(islice(examples_of(data, ("train",)), SAMPLE_ROWS))


def examples_of(data: Data, splits: tuple[str, ...] | None = None) -> Iterator[Example]:
    """The usable rows of some given splits, or of all, in reading order."""
    source = read(data)
    found = detect(source.train, data)
    for name, rows in source.splits.items():
        if splits is None or name in splits:
            for raw in rows:
                if isinstance(example := to_example(raw, found), Example):
                    yield example


def system_prompt(examples: list[Example]) -> str:
    """The system prompt that all of these rows have; '' if they have none or different ones."""
    found = {
        example.messages[0]["content"] if example.messages and example.messages[0]["role"] == "system" else ""
        for example in examples
    }
    return str(found.pop()) if len(found) == 1 else ""
