"""`predictions.jsonl`: each test item with its prompt, its target and what base and tuned model made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from engine.contract.files import write_atomically
from engine.data.tokens import Row
from engine.evaluation.score import Item

Who = Literal["base", "tuned"]


def write_items(
    path: Path,
    rows: Sequence[Row],
    prompts: Sequence[str],
    base: Sequence[Item] | None,
    tuned: Sequence[Item] | None,
) -> None:
    """One line per test row, in order; written whole or not at all."""
    lines = []
    for number, row in enumerate(rows):
        line: dict[str, Any] = {
            "item": number,
            "where": row.where,
            "prompt": prompts[number],
            "target": row.target,
            "base": _plain(base[number]) if base else None,
            "tuned": _plain(tuned[number]) if tuned else None,
        }
        lines.append(msgspec.json.encode(line))
    write_atomically(path, b"\n".join([*lines, b""]))


def read_items(path: Path, rows: Sequence[Row], prompts: Sequence[str], who: Who) -> list[Item] | None:
    """The answers of an earlier worker of this run; None where there are none, or they are damaged or of other rows."""
    try:
        lines = [msgspec.json.decode(line, type=_Line) for line in path.read_bytes().split(b"\n") if line]
    except (OSError, ValueError, RecursionError):
        return None
    same = len(lines) == len(rows) and all(
        line.prompt == prompt and line.target == row.target
        for line, prompt, row in zip(lines, prompts, rows, strict=True)
    )
    items = [item for line in lines if (item := getattr(line, who)) is not None]
    return items if same and len(items) == len(lines) else None


class _Line(msgspec.Struct):
    prompt: str
    target: str
    base: Item | None = None
    tuned: Item | None = None


def _plain(item: Item) -> dict[str, Any]:
    return {"nll": item.nll, "tokens": item.tokens, "output": item.output, "scores": item.scores}
