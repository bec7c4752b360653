"""General text, whose loss before and after training measures forgetting."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from engine.assets import general_file, tiny_general_file
from engine.config.errors import UserError
from engine.config.schema import Config
from engine.data.rows import IGNORE_INDEX, Row

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
        problem, hint = f"cannot read the file: {error}", "set it to a UTF-8 text file"
        raise UserError(
            problem, f"evaluation.forgetting_text = {setting!r}", hint, code="data.general_unreadable"
        ) from error
    rows = []
    for passage in map(str.strip, text.split("\n\n")):
        ids = list(tokenizer(passage, verbose=False)["input_ids"])[:MAX_PASSAGE_TOKENS] if passage else []
        if len(ids) >= 2:
            labels = [IGNORE_INDEX, *ids[1:]]
            rows.append(Row(ids, labels, ids[:1], passage, path.name, False, (), len(ids), len(ids) - 1))
    if not rows:
        problem, hint = "no passage of at least 2 tokens", "add text; blank lines separate passages"
        raise UserError(problem, str(path), hint, code="data.general_empty")
    name = path.name if setting != "auto" else "tiny's own kind" if config.model.id == "tiny" else "English prose"
    return f"{name} ({len(rows)} passages, sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]})", rows
