"""Measure forgetting: the loss on held-out general text before and after training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from engine.assets import general_file, tiny_general_file
from engine.config.errors import UserError
from engine.config.schema import Config
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.score import row_losses
from engine.runs.result import General
from engine.training.collation import Packing, answer_tokens

MAX_PASSAGE_TOKENS = 512
"""Longer passages are truncated."""


def general_rows(config: Config, tokenizer: Any) -> tuple[str, list[Row]]:
    """(name of the text, one row per passage, which predicts every token but the first); ("", []) if disabled.

    Raises UserError for a file that cannot be read or contains no passage.
    """
    setting = config.evaluation.forgetting_text
    if setting == "none":
        return "", []
    path = Path(setting)
    if setting == "auto":
        path = tiny_general_file() if config.model.id == "tiny" else general_file()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what, do = f"cannot read the file: {error}", "set it to a UTF-8 text file"
        raise UserError(
            what, f"evaluation.forgetting_text = {setting!r}", do, code="data.general_unreadable"
        ) from error
    rows = [row for passage in text.split("\n\n") if (row := _row(passage.strip(), path.name, tokenizer))]
    if not rows:
        what, do = "no passage of at least 2 tokens", "add text; blank lines separate passages"
        raise UserError(what, str(path), do, code="data.general_empty")
    name = path.name if setting != "auto" else "tiny's own kind" if config.model.id == "tiny" else "English prose"
    return f"{name} ({len(rows)} passages, sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]})", rows


def general_losses(
    model: torch.nn.Module,
    rows: Sequence[Row],
    packing: Packing,
    pad: int,
    device: str,
    progress: Callable[[int], None] = lambda done: None,
) -> list[float]:
    """Summed negative log-likelihood of each passage in nats; `progress` is called with the passages done."""
    return [loss.nll for loss in row_losses(model, rows, packing, pad, device, progress)]


def general_result(text: str, rows: Sequence[Row], before: list[float], after: list[float]) -> General:
    """The losses as stored in `result.json`."""
    return General(text=text, tokens=[answer_tokens(row) for row in rows], before=before, after=after)


def _row(passage: str, name: str, tokenizer: Any) -> Row | None:
    ids = list(tokenizer(passage, verbose=False)["input_ids"])[:MAX_PASSAGE_TOKENS] if passage else []
    if len(ids) < 2:
        return None
    labels = [IGNORE_INDEX, *ids[1:]]
    return Row(ids, labels, ids[:1], passage, name, False, (), len(ids), len(ids) - 1)
