"""Refuses rows that differ from those a check has shown, or from those a run has begun to train on."""

from __future__ import annotations

from engine.config.errors import UserError
from engine.config.text import amount
from engine.data.counts import SPLITS
from engine.data.prepare import Prepared
from engine.runs import events


def refuse_unchecked(rows: Prepared, checked: str) -> None:
    """UserError where the rows are not those that were checked before the launch ('': they were not checked)."""
    if not checked or rows.fingerprint == checked:
        return
    what = f"the rows differ from those that were checked before the launch; there are now {_counts(_now(rows))}"
    do = "the data, the tokenizer or the chat template has changed since: check the data and start the run again"
    raise UserError(what, rows.about["source"], do, code="data.changed_since_check")


def refuse_other_than_first(rows: Prepared, first: events.Data | None) -> None:
    """UserError where a resumed run would go on with other rows than those of its first start."""
    if first is None or rows.fingerprint == first.fingerprint:
        return
    before, now = {"train": first.train, "validation": first.validation, "tokens": first.tokens}, _now(rows)
    changed = [f"{_count(name, before[name])}, now {now[name]:,}" for name in before if before[name] != now[name]]
    what = f"the rows differ from those this run began with: {'; '.join(changed) or 'the same counts, other content'}"
    do = "restore the data, tokenizer, chat template and ftbench version, or start a new run"
    raise UserError(what, rows.about["source"], do, code="data.changed_since_start")


def _now(rows: Prepared) -> dict[str, int]:
    counts = {name: len(getattr(rows, name)) for name in SPLITS}
    return {**counts, "tokens": int(rows.train.lengths.sum())}


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(_count(name, count) for name, count in counts.items())


def _count(name: str, count: int) -> str:
    return amount(count, "training token" if name == "tokens" else f"{name} row")
