"""ftbench's ids and masks of the shapes, and their differences from a peer's."""

from __future__ import annotations

import hashlib
from difflib import SequenceMatcher
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from job import Json, mask
from shapes import Shape

from engine.config.schema import Data
from engine.data.conversation import to_example
from engine.data.detection import detect
from engine.data.parallel import in_child
from engine.data.rows import Example, RawRow, Row
from engine.data.tokens import RowTokenizer

LINE_FEED = ["loss only in theirs: '\\n'"]
"""The difference that every ChatML template causes; see `explained.py`."""


def template_text(shape: Shape, tokenizer: Any) -> str:
    """The Jinja text of the shape's template. Those of model families are read from the installed trl."""
    if shape.template == "own":
        return str(tokenizer.chat_template)
    spec = find_spec("trl")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the templates of Qwen are read from trl: install the test extra")
    name = shape.template.replace(".", "_")
    return Path(spec.submodule_search_locations[0], "chat_templates", f"{name}.jinja").read_text("utf-8")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def ours(shape: Shape, tokenizer: Any) -> list[Json | None]:
    """Ids and mask of every row by the code that training uses; None for a row that is left out."""
    tokenizer.chat_template = template_text(shape, tokenizer)
    raws = [RawRow(dict(row), f"row {number}") for number, row in enumerate(shape.rows, 1)]
    detected = detect(raws, Data(id="rows", **shape.options))
    examples = [made for raw in raws if isinstance(made := to_example(raw, detected), Example)]
    tokenized = in_child(lambda: list(RowTokenizer(tokenizer, shape.max_length).rows(examples)))
    rows = {row.where: row for row in tokenized}
    return [_ids_and_mask(rows.get(raw.where)) for raw in raws]


def _ids_and_mask(row: Any) -> Json | None:
    if not isinstance(row, Row):
        return None
    trained = row.labels if row.weights is None else _weighted(row)
    return {"ids": row.input_ids, "mask": mask(trained)}


def _weighted(row: Row) -> list[int]:
    assert row.weights is not None
    return [label if weight else -100 for label, weight in zip(row.labels, row.weights, strict=True)]


def differences(our: Json | None, their: Json | None, tokenizer: Any) -> list[str]:
    """Every token span in which two preparations of a row differ, in order; empty if they are equal."""
    if our is None or their is None:
        return [] if our is their else ["row left out by " + ("ours" if our is None else "theirs")]
    spans = []
    matcher = SequenceMatcher(None, our["ids"], their["ids"], autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            spans += _masks(our["ids"][a:b], our["mask"][a:b], their["mask"][c:d], tokenizer)
        else:
            spans += _spans("ours", our["ids"][a:b], our["mask"][a:b], tokenizer)
            spans += _spans("theirs", their["ids"][c:d], their["mask"][c:d], tokenizer)
    return spans


def _masks(ids: list[int], our: str, their: str, tokenizer: Any) -> list[str]:
    """Spans of equal tokens that are in the loss of only one of the two."""
    spans, place = [], 0
    for pair, group in groupby(zip(our, their, strict=True)):
        size = len(list(group))
        if pair[0] != pair[1]:
            who = "ours" if pair[0] == "1" else "theirs"
            spans.append(f"loss only in {who}: {_text(ids[place : place + size], tokenizer)}")
        place += size
    return spans


def _spans(who: str, ids: list[int], masks: str, tokenizer: Any) -> list[str]:
    """Spans of tokens in only one of the two."""
    spans, place = [], 0
    for bit, group in groupby(masks):
        size = len(list(group))
        how = "in the loss" if bit == "1" else "masked"
        spans.append(f"only in {who} ({how}): {_text(ids[place : place + size], tokenizer)}")
        place += size
    return spans


def _text(ids: list[int], tokenizer: Any) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return repr(text if len(text) <= 120 else f"{text[:80]} … {text[-30:]}")
