"""Refuse to train on rows that differ from the checked rows, or from those of the run's first start."""

from __future__ import annotations

from engine.config.errors import UserError
from engine.config.text import amount
from engine.data.counts import SPLITS
from engine.data.prepare import Prepared
from engine.runs import events


def refuse_unchecked(rows: Prepared, checked: str) -> None:
    """Raise UserError if the rows differ from those checked before launch (`checked` is '' without a check)."""
    if not checked or rows.fingerprint == checked:
        return
    what = f"the rows differ from those that were checked before launch (now {_counts(_now(rows))})"
    do = "check the data again: the data, the tokenizer or the chat template has changed; then start the run again"
    raise UserError(what, rows.about["source"], do, code="data.changed_since_check")


def refuse_other_than_first(rows: Prepared, first: events.DataPrepared | None) -> None:
    """Raise UserError if a resumed run would train on other rows than at its first start."""
    if first is None or rows.fingerprint == first.fingerprint:
        return
    before, now = {"train": first.train, "validation": first.validation, "tokens": first.tokens}, _now(rows)
    changed = [f"{_count(name, before[name])}, now {now[name]:,}" for name in before if before[name] != now[name]]
    details = "; ".join(changed) or "equal counts, different content"
    what = f"the rows differ from those of the run's first start ({details})"
    do = "restore the data, tokenizer, chat template and ftbench version, or start a new run"
    raise UserError(what, rows.about["source"], do, code="data.changed_since_start")


def _now(rows: Prepared) -> dict[str, int]:
    counts = {name: len(getattr(rows, name)) for name in SPLITS}
    return {**counts, "tokens": int(rows.train.lengths.sum())}


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(_count(name, count) for name, count in counts.items())


def _count(name: str, count: int) -> str:
    return amount(count, "training token" if name == "tokens" else f"{name} row")
