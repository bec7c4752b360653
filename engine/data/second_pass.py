"""Second pass over the rows, after the split: near-duplicates, and rows for further accepted answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.data.conversation import Example
from engine.data.counts import SPLITS
from engine.data.format import DetectedFormat
from engine.data.items import reference_examples
from engine.data.near_duplicates import LIMIT, TOO_MANY, NearDuplicates
from engine.data.recognition import to_example
from engine.data.rows import RowStream
from engine.data.split import Assignment, note_near_duplicates
from engine.data.split_rows import TEST
from engine.data.tokenizing import RowProcessor
from engine.data.tokens import Row


@dataclass
class SecondPass:
    """Reads the rows of the given splits again, if near-duplicates or further answers require it."""

    format: DetectedFormat
    given: dict[str, RowStream]
    assignment: Assignment
    total: int
    """Number of rows of all given splits."""
    has_references: bool
    """Whether any row has further accepted answers."""
    further: list[tuple[Example, int]] = field(default_factory=list)
    """Examples for the further accepted answers of test rows, with their items."""

    def run(self) -> None:
        """Count near-duplicates, and collect further answers of test rows."""
        near = NearDuplicates() if self.total <= LIMIT else NearDuplicates(TOO_MANY)
        counts_near = bool(self.assignment.overlaps) and not near.reason
        if not counts_near and not self.has_references:
            note_near_duplicates(self.assignment, near)
            return
        for name in self.given:
            for example, code, item in self._examples(name):
                if counts_near and code < len(SPLITS):
                    near.add(SPLITS[code], example)
                if code == TEST:
                    self.further += [(other, item) for other in reference_examples(example)]
        note_near_duplicates(self.assignment, near)

    def _examples(self, name: str) -> Iterator[tuple[Example, int, int]]:
        """Example, split code and item of each row with keys."""
        said = (to_example(raw, self.format) for raw in self.given[name])
        examples = (one for one in said if isinstance(one, Example))
        codes, items = self.assignment.codes[name].tolist(), self.assignment.items[name].tolist()
        yield from zip(examples, codes, items, strict=True)

    def reference_rows(self, work: RowProcessor) -> list[Row]:
        """Rows for the further answers of test rows. Answers that cannot be tokenized are used by text metrics only."""
        found = work.tokenize([example for example, _ in self.further])
        pairs = zip(found, self.further, strict=True)
        return [dataclasses.replace(row, item=item) for row, (_, item) in pairs if isinstance(row, Row)]
