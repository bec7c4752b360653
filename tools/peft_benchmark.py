"""Write the data of the preset `peft-benchmark`: MetaMathQA for training, the 1,319 items of GSM8K for testing.

    python tools/peft_benchmark.py FOLDER --metamath MetaMathQA-395K.json --gsm8k test.jsonl
    ftbench ladder peft-benchmark --data FOLDER --seeds 3

Both files are as their authors publish them: meta-math/MetaMathQA (MIT) and openai/grade-school-math (MIT). Training
rows longer than 1,300 characters are left out, as in PEFT's `method_comparison/MetaMathQA`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MAX_CHARACTERS = 1300


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON list or of JSON lines."""
    text = file.read_text("utf-8")
    if text.lstrip().startswith("["):
        yield from json.loads(text)
    else:
        yield from (json.loads(line) for line in text.splitlines() if line.strip())


def training_rows(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """`query` and `response` of the rows that are short enough."""
    for row in rows:
        if len(f"{row['query']} {row['response']}") <= MAX_CHARACTERS:
            yield {"query": row["query"], "response": row["response"]}


def test_rows(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """GSM8K's questions and answers under the names of MetaMathQA."""
    return ({"query": row["question"], "response": row["answer"]} for row in rows)


def write(folder: Path, metamath: Path, gsm8k: Path) -> None:
    """Write `train.jsonl` and `test.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", training_rows(rows_of(metamath))), ("test", test_rows(rows_of(gsm8k)))):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metamath", type=Path, required=True)
    parser.add_argument("--gsm8k", type=Path, required=True)
    given = parser.parse_args()
    write(given.folder, given.metamath, given.gsm8k)
