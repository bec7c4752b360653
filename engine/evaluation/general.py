"""Forgetting: the loss on held-out general text, before training and after it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.assets import general_file, tiny_general_file
from engine.config.errors import UserError
from engine.config.schema import Config
from engine.data.tokens import IGNORED, Row
from engine.evaluation.score import row_losses
from engine.runs.result import General
from engine.training.batches import Packing, answer_tokens

LONGEST = 512
"""Tokens of a passage that count; what follows is left out."""


def general_rows(config: Config, tokenizer: Any) -> tuple[str, list[Row]]:
    """(name of the text, one row per passage, every token but the first predicted); ("", []) where none is wanted.

    Raises UserError for a file that cannot be read or holds no passage.
    """
    wish = config.evaluation.forgetting_text
    if wish == "none":
        return "", []
    path = Path(wish)
    if wish == "auto":
        path = tiny_general_file() if config.model.id == "tiny" else general_file()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read: {error}", f"evaluation.forgetting_text = {wish!r}", "a UTF-8 text file"
        ) from error
    rows = [row for passage in text.split("\n\n") if (row := _row(passage.strip(), path.name, tokenizer))]
    if not rows:
        raise UserError("no passage of two tokens or more", str(path), "blank lines part the passages")
    name = path.name if wish != "auto" else "tiny's own kind" if config.model.id == "tiny" else "English prose"
    return f"{name} ({len(rows)} passages, sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]})", rows


def general_losses(model: torch.nn.Module, rows: Sequence[Row], layout: Packing, pad: int, device: str) -> list[float]:
    """Summed negative log-likelihood of each passage, nats."""
    return [loss.nll for loss in row_losses(model, rows, layout, pad, device)]


def general_result(text: str, rows: Sequence[Row], before: list[float], after: list[float]) -> General:
    """What `result.json` keeps of it."""
    return General(text=text, tokens=[answer_tokens(row) for row in rows], before=before, after=after)


def _row(passage: str, name: str, tokenizer: Any) -> Row | None:
    ids = list(tokenizer(passage, verbose=False)["input_ids"])[:LONGEST] if passage else []
    if len(ids) < 2:
        return None
    labels = [IGNORED, *ids[1:]]
    return Row(ids, labels, ids[:1], passage, name, False, (), len(ids), len(ids) - 1)
