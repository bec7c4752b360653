"""One method trained for a few steps with the worker's own trainer, plan and memory probe, outside of a run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from engine.config.device_defaults import resolve_checkpointing
from engine.data.rows import Row
from engine.evaluation.generate import Generator
from engine.evaluation.metrics import mean_loss
from engine.evaluation.score import row_losses, vocabulary_of
from engine.memory.dry_run.plan import RunEstimates, estimate_run
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_held_out, longest_step
from engine.memory.probe import ProbeResult, available_memory
from engine.methods import method
from engine.methods.machine import Machine
from engine.methods.model_source import config_of
from engine.methods.optimizers import make_optimizer
from engine.training import varlen_attention
from engine.training.batches import BatchSampler, Packing
from engine.training.compilation import remove_compiled
from engine.training.loss import supports_logits_to_keep
from engine.training.meters import Meters, training_gpu
from engine.training.trainer import AnswerTrainer, Hooks, training_arguments
from engine.worker.planning import compile_by_training, preferred_packing, probe_rank
from engine.worker.training_checks.subjects import Subject

WARM_UP = 2
"""Steps that are not timed: kernels are loaded, and the allocator's pool grows."""
NEW_TOKENS = 24
"""Maximum tokens of a generated answer."""
GENERATED = 16
"""Rows that are generated at a time."""


@dataclass
class TimedSteps:
    """Losses of all steps, and the duration of those after the first WARM_UP."""

    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    """Tokens of the timed steps."""
    seconds: float = 0.0
    first: int = 0
    """Index of the first timed step."""

    @property
    def timed(self) -> int:
        return len(self.losses) - self.first


class StepTimer(TrainerCallback):
    """Records steps. The GPU is waited for only before the first timed step and after the last step."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks, self.steps, self.since = hooks, TimedSteps(first=WARM_UP), 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        facts, steps = self.hooks.facts, self.steps
        steps.losses.append(facts.loss)
        if len(steps.losses) > WARM_UP:
            steps.tokens += facts.tokens
        if len(steps.losses) in (WARM_UP, state.max_steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.monotonic()
            steps.seconds, self.since = now - self.since, now


class TrainingSession:
    """A method's model, optimizer and trainer; `train` runs the steps and measures them."""

    def __init__(self, subject: Subject, machine: Machine, folder: Path) -> None:
        """Load the model and make it trainable; `folder`: where the trainer would write checkpoints."""
        self.subject, self.machine, self.config = subject, machine, subject.config
        self.notes: list[str] = []
        self.meters = Meters(lambda event: None, training_gpu() if machine.device == "cuda" else None)
        self._note_other_processes()
        self.meters.model_begins()
        module = method(self.config.method)
        set_seed(self.config.train.seed)
        base = module.load(self.config, machine)
        self.model: Any = module.make_trainable(base, self.config)
        longest = max(len(row.input_ids) for row in subject.rows)
        self.packing, *_ = preferred_packing(self.config, self.model, subject.rows, longest, machine)
        if self.packing.segments:
            varlen_attention.enable(self.model)
        self.sampler = BatchSampler(len(subject.rows), self.config.train.batch, subject.steps, self.config.train.seed)
        self.batches = self._worst_case()
        self.estimates = self._estimates()
        self.optimizer, self.optimizer_name = make_optimizer(
            self.model.parameters(), self.estimates.config, machine, lambda code, text: None
        )
        self.checkpointing = resolve_checkpointing(self.estimates.config.train.gradient_checkpointing, machine.device)
        self.hooks = Hooks()
        self.trainer = self._trainer(folder)
        self.probed: ProbeResult | None = None
        self.steps = TimedSteps()
        self.loss_before = self.loss_after = math.nan
        self.peak: int | None = None
        """Peak of memory reserved on a GPU while the steps ran, in bytes; None on a CPU."""

    def warn(self, code: str, text: str) -> None:
        self.notes.append(text)

    def _note_other_processes(self) -> None:
        gpu, own = self.meters.gpu, self.meters.gpu_pid
        if gpu is None or (own is None and torch.cuda.max_memory_reserved()):
            return  # in a container: this process has used the GPU, and its id there is not known
        for pid, name, _ in gpu.others(own):
            self.warn("gpu.shared", f"process {pid} {name} also uses this GPU: timings and memory include its load")

    def train(self) -> None:
        """Run the memory probe and the steps. Raises Diverged, OutOfMemory, and errors of libraries."""
        self.loss_before = self._loss()
        timer = StepTimer(self.hooks)
        self.trainer.add_callback(timer)
        self.hooks.prepared = self._prepared
        self.trainer.train()
        self.trainer.end_autocast()
        if self.config.train.compile:
            remove_compiled(self.model)
        self.steps = timer.steps
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
            compiled = compile_by_training(self.trainer, self.batches.step)
            self.notes.append(f"{compiled.layers} decoder layers compiled in {compiled.seconds:.0f} s")
        self.probed = probe_rank(
            self.config, self.trainer, self.optimizer, self.batches, self.estimates, self.meters, self.warn
        )
        self.checkpointing = self.probed.checkpointing or self.checkpointing
        self.meters.training_begins()

    def timed_rows(self) -> list[Row]:
        """The rows of the timed steps."""
        steps = range(self.steps.first, len(self.steps.losses))
        return [self.subject.rows[index] for step in steps for index in self.sampler.indices(step)]

    @property
    def dtype(self) -> torch.dtype:
        """Data type in which the model computes."""
        dtype: torch.dtype = method(self.config.method).weight_dtype(self.config, self.machine)
        return dtype

    def generator(self, ends: frozenset[int]) -> Generator:
        """The generator of evaluations."""
        tokenizer: Any = self.subject.tokenizer or SimpleNamespace(pad_token_id=self.subject.pad)
        return Generator(tokenizer, NEW_TOKENS, GENERATED, self.machine.device, ends, self.warn)

    def step(self, rows: list[Row], packing: Packing, micro_batch: int) -> float:
        """Gradients of one step of the trainer with this packing and micro-batch size. Returns the loss."""
        trainer, collator = self.trainer, self.trainer.collator
        before = collator.packing, trainer.micro_batch
        collator.packing, trainer.micro_batch = packing, micro_batch
        try:
            return float(trainer.training_step(self.model, rows))
        finally:
            collator.packing, trainer.micro_batch = before

    def _estimates(self) -> RunEstimates:
        limit = available_memory(self.meters) if self.machine.device == "cuda" else None
        architecture, batch = config_of(self.config.model), self.config.train.batch
        return estimate_run(self.config, architecture, self.machine, self.batches, batch, self.warn, limit)

    def _worst_case(self) -> WorstCaseBatches:
        rows, batch = self.subject.rows, self.config.train.batch
        held_out = list(self.subject.prompts)[:64]
        vocabulary, answers_only = vocabulary_of(self.model), supports_logits_to_keep(self.model)
        device = self.machine.device
        return WorstCaseBatches(
            packing=self.packing,
            step=longest_step(rows, self.sampler, 0, batch, self.packing),
            held_out=longest_held_out(held_out, self.packing, device, vocabulary, answers_only),
            prompts=[],
            choice=1,
            pad=self.subject.pad,
        )

    def _trainer(self, folder: Path) -> AnswerTrainer:
        arguments = training_arguments(self.config, self.sampler, folder, self.machine.device, self.checkpointing)
        return AnswerTrainer(
            rows=self.subject.rows,
            sampler=self.sampler,
            packing=self.packing,
            micro_batch=self.estimates.micro_batch,
            checkpoint_folder=folder / "checkpoints",
            keep_checkpoints=1,
            tokenizer=SimpleNamespace(pad_token_id=self.subject.pad),
            hooks=self.hooks,
            model=self.model,
            args=arguments,
            optimizers=(self.optimizer, None),
        )
