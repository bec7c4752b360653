"""The test rows of a finished run, prepared again, and as the tokenizer of an artifact renders them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from engine.config.errors import UserError
from engine.data.items import EvaluationItem, sampled
from engine.data.prepare import prepare
from engine.data.prepared import Prepared
from engine.methods.provenance import items_fingerprint
from engine.runs.run.exports import Defect
from engine.runs.run.frozen_config import FrozenRun


@dataclass(frozen=True)
class ScoredRows:
    """Prepared rows and the test items on which the run was scored."""

    rows: Prepared
    items: list[EvaluationItem]


def scored_rows(frozen: FrozenRun, tokenizer: Any, fingerprint: str) -> ScoredRows:
    """Prepare the run's data as training did.

    fingerprint: of the run's test items (`Result.fingerprints["test"]`). Raises UserError if they have changed.
    """
    config = frozen.config
    rows = prepare(config.data, config.train.max_length, tokenizer)
    items = [] if config.evaluation.when == "never" else sampled(rows.test_items, config.evaluation.rows)
    if fingerprint and items_fingerprint(items) != fingerprint:
        what = "the test rows differ from those of the run"
        do = "restore the data, tokenizer and ftbench version of the run: an artifact is checked on the same rows"
        raise UserError(what, config.data.id, do, "export.data_changed")
    return ScoredRows(rows, items)


def rendered_by(
    tokenizer: Any, frozen: FrozenRun, items: list[EvaluationItem]
) -> tuple[list[EvaluationItem], list[Defect]]:
    """The items as an artifact's tokenizer and template render them, and a defect if any prompt differs."""
    config = frozen.config
    rows = prepare(config.data, config.train.max_length, tokenizer)
    by_place = {item.row.where: item for item in rows.test_items}
    found = [by_place.get(item.row.where) for item in items]
    different = [
        place
        for place, (item, other) in enumerate(zip(items, found, strict=True))
        if other is None or other.row.prompt != item.row.prompt
    ]
    rendered = [
        item if other is None else replace(other, references=item.references)
        for item, other in zip(items, found, strict=True)
    ]
    if not different:
        return rendered, []
    first = items[different[0]].row.where
    text = f"tokenizer or chat template give other prompt tokens in {len(different)} of {len(items)} test items"
    return rendered, [Defect("export.other_prompts", f"{text} (first: {first})")]
