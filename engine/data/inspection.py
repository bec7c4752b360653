"""What one looks at before training: the report of a check, samples token by token, the lengths, the template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.config.schema import Data
from engine.data.building import Progress
from engine.data.check import Preflight, no_demands, report, sample
from engine.data.counts import SPLITS
from engine.data.lengths import histogram
from engine.data.preparation import Preparation
from engine.data.prepare import preparation, quiet
from engine.data.rendering import has_template, special_tokens
from engine.data.tokenized import TokenizedRows
from engine.data.tokens import Row

MOST_TOKENS = 60_000
"""Of one split's samples together: what a screen can be sent at once."""
ODD = 40
"""Samples of rows that were cut or noticed."""


def inspect(
    data: Data,
    max_length: int,
    tokenizer: Any,
    rows: int,
    most: int,
    progress: Progress = quiet,
    preflight: Preflight = no_demands,
) -> dict[str, Any]:
    """Everything about a data set at once, from one preparation. JSON-able.

    `samples` are the first `rows` of each split, and under `noticed` the first that were cut or have notes; of a sample
    longer than `most` tokens only the ends are given. Raises UserError as `check` does.
    """
    done = preparation(data, max_length, tokenizer, progress)
    odd = {name: _odd(done.rows[name]) for name in SPLITS}
    specials = special_tokens(tokenizer)[0]
    shown: dict[str, Sequence[Row]] = {name: done.rows[name][:rows] for name in SPLITS}
    shown["noticed"] = [row for some in odd.values() for row in some[:ODD]][:ODD]
    return {
        "report": report(done, max_length, preflight),
        "samples": {name: _few(some, tokenizer, specials, most) for name, some in shown.items()},
        "noticed": sum(map(len, odd.values())),
        "histograms": {name: _lengths(done, name, max_length) for name in SPLITS},
        "chat_template": str(tokenizer.chat_template) if has_template(tokenizer) else None,
        "special_tokens": {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token},
    }


def _odd(rows: TokenizedRows) -> TokenizedRows:
    """The rows that were cut or have notes."""
    noted = np.array([bool(notes) for notes in rows.columns.tables["notes"]], dtype=bool)
    return rows.take(np.flatnonzero(rows.cut | noted[rows.note_numbers]))


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


def _lengths(done: Preparation, name: str, max_length: int) -> dict[str, Any] | None:
    lost = done.lengths_left_out(name)
    return histogram(done.rows[name].lengths_before_cut, lost[lost > max_length], max_length)
