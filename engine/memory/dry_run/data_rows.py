"""The rows to plan for, from the data itself: as the worker prepares it, with the model's own tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import schema
from engine.config.errors import UserError
from engine.data.items import all_rows, sampled, sampled_rows
from engine.data.prepare import Prepared, prepare
from engine.data.source import EMBEDDED
from engine.memory.dry_run import workload
from engine.memory.dry_run.fake_model import by_flash
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_held_out, longest_step
from engine.memory.formula.method_plan import TrainingWork
from engine.methods.locate import TOKENIZER_FILES, Located
from engine.methods.machine import Machine
from engine.methods.tokenizer import load_tokenizer
from engine.training.batches import Packing, Schedule, choose_packing

CHEAP = 16 << 20
"""Bytes of files that are read for a plan: a MiB takes a second of a core (GSM8K by SmolLM2's tokenizer)."""
VALIDATION_ROWS = 512
"""Of which the loss is measured at most (`examination.FINAL_ROWS`)."""


@dataclass(frozen=True)
class FromData:
    """What data means for a plan."""

    prepared: Prepared
    schedule: Schedule
    layout: Packing
    vocabulary: int
    machine: Machine

    @property
    def whole(self) -> TrainingWork:
        """Of all steps: rows seen times their mean length."""
        rows = self.prepared.train
        epochs, rest = divmod(self.schedule.steps, self.schedule.per_epoch)
        seen = epochs * len(rows) + rest * self.schedule.batch
        tokens = seen * int(rows.lengths.sum()) / len(rows)
        return TrainingWork(rows=len(rows), steps=self.schedule.steps, tokens=round(tokens))

    def own(self, config: schema.Config, micro_batch: int) -> WorstCaseBatches:
        """The heaviest of what a run by `config` will go through, in such passes."""
        rows = self.prepared
        scored = [] if config.evaluation.when == "never" else sampled(rows.test_items, config.evaluation.rows)
        lost = all_rows([*sampled_rows(rows.validation_items, VALIDATION_ROWS), *scored])
        return WorstCaseBatches(
            layout=self.layout,
            step=longest_step(rows.train, self.schedule, 0, micro_batch, self.layout),
            held_out=longest_held_out(lost, self.layout, self.machine.device, self.vocabulary, keep=True),
            prompts=[item.row.prompt for item in scored],
            choice=int(rows.train.answer_tokens.max()),
            pad=0,
        )

    def work(self, config: schema.Config, micro_batch: int) -> workload.StepTensors | None:
        """For a dry run; None under FlashAttention, whose passes it lays out otherwise."""
        if by_flash(config, self.machine):
            return None
        return self.own(config, micro_batch).work(config, micro_batch)


def read_rows(config: schema.Config, architecture: Any, machine: Machine, given: bool) -> FromData | str:
    """From the training rows, or in words why they are not read. `given`: somebody named the data.

    Raises UserError for data that was given and cannot be trained on.
    """
    if (why := _costly(config.data)) or (why := _no_tokenizer(config.model)):
        return why
    folder = Path(config.model.id)
    located = Located(str(folder), True) if (folder / "config.json").is_file() else None  # no weights are wanted here
    try:
        prepared = prepare(config.data, config.train.max_length, load_tokenizer(config.model, located))
    except UserError as error:
        if given:
            raise
        return error.line
    if not prepared.train:
        return "there are no training rows"
    train = config.train
    return FromData(
        prepared=prepared,
        schedule=Schedule.of(len(prepared.train), train.batch, train.epochs, train.steps, train.seed),
        layout=choose_packing(prepared.train, train.packing, machine.device, by_flash(config, machine)),
        vocabulary=architecture.get_text_config().vocab_size,
        machine=machine,
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
