"""`predictions.jsonl`: each test item with its prompt, its accepted answers and what base and tuned model answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from engine.contract.files import write_atomically
from engine.data.items import EvaluationItem
from engine.evaluation.score import Item

Who = Literal["base", "tuned"]


def write_items(
    path: Path,
    items: Sequence[EvaluationItem],
    prompts: Sequence[str],
    base: Sequence[Item] | None,
    tuned: Sequence[Item] | None,
) -> None:
    """One line per test item, in order; written whole or not at all. `references` only where there are several."""
    lines = []
    for number, item in enumerate(items):
        several = {"references": list(item.references)} if len(item.references) > 1 else {}
        line: dict[str, Any] = {
            "item": number,
            "where": item.row.where,
            "prompt": prompts[number],
            "target": item.target,
            **several,
            "base": _plain(base[number]) if base else None,
            "tuned": _plain(tuned[number]) if tuned else None,
        }
        lines.append(msgspec.json.encode(line))
    write_atomically(path, b"\n".join([*lines, b""]))


def read_items(path: Path, items: Sequence[EvaluationItem], prompts: Sequence[str], who: Who) -> list[Item] | None:
    """Results that an earlier process of this run wrote; None where there are none, or for other items."""
    try:
        lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    same = len(lines) == len(items) and all(
        line["prompt"] == prompt and tuple(line.get("references", [line["target"]])) == item.references
        for line, prompt, item in zip(lines, prompts, items, strict=True)
    )
    if not same or any(not line[who] for line in lines):
        return None
    return [msgspec.convert(line[who], Item) for line in lines]


def _plain(item: Item) -> dict[str, Any]:
    plain = {"nll": item.nll, "tokens": item.tokens, "output": item.output, "scores": item.scores}
    return plain if item.weight is None else {**plain, "weight": item.weight}
