"""Shared by every program in this folder: read the shapes from a job file, write ids and labels of each row."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Tokens = tuple[list[int], list[int]]
"""Input ids and labels; -100 is not in the loss."""


class NotSupported(Exception):
    """The tool cannot read rows of this form; the message is the reason."""


def main(package: str, prepare: Callable[[Json, Json, str, Path], Tokens | None]) -> None:
    """Prepare every row of the job separately, so that a dropped row does not shift the others.

    `prepare` takes the shape, one row, the tokenizer's folder and a folder for files. It returns None if the tool drops
    the row.
    """
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    folder = Path(sys.argv[2]).parent
    shapes = {shape["name"]: _shape(shape, job["tokenizer"], folder, prepare) for shape in job["shapes"]}
    Path(sys.argv[2]).write_text(json.dumps({"version": version(package), "shapes": shapes}), "utf-8")


def _shape(shape: Json, tokenizer: str, folder: Path, prepare: Callable[..., Tokens | None]) -> Json:
    rows: list[Json | None] = []
    for number, row in enumerate(shape["rows"]):
        place = folder / f"{shape['name'].replace(' ', '-')}-{number}"
        place.mkdir()
        try:
            made = prepare(shape, row, tokenizer, place)
        except NotSupported as reason:
            return {"unsupported": str(reason)}
        except Exception as error:  # noqa: BLE001 - any exception is the peer's result for this row
            return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        rows.append(None if made is None else {"ids": made[0], "mask": mask(made[1])})
    return {"rows": rows}


def mask(labels: list[int]) -> str:
    """Labels as one character per token: 1 in the loss, 0 otherwise."""
    return "".join("0" if label == -100 else "1" for label in labels)


def load_tokenizer(folder: str, template: str) -> Any:
    """The job's tokenizer with the shape's chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def as_turns(row: Json) -> Json:
    """A row of any chat form as messages with role and content, for tools that read no other form."""
    if "messages" in row:
        return row
    if "conversations" in row:
        names = {"human": "user", "gpt": "assistant", "system": "system"}
        return {"messages": [{"role": names[t["from"]], "content": t["value"]} for t in row["conversations"]]}
    if "prompt" in row:
        return {"messages": [_turn("user", row["prompt"]), _turn("assistant", row["completion"])]}
    question = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
    earlier = [_turn(role, text) for pair in row.get("history", []) for role, text in zip(_PAIR, pair, strict=True)]
    return {"messages": [*earlier, _turn("user", question), _turn("assistant", row["output"])]}


_PAIR = ("user", "assistant")


def _turn(role: str, content: str) -> Json:
    return {"role": role, "content": content}
