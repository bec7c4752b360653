"""Rows per second of `tokenize_all` in one process, for conversations of four shapes.

    python tests/bench/data_tokens.py [--model smollm2-135m] [--rows 20000] [--shape single system turns tools]

Rows are generated and distinct; prompts and answers have the lengths of short instruction data.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from engine.config import schema
from engine.data.conversation import Example
from engine.data.tokens import Row, tokenize_all
from engine.methods.tokenizer import load_tokenizer

TEXT = (
    "the of and to in is you that it he was for on are as with his they at be this have from one had by word but not "
    "what all were when your can said there use an each which she do how their if will up other about out many then "
    "card payment transfer account balance refund number Don't café naïve 42 1984 3.14 hello? okay, well: (maybe)"
)
WORDS = TEXT.split()
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a place.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CHUNK = 4096


def words(source: random.Random, low: int, high: int) -> str:
    return " ".join(source.choices(WORDS, k=source.randint(low, high)))


def single(source: random.Random) -> list[dict[str, Any]]:
    """The common row: one question, one answer."""
    return [{"role": "user", "content": words(source, 8, 40)}, {"role": "assistant", "content": words(source, 4, 30)}]


def system(source: random.Random) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "You answer questions of bank customers."}, *single(source)]


def turns(source: random.Random) -> list[dict[str, Any]]:
    return [turn for _ in range(source.randint(2, 5)) for turn in single(source)]


def tools(source: random.Random) -> list[dict[str, Any]]:
    city = source.choice(WORDS)
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": city}}}
    return [
        {"role": "user", "content": words(source, 8, 20)},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": words(source, 3, 8)},
        {"role": "assistant", "content": words(source, 4, 20)},
    ]


SHAPES: dict[str, Callable[[random.Random], list[dict[str, Any]]]] = {
    "single": single,
    "system": system,
    "turns": turns,
    "tools": tools,
}


def examples(shape: str, rows: int) -> list[Example]:
    source = random.Random(0)
    given = [TOOL] if shape == "tools" else None
    return [Example(SHAPES[shape](source), None, None, f"line {number}", given) for number in range(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--template", default=None, help="model.chat_template")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--shape", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    options = parser.parse_args()
    tokenizer = load_tokenizer(schema.Model(id=options.model, chat_template=options.template))
    print(f"{options.model}, {options.rows:,} rows of each shape, chunks of {CHUNK:,}, one process")
    for shape in options.shape:
        rows = examples(shape, options.rows)
        started, cpu = time.perf_counter(), time.process_time()
        results = [
            row
            for start in range(0, len(rows), CHUNK)
            for row in tokenize_all(rows[start : start + CHUNK], tokenizer, 1024)
        ]
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        tokenized = [row for row in results if isinstance(row, Row)]
        tokens = sum(len(row.input_ids) for row in tokenized)
        print(
            f"{shape:8} {len(rows) / wall:9,.0f} rows/s ({len(rows) / cpu:9,.0f} rows per CPU second), "
            f"{tokens / max(1, len(tokenized)):.0f} tokens/row, {len(tokenized):,} rows tokenized"
        )


if __name__ == "__main__":
    main()
