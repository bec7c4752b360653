"""Everything to inspect before training: report, samples token by token, row lengths, chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.config.schema import Data
from engine.data.building import Progress
from engine.data.check import Preflight, no_requirements, report, sample
from engine.data.counts import SPLITS
from engine.data.lengths import histogram
from engine.data.preparation import Preparation
from engine.data.prepare import prepare_unchecked, quiet
from engine.data.rendering import has_template, special_tokens
from engine.data.tokenized import TokenizedRows
from engine.data.tokens import Row

MAX_TOKENS = 60_000
"""Maximum total tokens of the samples of one split: they are sent to the screen at once."""
MAX_NOTICED = 40
"""Maximum number of samples with notes."""


def inspect(
    data: Data,
    max_length: int,
    tokenizer: Any,
    rows: int,
    max_tokens: int,
    progress: Progress = quiet,
    preflight: Preflight = no_requirements,
) -> dict[str, Any]:
    """Report, samples, length histograms and template of a dataset, from one preparation. JSON-able.

    `samples` are the first `rows` of each split, and under `noticed` the first that were truncated or have notes. For a
    sample longer than `max_tokens` only the ends are given. Raises UserError as `check` does.
    """
    done = prepare_unchecked(data, max_length, tokenizer, progress)
    noticed = {name: _noticed(done.rows[name]) for name in SPLITS}
    specials = special_tokens(tokenizer)[0]
    shown: dict[str, Sequence[Row]] = {name: done.rows[name][:rows] for name in SPLITS}
    shown["noticed"] = [row for rows_ in noticed.values() for row in rows_[:MAX_NOTICED]][:MAX_NOTICED]
    return {
        "report": report(done, max_length, preflight),
        "samples": {name: _samples(rows_, tokenizer, specials, max_tokens) for name, rows_ in shown.items()},
        "noticed": sum(map(len, noticed.values())),
        "histograms": {name: _lengths(done, name, max_length) for name in SPLITS},
        "chat_template": str(tokenizer.chat_template) if has_template(tokenizer) else None,
        "special_tokens": {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token},
    }


def _noticed(rows: TokenizedRows) -> TokenizedRows:
    """The rows that were truncated or have notes."""
    noted = np.array([bool(notes) for notes in rows.columns.tables["notes"]], dtype=bool)
    return rows.take(np.flatnonzero(rows.cut | noted[rows.note_numbers]))


def _samples(rows: Sequence[Row], tokenizer: Any, specials: frozenset[int], max_tokens: int) -> list[dict[str, Any]]:
    """Samples of at most MAX_TOKENS tokens in total, but at least one."""
    samples: list[dict[str, Any]] = []
    total = 0
    for row in rows:
        total += min(len(row.input_ids), max_tokens)
        if samples and total > MAX_TOKENS:
            break
        samples.append(sample(row, tokenizer, specials, max_tokens))
    return samples


def _lengths(done: Preparation, name: str, max_length: int) -> dict[str, Any] | None:
    lost = done.lengths_left_out(name)
    return histogram(done.rows[name].lengths_before_cut, lost[lost > max_length], max_length)
