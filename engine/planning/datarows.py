"""The rows to plan for, from the data itself: as the worker prepares it, with the model's own tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.contract import schema
from engine.contract.errors import UserError
from engine.data.prepare import prepare
from engine.data.source import EMBEDDED
from engine.data.tokens import Row
from engine.methods.loading import attention
from engine.methods.locate import TOKENIZER_FILES, Located
from engine.methods.machine import Machine
from engine.methods.tokenizer import load_tokenizer
from engine.planning.estimate import Rows
from engine.planning.outlook import Work
from engine.training.batches import Schedule, answer_tokens, choose_layout

CHEAP = 48 << 20
"""Bytes of files that are read for a plan: some ten seconds of tokenizing."""


@dataclass(frozen=True)
class FromData:
    """What data means for a plan."""

    rows: Rows
    """A step of rows as long as the longest, each with as many trained tokens as the row with most."""
    work: Work
    packing: str
    """As `auto` comes out for these rows."""


def read_rows(config: schema.Config, machine: Machine, given: bool) -> FromData | str:
    """From the training rows, or in words why they are not read. `given`: somebody named the data.

    Raises UserError for data that was given and cannot be trained on.
    """
    if (why := _costly(config.data)) or (why := _no_tokenizer(config.model)):
        return why
    folder = Path(config.model.id)
    located = Located(str(folder), True) if (folder / "config.json").is_file() else None  # no weights are wanted here
    try:
        rows = prepare(config.data, config.train.max_length, load_tokenizer(config.model, located)).train
    except UserError as error:
        if given:
            raise
        return error.line
    return _from(rows, config, machine) if rows else "there are no training rows"


def _from(rows: list[Row], config: schema.Config, machine: Machine) -> FromData:
    train, lengths = config.train, [len(row.input_ids) for row in rows]
    schedule = Schedule.of(len(rows), train.batch, train.epochs, train.steps, train.seed)
    epochs, rest = divmod(schedule.steps, schedule.per_epoch)
    seen = epochs * len(rows) + rest * train.batch
    varlen = attention(config.model, machine) == "flash_attention_2"
    packing = train.packing if varlen else choose_layout(rows, train.packing, machine.device, varlen).packing
    return FromData(
        Rows(count=min(train.batch, len(rows)), length=max(lengths), answer=max(1, *map(answer_tokens, rows))),
        Work(rows=len(rows), steps=schedule.steps, tokens=round(seen * sum(lengths) / len(rows))),
        packing,
    )


def _costly(data: schema.Data) -> str:
    if data.id in EMBEDDED:
        return ""
    path = Path(data.id).expanduser()
    if not path.exists():
        return "" if path.suffix or data.id.count("/") != 1 else "data on the Hub is not fetched for a plan"
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return f"{size >> 20:,} MiB of data are not read for a plan" if size > CHEAP else ""


def _no_tokenizer(model: schema.Model) -> str:
    folder = Path(model.id)
    if (folder / "config.json").is_file() and not any((folder / name).exists() for name in TOKENIZER_FILES):
        return "the model folder has no tokenizer to count tokens with"
    return ""
