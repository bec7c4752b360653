"""Caveats on settings of adapters that are known to cost quality, from what the ladder's runs used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.config.lora_advice import TrainedRung, lora_notices
from engine.ladder.rung_format import rung_title
from engine.runs.ladder import Ladder
from engine.runs.rung_results import RungResult


def advice_sentences(ladder: Ladder, rows: Sequence[RungResult]) -> list[str]:
    """One sentence per warning about the trained rungs."""
    work = ladder.work
    rungs = {
        rung_title(row.name): TrainedRung(
            row.method,
            row.learning_rate,
            int(_setting(ladder, row.name, "train.batch") or 0),
            _setting(ladder, row.name, "adapter.target_modules") or "all-linear",
            row.trainable or None,
            (work.answer_tokens or None) if work else None,
        )
        for row in rows
    }
    return [f"{notice.text[:1].upper()}{notice.text[1:]}." for notice in lora_notices(rungs)]


def _setting(ladder: Ladder, rung: str, key: str) -> Any:
    """The rung's value of a setting; None if it does not read it, and in older ladders."""
    return ladder.differs.get(key, {}).get(rung, ladder.config.get(key))
