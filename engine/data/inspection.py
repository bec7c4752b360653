"""What one looks at before training: the report of a check, samples token by token, the lengths, the template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.contract.schema import Data
from engine.data.account import SPLITS
from engine.data.check import report, sample
from engine.data.lengths import histogram
from engine.data.prepare import Survey, survey
from engine.data.rendering import has_template, special_tokens
from engine.data.tokens import Row

MOST_TOKENS = 60_000
"""Of one split's samples together: what a screen can be sent at once."""
ODD = 40
"""Samples of rows that were cut or noticed."""


def inspect(
    data: Data, max_length: int, tokenizer: Any, rows: int, most: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Everything about a data set at once, by one reading of it. JSON-able.

    `samples` are the first `rows` of each split, and under `noticed` the first that were cut or have notes; a sample
    longer than `most` tokens is told by its ends. Raises UserError as `check` does.
    """
    done = survey(data, max_length, tokenizer, progress)
    noticed = [row for name in SPLITS for row in done.rows[name] if row.cut or row.notes]
    specials = special_tokens(tokenizer)[0]
    shown: dict[str, Sequence[Row]] = {name: done.rows[name][:rows] for name in SPLITS}
    shown["noticed"] = noticed[:ODD]
    return {
        "report": report(done, max_length, tokenizer),
        "samples": {name: _few(some, tokenizer, specials, most) for name, some in shown.items()},
        "noticed": len(noticed),
        "histograms": {name: _lengths(done, name, max_length) for name in SPLITS},
        "chat_template": str(tokenizer.chat_template) if has_template(tokenizer) else None,
        "special_tokens": {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token},
    }


def _few(rows: Sequence[Row], tokenizer: Any, specials: frozenset[int], most: int) -> list[dict[str, Any]]:
    """As many of the rows as MOST_TOKENS allows, one at least."""
    samples: list[dict[str, Any]] = []
    told = 0
    for row in rows:
        told += min(len(row.input_ids), most)
        if samples and told > MOST_TOKENS:
            break
        samples.append(sample(row, tokenizer, specials, most))
    return samples


def _lengths(done: Survey, name: str, max_length: int) -> dict[str, Any] | None:
    lost = [problem.length for problem in done.problems[name] if problem.length > max_length]
    return histogram([row.length for row in done.rows[name]], lost, max_length)
