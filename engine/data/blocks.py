"""Split long documents into blocks of at most `max_length` tokens (`data.long = "split"`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.formats import DetectedFormat
from engine.data.rows import RawRow
from engine.data.source import RowStream

DOCUMENT = "document"
"""Column that names the document of a block: its blocks stay in one split."""


def split_format(detected: DetectedFormat, data: Data, tokenizer: Any, max_length: int) -> DetectedFormat:
    """The format of the blocks. Raises UserError if the rows are not plain text, or the tokenizer knows no places."""
    if detected.name != "text" or data.separator is not None:
        problem = "data.long = split is for plain text alone"
        what = "a separator" if detected.name == "text" else f"the format {detected.name}"
        hint = f"the data has {what}; use truncate or leave_out"
        raise UserError(problem, "data.long", hint, code="data.split_rows")
    if not getattr(tokenizer, "is_fast", False):
        hint = "use truncate or leave_out"
        raise UserError("data.long = split needs a fast tokenizer", "data.long", hint, code="data.slow_tokenizer")
    why = f"{detected.why}; documents are split into blocks of at most {max_length:,} tokens"
    group = detected.group or DOCUMENT
    return replace(detected, group=group, why=why, roles={group: "group", **detected.roles})


def in_blocks(rows: RowStream, detected: DetectedFormat, tokenizer: Any, max_length: int) -> RowStream:
    """The rows with each long text as several rows."""
    special = len(tokenizer("")["input_ids"]) + (tokenizer.eos_token_id is not None)
    room = max(max_length - special, 1)
    parts = [replace(part, load=partial(_blocks, rows.rows_of(part), detected, tokenizer, room)) for part in rows.parts]
    return RowStream(parts, rows.notes)


def _blocks(load: Any, detected: DetectedFormat, tokenizer: Any, room: int) -> Iterator[RawRow]:
    template = detected.parts["text"]
    for raw in load():
        text = template.fill(raw.values)
        document = raw.values.get(detected.group) or raw.where
        pieces = _pieces(text, tokenizer, room) if isinstance(text, str) else [text]
        if len(pieces) == 1:
            yield RawRow({**raw.values, detected.group: document}, raw.where)
            continue
        for number, piece in enumerate(pieces, 1):
            # The piece is in the first column of the text, so that a template writes nothing around it.
            values = dict.fromkeys(template.columns, "") | {template.columns[0]: piece}
            yield RawRow({**raw.values, **values, detected.group: document}, f"{raw.where} block {number}")


def _pieces(text: str, tokenizer: Any, room: int) -> list[str]:
    """The text in pieces of at most `room` tokens each. Their end to end is the text, without pieces of white space."""
    pieces = []
    while text:
        starts = [start for start, _ in _offsets(text, tokenizer)]
        if len(starts) <= room:
            pieces.append(text)
            break
        count = room
        # The tokens of a piece alone can differ at its end from those in the text.
        while count > 1 and len(_offsets(text[: starts[count]], tokenizer)) > room:
            count -= 1
        end = starts[count] or len(text)
        pieces.append(text[:end])
        text = text[end:]
    return [piece for piece in pieces if piece.strip()] or [text]


def _offsets(text: str, tokenizer: Any) -> list[tuple[int, int]]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    return offsets
