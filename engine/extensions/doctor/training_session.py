"""What the checks train, and how: the embedded model, or the largest random model of a published shape that fits.

It is trained for a few steps with the worker's own loop, plan and memory probe, outside of a run.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, set_seed

from engine.config import schema
from engine.config.device_defaults import resolve_checkpointing
from engine.config.method_specs import method_spec, steps_in_backward
from engine.config.preset import Preset, resolve
from engine.config.quantities import size
from engine.config.settings import Flat, with_settings
from engine.data.prepare import prepare
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.generate import end_tokens
from engine.evaluation.metrics import mean_loss
from engine.evaluation.score import row_losses
from engine.extensions.doctor.training_report import MODELS
from engine.memory.dry_run.plan import estimate_run
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_held_out, longest_step
from engine.memory.formula.estimate import StepShape
from engine.memory.formula.formula import formula
from engine.memory.formula.memory_budget import system_memory
from engine.memory.probe import ProbeResult, available_memory
from engine.methods import method
from engine.methods.machine import Machine
from engine.methods.model_source import config_of, load_tokenizer, vocabulary_size
from engine.methods.optimizers import make_optimizer
from engine.methods.weights import unwrap_peft
from engine.training import varlen_attention
from engine.training.batches import BatchSampler, Packing, StepDataset, step_packing
from engine.training.compilation import remove_compiled
from engine.training.fit import Record, StepFacts, TrainingSetup, fit, learning_rate_schedule
from engine.training.gradients import StepGradients
from engine.training.guards import free_memory
from engine.training.loss import supports_logits_to_keep
from engine.training.meters import Meters, training_gpu
from engine.training.training_state import CheckpointWriter, TrainingState
from engine.worker.planning import compile_by_training, preferred_packing, probe_rank

EMBEDDED_STEPS, EMBEDDED_ROWS, EMBEDDED_BATCH = 6, 16, 8
"""A few rows, which a few steps learn."""
ADAPTER_RATE, FULL_RATE = 5e-3, 1e-3
"""Learning rates on the embedded model, as in the presets of `ftbench demo`."""
RANDOM_STEPS = {"cpu": 4, "cuda": 6}
MEAN_TOKENS, LENGTH_SPREAD = 600, 0.6
"""Of the lengths of random rows, and the standard deviation of their logarithm: half between 334 and 752 tokens."""
PROMPT_TOKENS = 128
"""Maximum tokens of a prompt of a random row."""
DISK_MARGIN = 1.25
"""Free disk space required, as a multiple of the size of the weights."""
MEMORY_SHARE = 0.95
"""Share of the free memory that the predicted peak may take; the memory probe leaves the same headroom."""
SHARD = 2 << 30
"""Bytes of weights in a file, which are in memory together."""
WARM_UP = 2
"""Steps that are not timed: kernels are loaded, and the allocator's pool grows."""


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
    """Random weights of the largest shape that this machine has room for now, below `scratch`, where another method may
    have written them.
    """
    if machine.device == "cuda":
        free, _ = torch.cuda.mem_get_info()
    else:
        total, used = system_memory()
        free = total - used
    written = [shape for shape in ON_GPU if shape.is_written(scratch)]
    shape, why = choose_shape(_config(method, {}), machine, free, free_disk(scratch), written)
    architecture, folder = shape.architecture(), shape.folder(scratch)
    if not shape.is_written(scratch):
        write_random_weights(architecture, folder, machine.device)
    config = _config(method, {"train.max_length": shape.longest, "train.batch": shape.batch}, str(folder))
    steps = RANDOM_STEPS[machine.device]
    lengths = log_normal_lengths(shape.batch * steps, shape.longest, shape.tokens)
    rows = random_rows(lengths, architecture)
    return Subject(shape.title, config, rows, rows, steps, 0, None, why)


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
    single, why = with_settings(config, {"train.micro_batch": 1}), ""  # the memory probe finds how many rows fit
    for shape in ON_GPU[:-1]:
        architecture = shape.architecture()
        longest = StepShape(count=shape.batch, length=shape.longest, answer=shape.longest // 2)
        needed = formula(single, architecture.to_dict(), machine.device, longest, machine.bf16).peak
        if needed > MEMORY_SHARE * memory:
            why = why or f"{shape.title}: predicted peak {size(needed)}, {size(memory)} free"
        elif shape not in written and DISK_MARGIN * (weights := weight_bytes(architecture)) > disk:
            why = why or f"{shape.title}: {size(weights)} of weights, {size(disk)} free in the temporary folder"
        else:
            return shape, why
    return ON_GPU[-1], why


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
        shard = {}
        for name in names:
            shard[name] = torch.ones(empty[name].shape, dtype=torch.bfloat16)
            if shard[name].dim() > 1:
                drawn = shard[name].to(device).normal_(0.0, architecture.initializer_range, generator=generator)
                shard[name] = drawn.cpu()
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


def log_normal_lengths(count: int, longest: int, mean: int = MEAN_TOKENS) -> list[int]:
    """Lengths of `count` rows in tokens, at most `longest`, from a log-normal distribution."""
    generator = random.Random(0)
    location = math.log(mean) - LENGTH_SPREAD**2 / 2
    return [min(longest, max(8, round(generator.lognormvariate(location, LENGTH_SPREAD)))) for _ in range(count)]


class StepTimer(Record):
    """Losses of all steps; tokens and duration of those after the first WARM_UP. The GPU is waited for only before the
    first timed step and after the last step.
    """

    def __init__(self, steps: int, begin: Callable[[], None]) -> None:
        self.steps, self._begin, self.since = steps, begin, 0.0
        self.losses: list[float] = []
        self.tokens, self.seconds = 0, 0.0

    def begin(self) -> None:
        self._begin()

    def step(self, facts: StepFacts) -> None:
        self.losses.append(facts.loss)
        if len(self.losses) > WARM_UP:
            self.tokens += facts.tokens
        if len(self.losses) in (WARM_UP, self.steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.monotonic()
            self.seconds, self.since = now - self.since, now


class TrainingSession:
    """A method's model, optimizer and training; `train` runs the steps and measures them."""

    def __init__(self, subject: Subject, machine: Machine, folder: Path) -> None:
        """Load the model and make it trainable; `folder`: for checkpoints."""
        self.subject, self.machine, self.config = subject, machine, subject.config
        config, rows, device, batch = subject.config, subject.rows, machine.device, subject.config.train.batch
        self.notes: list[str] = []
        self.meters = Meters(lambda event: None, training_gpu() if device == "cuda" else None)
        gpu, own = self.meters.gpu, self.meters.gpu_pid
        # In a container the id of this process is not known once it has used the GPU.
        if gpu is not None and not (own is None and torch.cuda.max_memory_reserved()):
            for pid, name, _ in gpu.others(own):
                self.warn("gpu.shared", f"process {pid} {name} also uses this GPU: timings and memory include its load")
        self.meters.model_begins()
        module = method(config.method)
        set_seed(config.train.seed)
        self.model: Any = module.make_trainable(module.load(config, machine), config)
        self.dtype: torch.dtype = module.weight_dtype(config, machine)
        """Data type in which the model computes."""
        longest = max(len(row.input_ids) for row in rows)
        self.packing, *_ = preferred_packing(config, self.model, rows, longest, machine)
        if self.packing.segments:
            varlen_attention.enable(self.model)
        self.sampler = BatchSampler(len(rows), batch, subject.steps, config.train.seed)

        vocabulary, answers_only = vocabulary_size(unwrap_peft(self.model).config), supports_logits_to_keep(self.model)
        self.batches = WorstCaseBatches(
            packing=self.packing,
            step=longest_step(rows, self.sampler, 0, batch, self.packing),
            held_out=longest_held_out(list(subject.prompts)[:64], self.packing, device, vocabulary, answers_only),
            prompts=[],
            choice=1,
            pad=subject.pad,
        )
        limit = available_memory(self.meters) if device == "cuda" else None
        self.estimates = estimate_run(config, config_of(config.model), machine, self.batches, batch, self.warn, limit)
        settled = self.estimates.config
        self.packing = step_packing(self.packing, settled)
        self.batches = replace(self.batches, packing=self.packing)
        self.optimizer, self.optimizer_name = make_optimizer(
            self.model.parameters(), settled, machine, lambda code, text: None
        )
        self.checkpointing = resolve_checkpointing(settled.train.gradient_checkpointing, device)
        self.gradients = StepGradients(
            self.model,
            StepDataset(rows, self.sampler),
            self.packing,
            self.estimates.micro_batch,
            subject.pad,
            device,
            whole_steps=steps_in_backward(settled),
        )
        schedule = learning_rate_schedule(self.optimizer, config.train, self.sampler.steps)
        writer = CheckpointWriter(folder / "checkpoints", 1, lambda saved: None, None)
        state = TrainingState(self.model, self.optimizer, schedule, writer)
        self.training = TrainingSetup.of(settled, state, self.gradients, self.checkpointing)
        self.probed: ProbeResult | None = None
        self.steps = StepTimer(self.sampler.steps, self._prepared)
        self.loss_before = self.loss_after = math.nan
        self.peak: int | None = None
        """Peak of memory reserved on a GPU while the steps ran, in bytes; None on a CPU."""

    def warn(self, code: str, text: str) -> None:
        self.notes.append(text)

    def train(self) -> None:
        """Run the memory probe and the steps. Raises Diverged, OutOfMemory, and errors of libraries."""
        self.loss_before = self._loss()
        fit(self.training, self.steps)
        if self.config.train.compile:
            remove_compiled(self.model)
        self.peak = self.meters.sample().reserved_peak
        self.meters.training_ends()
        self.loss_after = self._loss()

    def _loss(self) -> float:
        """Loss of the rows in nats/token."""
        losses = row_losses(self.model, self.subject.rows, self.packing, self.subject.pad, self.machine.device)
        return mean_loss(losses)

    def _prepared(self) -> None:
        """Compile, and run the memory probe. On a GPU the plan may have chosen activation checkpointing."""
        if self.config.train.compile:
            compiled = compile_by_training(self.gradients, self.batches.step)
            self.notes.append(f"{compiled.layers} decoder layers compiled in {compiled.seconds:.0f} s")
        self.probed = probe_rank(
            self.config, self.gradients, self.optimizer, self.batches, self.estimates, self.meters, self.warn
        )
        self.checkpointing = self.probed.checkpointing or self.checkpointing
        self.meters.training_begins()

    def step(self, rows: list[Row], packing: Packing, micro_batch: int) -> float:
        """Gradients of one step with this packing and micro-batch size. Returns the loss."""
        gradients, collator = self.gradients, self.gradients.collator
        before = collator.packing, gradients.micro_batch
        collator.packing, gradients.micro_batch = packing, micro_batch
        try:
            return float(gradients.compute(rows, self.sampler.steps))
        finally:
            collator.packing, gradients.micro_batch = before
