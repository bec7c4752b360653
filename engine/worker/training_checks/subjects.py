"""Models whose training is checked: the embedded model on its own data, and random weights on random rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from engine.config import schema
from engine.config.method_specs import method_spec
from engine.config.preset import Flat, Preset, resolve
from engine.data.prepare import prepare
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.generate import end_tokens
from engine.memory.audit.synthetic_rows import log_normal_lengths
from engine.memory.formula.memory_budget import system_memory
from engine.methods.machine import Machine
from engine.methods.tokenizer import load_tokenizer
from engine.runs.training_report import MODELS, ModelChoice
from engine.worker.training_checks.model_shapes import (
    ON_GPU,
    ChosenShape,
    choose_shape,
    free_disk,
    write_random_weights,
)

EMBEDDED_STEPS, EMBEDDED_ROWS, EMBEDDED_BATCH = 6, 16, 8
"""A few rows, which a few steps learn."""
ADAPTER_RATE, FULL_RATE = 5e-3, 1e-3
"""Learning rates on the embedded model, as in the presets of `ftbench demo`."""
RANDOM_STEPS = {"cpu": 4, "cuda": 6}
PROMPT_TOKENS = 128
"""Maximum tokens of a prompt of a random row."""


@dataclass(frozen=True)
class Subject:
    """A model folder with the rows that it is trained on and the prompts that it answers."""

    title: str
    config: schema.Config
    rows: Sequence[Row]
    prompts: Sequence[Row]
    steps: int
    pad: int
    tokenizer: Any
    """The tokenizer; None for random rows."""
    why: str = ""
    """Why not a larger model."""

    def ends(self, model: torch.nn.Module) -> frozenset[int]:
        """Tokens that end an answer; none for random weights."""
        return end_tokens(self.tokenizer, model, self.rows) if self.tokenizer else frozenset()


def embedded_subject(method: str) -> Subject:
    """The embedded model and data."""
    values = {
        "train.max_length": 512,
        "train.batch": EMBEDDED_BATCH,
        "train.learning_rate": FULL_RATE if method_spec(method).trains_weights else ADAPTER_RATE,
        "train.gradient_checkpointing": False,  # small enough; activations dominate the peak
    }
    config = _config(method, values)
    tokenizer = load_tokenizer(config.model)
    rows = prepare(config.data, config.train.max_length, tokenizer)
    train, pad = [rows.train[number] for number in range(EMBEDDED_ROWS)], int(tokenizer.pad_token_id)
    return Subject(MODELS["embedded"], config, train, rows.test, EMBEDDED_STEPS, pad, tokenizer)


def random_subject(method: str, machine: Machine, scratch: Path) -> Subject:
    """Random weights of the largest shape that this machine has room for, below `scratch`, where another method may
    have written them.
    """
    chosen = chosen_shape(method, machine, scratch)
    shape, architecture = chosen.shape, chosen.shape.architecture()
    folder = shape.folder(scratch)
    if not shape.is_written(scratch):
        write_random_weights(architecture, folder, machine.device)
    config = _config(method, {"train.max_length": shape.longest, "train.batch": shape.batch}, str(folder))
    steps = RANDOM_STEPS[machine.device]
    lengths = log_normal_lengths(shape.batch * steps, shape.longest, shape.tokens)
    rows = random_rows(lengths, architecture)
    return Subject(shape.title, config, rows, rows, steps, 0, None, chosen.why)


def chosen_shape(method: str, machine: Machine, scratch: Path) -> ChosenShape:
    """The shape for the memory that is free now and the free disk space of `scratch`."""
    if machine.device == "cuda":
        free, _ = torch.cuda.mem_get_info()
    else:
        total, used = system_memory()
        free = total - used
    written = [shape for shape in ON_GPU if shape.is_written(scratch)]
    return choose_shape(_config(method, {}), machine, free, free_disk(scratch), written)


def _config(method: str, values: Flat, model: str = "tiny") -> schema.Config:
    # With its method in the preset: the learning rate of a preset belongs to its own method.
    own = {"method": method, "model.id": model, "evaluation.when": "never"}
    return resolve(Preset("doctor", own | values)).config


def random_rows(lengths: Sequence[int], architecture: LlamaConfig, seed: int = 0) -> list[Row]:
    """Rows of random tokens with these lengths, half of each in the loss."""
    generator = random.Random(seed)
    rows = []
    for number, length in enumerate(lengths):
        ids = [generator.randrange(3, architecture.vocab_size) for _ in range(length)]
        half = length // 2
        labels = [IGNORE_INDEX] * half + ids[half:]
        rows.append(Row(ids, labels, ids[: min(half, PROMPT_TOKENS)], "", f"row {number + 1}", False))
    return rows


def subject_of(choice: ModelChoice, method: str, machine: Machine, scratch: Path) -> Subject:
    """The subject of a check; what it writes is below `scratch`."""
    return embedded_subject(method) if choice == "embedded" else random_subject(method, machine, scratch)
