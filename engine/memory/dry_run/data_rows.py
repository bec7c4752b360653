"""Read the rows to plan for from the dataset, prepared with the model's tokenizer like in the worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import schema
from engine.config.batch_limits import mixing_reason
from engine.config.errors import UserError
from engine.config.files import expanded
from engine.config.preset import with_settings
from engine.data.items import FINAL_VALIDATION_ROWS, all_rows, sampled, sampled_by_rows
from engine.data.prepare import prepare
from engine.data.prepared import Prepared
from engine.data.source import EMBEDDED
from engine.memory.dry_run import step_tensors
from engine.memory.dry_run.fake_model import segments_unsupported, uses_flash_attention
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_held_out, longest_step
from engine.memory.formula.method_plan import TrainingWork
from engine.methods.machine import Machine
from engine.methods.model_source import TOKENIZER_FILES, ModelLocation, load_tokenizer
from engine.training.batches import BatchSampler, Packing, Sharing, choose_packing, decide_sharing, sharing_of

MAX_BYTES = 16 << 20
"""Maximum bytes of files read for a plan: 1 MiB takes 1 s on one core (GSM8K with SmolLM2's tokenizer)."""


def with_packing(config: schema.Config, machine: Machine, packing: Packing) -> schema.Config:
    """The configuration with the packing that was chosen for the rows, which decides which tokens the formula counts.

    With FlashAttention it stays `auto`, which also means that packed rows need no mask.
    """
    return config if uses_flash_attention(config, machine) else with_settings(config, {"train.packing": packing.mode})


@dataclass(frozen=True)
class DataWorkload:
    """Prepared data with its sampler and packing."""

    prepared: Prepared
    sampler: BatchSampler
    packing: Packing
    sharing: Sharing
    vocabulary: int
    machine: Machine
    not_shared: str = ""
    """Why the architecture computes common prefixes with every row, if computing them once would save tokens."""

    @property
    def whole(self) -> TrainingWork:
        """Rows, steps and tokens of the complete training: rows in all steps times their mean length."""
        rows = self.prepared.train
        epochs, rest = divmod(self.sampler.steps, self.sampler.per_epoch)
        rows_in_steps = epochs * len(rows) + rest * self.sampler.batch
        tokens = rows_in_steps * int(rows.lengths.sum()) / len(rows)
        shares = self.packing.mode == "shared_prefix"
        return TrainingWork(
            rows=len(rows),
            steps=self.sampler.steps,
            tokens=round(tokens),
            answer_tokens=int(rows.answer_tokens.sum()),
            shared_prefix=self.sharing.prefix if shares else 0,
            shared_rows=self.sharing.rows if shares else 0,
            token_ratio=round(self.sharing.ratio, 3) if shares else 1.0,
        )

    def worst_case(self, config: schema.Config, micro_batch: int) -> WorstCaseBatches:
        """The largest batches of a run with this configuration and micro-batch size."""
        rows = self.prepared
        scored = [] if config.evaluation.when == "never" else sampled(rows.test_items, config.evaluation.rows)
        lost = all_rows([*sampled_by_rows(rows.validation_items, FINAL_VALIDATION_ROWS), *scored])
        return WorstCaseBatches(
            packing=self.packing,
            step=longest_step(rows.train, self.sampler, 0, micro_batch, self.packing, config.train.devices),
            held_out=longest_held_out(lost, self.packing, self.machine.device, self.vocabulary, answers_only=True),
            prompts=[item.row.prompt for item in scored],
            choice=int(rows.train.answer_tokens.max()),
            pad=0,
        )

    def work(self, config: schema.Config, micro_batch: int) -> step_tensors.StepTensors | None:
        """Tensors for a dry run; None with FlashAttention, whose packed rows the dry run cannot use."""
        if uses_flash_attention(config, self.machine):
            return None
        return self.worst_case(config, micro_batch).work(config, micro_batch)


def read_rows(config: schema.Config, model_config: Any, machine: Machine, given: bool) -> DataWorkload | str:
    """Read the data, or return the reason why it is not read. `given`: the user named the data.

    Raises UserError if the user named data that cannot be trained on.
    """
    if (why := _costly(config.data)) or (why := _no_tokenizer(config.model)):
        return why
    folder = Path(config.model.id)
    located = (
        ModelLocation(str(folder), True) if (folder / "config.json").is_file() else None
    )  # `locate` requires weights
    try:
        prepared = prepare(config.data, config.train.max_length, load_tokenizer(config.model, located))
    except UserError as error:
        if given:
            raise
        return error.line
    if not prepared.train:
        return "no training rows"
    train = config.train
    sampler = BatchSampler.of(len(prepared.train), train.batch, train.epochs, train.steps, train.seed)
    reason = segments_unsupported(config, model_config, machine, prepared.longest)
    segments = not reason
    flash = uses_flash_attention(config, machine)
    mixed = bool(mixing_reason(model_config.to_dict()))
    packing = choose_packing(prepared.train, train.packing, machine.device, segments or flash, segments, mixed)
    packing, sharing = decide_sharing(packing, prepared.train, sampler, config)
    if reason and train.packing == "auto" and not sharing_of(prepared.train, sampler, train.batch, packing).worthwhile:
        reason = ""
    return DataWorkload(
        prepared=prepared,
        sampler=sampler,
        packing=packing,
        sharing=sharing,
        not_shared=reason if train.packing in ("auto", "shared_prefix") else "",
        vocabulary=model_config.get_text_config().vocab_size,
        machine=machine,
    )


def _costly(data: schema.Data) -> str:
    if data.id in EMBEDDED:
        return ""
    path = expanded(data.id)
    if not path.exists():
        return "" if path.suffix or data.id.count("/") != 1 else "datasets on the Hub are not downloaded for a plan"
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return f"data of {size >> 20:,} MiB is too large to be read for a plan" if size > MAX_BYTES else ""


def _no_tokenizer(model: schema.Model) -> str:
    folder = Path(model.id)
    if (folder / "config.json").is_file() and not any((folder / name).exists() for name in TOKENIZER_FILES):
        return "the model folder has no tokenizer"
    return ""
