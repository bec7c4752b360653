"""What the checks train: the embedded model, or the largest random model of a published shape that fits."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from engine.config import schema
from engine.config.method_specs import method_spec
from engine.config.preset import Preset, resolve
from engine.config.quantities import size
from engine.config.settings import Flat, with_settings
from engine.data.prepare import prepare
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.generate import end_tokens
from engine.memory.formula.estimate import StepShape
from engine.memory.formula.formula import formula
from engine.memory.formula.memory_budget import system_memory
from engine.methods.machine import Machine
from engine.methods.model_source import load_tokenizer
from engine.runs.training_report import MODELS, ModelChoice
from engine.training.guards import free_memory

EMBEDDED_STEPS, EMBEDDED_ROWS, EMBEDDED_BATCH = 6, 16, 8
"""A few rows, which a few steps learn."""
ADAPTER_RATE, FULL_RATE = 5e-3, 1e-3
"""Learning rates on the embedded model, as in the presets of `ftbench demo`."""
RANDOM_STEPS = {"cpu": 4, "cuda": 6}
MEAN_TOKENS, LENGTH_SPREAD = 600, 0.6
"""Of the lengths of random rows, and the standard deviation of their logarithm: half between 334 and 752 tokens."""
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
    config = embedded_config(method)
    tokenizer = load_tokenizer(config.model)
    rows = prepare(config.data, config.train.max_length, tokenizer)
    train, pad = [rows.train[number] for number in range(EMBEDDED_ROWS)], int(tokenizer.pad_token_id)
    return Subject(MODELS["embedded"], config, train, rows.test, EMBEDDED_STEPS, pad, tokenizer)


def embedded_config(method: str) -> schema.Config:
    """How a method trains the embedded model."""
    values = {
        "train.max_length": 512,
        "train.batch": EMBEDDED_BATCH,
        "train.learning_rate": FULL_RATE if method_spec(method).trains_weights else ADAPTER_RATE,
        "train.gradient_checkpointing": False,  # small enough; activations dominate the peak
    }
    return _config(method, values)


def random_subject(method: str, machine: Machine, scratch: Path) -> Subject:
    """Random weights of the largest shape that this machine has room for, below `scratch`, where another method may
    have written them.
    """
    shape, why = _shape_for(method, machine, scratch)
    architecture, folder = shape.architecture(), shape.folder(scratch)
    if not shape.is_written(scratch):
        write_random_weights(architecture, folder, machine.device)
    config = _config(method, {"train.max_length": shape.longest, "train.batch": shape.batch}, str(folder))
    steps = RANDOM_STEPS[machine.device]
    lengths = log_normal_lengths(shape.batch * steps, shape.longest, shape.tokens)
    rows = random_rows(lengths, architecture)
    return Subject(shape.title, config, rows, rows, steps, 0, None, why)


def _shape_for(method: str, machine: Machine, scratch: Path) -> tuple[ModelShape, str]:
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


def random_rows(lengths: Sequence[int], architecture: LlamaConfig) -> list[Row]:
    """Rows of random tokens with these lengths, half of each in the loss."""
    generator = random.Random(0)
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


DISK_MARGIN = 1.25
"""Free disk space required, as a multiple of the size of the weights."""
MEMORY_SHARE = 0.95
"""Share of the free memory that the predicted peak may take; the memory probe leaves the same headroom."""
SHARD = 2 << 30
"""Bytes of weights in a file, which are in memory together."""


@dataclass(frozen=True)
class ModelShape:
    """A model without weights."""

    title: str
    sizes: dict[str, Any] = field(hash=False)
    tokens: int
    """Mean tokens of a row."""
    longest: int
    """Maximum tokens of a row."""
    batch: int
    """Rows of a step."""

    def architecture(self) -> LlamaConfig:
        """transformers' configuration."""
        ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        return LlamaConfig(max_position_embeddings=8192, rms_norm_eps=1e-5, **self.sizes, **ids)

    def folder(self, scratch: Path) -> Path:
        """Where its weights are written."""
        return scratch / self.title.replace(" ", "-")

    def is_written(self, scratch: Path) -> bool:
        """Whether complete weights are there."""
        return (self.folder(scratch) / "config.json").exists()


def _llama(width: int, inner: int, layers: int, heads: int, key_heads: int, vocabulary: int, tied: bool) -> Any:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


ON_GPU = (
    ModelShape("Llama 3.1 8B shape", _llama(4096, 14336, 32, 32, 8, 128256, False), 600, 2048, 16),
    ModelShape("Llama 3.2 3B shape", _llama(3072, 8192, 28, 24, 8, 128256, True), 600, 2048, 16),
    ModelShape("Llama 3.2 1B shape", _llama(2048, 8192, 16, 32, 8, 128256, True), 600, 2048, 16),
    ModelShape("SmolLM2 135M shape", _llama(576, 1536, 30, 9, 3, 49152, True), 600, 2048, 16),
)
"""Largest first."""
ON_CPU = ModelShape("Llama shape with 5M parameters", _llama(256, 704, 4, 4, 2, 8192, True), 64, 128, 4)


def choose_shape(
    config: schema.Config, machine: Machine, memory: int, disk: int, written: Collection[ModelShape] = ()
) -> tuple[ModelShape, str]:
    """The largest shape whose predicted peak and weights fit, for sizes in bytes; the smallest if none does. And why no
    larger one was chosen.

    `written`: shapes whose weights are on disk already.
    """
    if machine.device == "cpu":
        return ON_CPU, "a CPU is too slow for an 8B model"
    why = ""
    for shape in ON_GPU[:-1]:
        reason = _peak_too_large(shape, config, machine, memory)
        reason = reason or ("" if shape in written else _weights_too_large(shape, disk))
        if not reason:
            return shape, why
        why = why or reason
    return ON_GPU[-1], why


def _peak_too_large(shape: ModelShape, config: schema.Config, machine: Machine, memory: int) -> str:
    """Why training does not fit; "" if it does. One row per forward pass: the memory probe finds how many fit."""
    architecture = shape.architecture()
    single = with_settings(config, {"train.micro_batch": 1})
    longest = StepShape(count=shape.batch, length=shape.longest, answer=shape.longest // 2)
    needed = formula(single, architecture.to_dict(), machine.device, longest, machine.bf16).peak
    if needed > MEMORY_SHARE * memory:
        return f"{shape.title}: predicted peak {size(needed)}, {size(memory)} free"
    return ""


def _weights_too_large(shape: ModelShape, disk: int) -> str:
    weights = weight_bytes(shape.architecture())
    if DISK_MARGIN * weights > disk:
        return f"{shape.title}: {size(weights)} of weights, {size(disk)} free in the temporary folder"
    return ""


def weight_bytes(architecture: LlamaConfig) -> int:
    """Size of the weights in bf16."""
    return 2 * sum(parameter.numel() for _, parameter in _without_weights(architecture).named_parameters())


def free_disk(folder: Path) -> int:
    """Free bytes of a folder's file system."""
    return shutil.disk_usage(folder).free


def write_random_weights(architecture: LlamaConfig, folder: Path, device: str) -> None:
    """Write a model folder with normally distributed weights in bf16; norms are 1.

    Of the weights at most SHARD bytes, or one larger tensor, are in memory, so that also a model that is trained in 4
    bits can be written. config.json is written last: a folder with it is complete.
    """
    folder.mkdir(exist_ok=True)
    generator = torch.Generator(device).manual_seed(0)
    empty = dict(_without_weights(architecture).named_parameters())
    split = split_torch_state_dict_into_shards(empty, max_shard_size=SHARD)
    for file, names in split.filename_to_tensors.items():
        shard = {name: _drawn(empty[name].shape, architecture.initializer_range, device, generator) for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    architecture.architectures = ["LlamaForCausalLM"]
    (folder / "tokenizer_config.json").write_text("{}")  # a model folder has a tokenizer; rows here are random ids
    architecture.save_pretrained(folder)
    free_memory()


def _without_weights(architecture: LlamaConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(architecture, dtype=torch.bfloat16)


def _drawn(shape: torch.Size, spread: float, device: str, generator: torch.Generator) -> torch.Tensor:
    if len(shape) < 2:
        return torch.ones(shape, dtype=torch.bfloat16)
    drawn = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0.0, spread, generator=generator)
    return drawn.cpu()


def log_normal_lengths(count: int, longest: int, mean: int = MEAN_TOKENS) -> list[int]:
    """Lengths of `count` rows in tokens, at most `longest`, from a log-normal distribution."""
    generator = random.Random(0)
    location = math.log(mean) - LENGTH_SPREAD**2 / 2
    return [min(longest, max(8, round(generator.lognormvariate(location, LENGTH_SPREAD)))) for _ in range(count)]
