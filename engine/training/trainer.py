"""A subclass of transformers' Trainer with ftbench's batches and loss.

A training item is the list of all rows of one optimizer step. They are split into micro-batches inside the step, so
that after an out-of-memory error the same step is repeated with half the micro-batch size and the same result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainingArguments

from engine.config import schema
from engine.config.device_defaults import ActivationCheckpointing
from engine.config.method_specs import uses_autocast
from engine.data.rows import Row
from engine.methods.machine import is_out_of_memory
from engine.training import checkpoints
from engine.training.batches import (
    BatchSampler,
    Collator,
    MicroBatch,
    Packing,
    StepDataset,
    loss_weight,
    micro_batches,
    rank_parts,
)
from engine.training.batches import answer_tokens as answer_tokens_of
from engine.training.checkpointed_trainer import CheckpointedTrainer, CheckpointWriter, HostCopy
from engine.training.checkpoints import LAST_WEIGHTS, WeightSelection
from engine.training.compilation import compile_errors
from engine.training.guards import Diverged, OutOfMemory, first_line, free_memory
from engine.training.loss import summed_loss, supports_logits_to_keep
from engine.training.ranks import SINGLE_RANK, LocalShards, Ranks


def checkpointing_arguments(checkpointing: ActivationCheckpointing) -> dict[str, Any]:
    """`TrainingArguments.activation_checkpointing_kwargs`.

    Not reentrant: the reentrant implementation needs an input that requires a gradient and drops saved-tensor hooks.
    """
    return {"use_reentrant": False, "every_n_layers": checkpointing.every, "offload": checkpointing.offload}


def enable_checkpointing(model: Any, checkpointing: ActivationCheckpointing) -> None:
    """Let layers recompute their activations, also in a model that already does so for fewer layers."""
    if checkpointing.every:
        more = checkpointing_arguments(checkpointing)
        kwargs = {"use_reentrant": more.pop("use_reentrant")}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs, **more)


@dataclass
class StepFacts:
    """Measurements of one optimizer step, read by the callbacks."""

    loss: float = 0.0
    """Nats/token."""
    tokens: int = 0
    """Tokens of the step's rows."""
    computed_tokens: int = 0
    """Tokens of the forward passes: padding included, shared prefixes once."""
    answer_tokens: int = 0
    seconds: float = 0.0
    grad_norm: float = 0.0
    """Before clipping."""


@dataclass
class Hooks:
    """Callbacks of the trainer: micro-batch halved, checkpoint saved, model prepared for training."""

    halved: Callable[[int], None] = lambda micro_batch: None
    saved: Callable[[checkpoints.SavedCheckpoint], None] = lambda saved: None
    prepared: Callable[[], None] = lambda: None
    facts: StepFacts = field(default_factory=StepFacts)


class AnswerTrainer(CheckpointedTrainer):
    """Trains on the answer tokens of rows."""

    def __init__(
        self,
        *,
        rows: Sequence[Row],
        sampler: BatchSampler,
        packing: Packing,
        micro_batch: int,
        checkpoint_folder: Path,
        keep_checkpoints: int,
        host_copy: HostCopy | None = None,
        tokenizer: PreTrainedTokenizerBase,
        hooks: Hooks,
        ranks: Ranks = SINGLE_RANK,
        shards: LocalShards | None = None,
        selection: WeightSelection = LAST_WEIGHTS,
        **rest: Any,
    ) -> None:
        """`host_copy`: to write checkpoints in a thread while training continues; None: training waits for them.

        `shards`: the optimizer's parameters, if they are not the model's.
        """
        config: Any = getattr(rest["model"], "config", None)
        cached = getattr(config, "use_cache", None)
        writer = CheckpointWriter(
            checkpoint_folder, keep_checkpoints, lambda checkpoint: hooks.saved(checkpoint), host_copy
        )
        super().__init__(
            writer=writer,
            ranks=ranks,
            shards=shards,
            selection=selection,
            train_dataset=StepDataset(rows, sampler),
            processing_class=None,
            **rest,
        )
        if cached is not None:
            config.use_cache = cached  # the Trainer disables it, and a saved model would generate without a cache
        self.micro_batch, self.hooks, self.tokenizer = micro_batch, hooks, tokenizer
        self.upcoming: tuple[list[tuple[list[Row], float]], int] | None = None
        """The micro-batches of this step, and the number of the next one; None outside a step."""
        self.collator = Collator(packing, tokenizer.pad_token_id, self.args.device.type)
        self.answers_only = supports_logits_to_keep(self.model)
        self.step_started = time.monotonic()
        self.step_loss = torch.zeros(())
        self.remove_callback(PrinterCallback)  # events replace it

    @property
    def packing(self) -> Packing:
        """How rows are split into micro-batches and collated."""
        return self.collator.packing

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """One list of rows per step, in the sampler's order."""
        return torch.utils.data.DataLoader(
            self.train_dataset, batch_size=1, shuffle=False, collate_fn=lambda steps: steps[0]
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], None]:
        """The step's rows; `training_step` normalizes the loss over all of them."""
        samples = [rows for _, rows in zip(range(num_batches), epoch_iterator, strict=False)]
        return samples, None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the scheduler, after the `prepared` hook.

        The Trainer calls this once the model is ready for training, including activation checkpointing and autocast,
        and before the optimizer has state from a step or a checkpoint: the right time for the memory probe.
        """
        if self.lr_scheduler is None:
            self.hooks.prepared()
        return super().create_scheduler(num_training_steps, optimizer)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not computed: it is unused, and the formula requires a tensor batch."""
        return 0

    def training_step(
        self, model: torch.nn.Module, inputs: list[Row], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute gradients of the weighted mean loss over the answer tokens of the effective batch.

        Raises OutOfMemory if a single row does not fit, or a micro-batch of a sharded model. `_get_grad_norm` reads the
        loss.
        """
        self.step_started = time.monotonic()
        model.train()
        self.ranks.seed(self.args.seed, self.state.global_step, same=False)
        rows, facts = inputs, self.hooks.facts
        parts = rank_parts(rows, self.ranks.size, self.packing)
        total_weight = sum(map(loss_weight, rows))
        while True:
            # Outside an exception handler: the frames of the traceback reference the tensors that did not fit.
            loss, cause = self._accumulate(model, parts, total_weight)
            failed, facts.computed_tokens = self.ranks.sums(bool(cause), facts.computed_tokens)
            if not failed:
                break
            model.zero_grad(set_to_none=True)
            free_memory()
            self.halve(parts, next(filter(None, self.ranks.all_gather(cause))))
        if self.ranks.size > 1:
            # A rank without rows, or with none for an expert, has no gradients. Those of sharded weights are sums.
            gradients = []
            for weight in model.parameters():
                if weight.requires_grad and not isinstance(weight, DTensor):
                    weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                    gradients.append(weight.grad)
            self.ranks.all_reduce([loss, *gradients])
        self.step_loss = loss
        facts.answer_tokens = sum(map(answer_tokens_of, rows))
        facts.tokens = sum(len(row.input_ids) for row in rows)
        return loss

    def _accumulate(
        self, model: torch.nn.Module, parts: Sequence[Sequence[Row]], total_weight: float
    ) -> tuple[torch.Tensor, str]:
        """(this rank's share of the step's loss, '' or the message of an out-of-memory error).

        Raises OutOfMemory if the model is sharded: the other ranks are within the same layer, and cannot repeat it.
        """
        total = torch.zeros((), device=self.args.device)
        self.hooks.facts.computed_tokens = 0
        try:
            groups = list(self._groups(parts, total_weight))
            for number, (group, weight) in enumerate(groups):
                self.upcoming = groups, number
                total += self.forward_backward(model, group, weight)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.is_sharded:
                raise OutOfMemory(first_line(error)) from error
            return total, first_line(error)
        return total, ""

    def _collated(self, group: list[Row]) -> MicroBatch:
        """The micro-batch of a group, while the collator begins the one after it, of the next step if it is the last.

        Of the memory probe, whose groups are of no step, only this one.
        """
        (groups, number), self.upcoming = self.upcoming or ([], 0), None
        if not groups:
            return self.collator.take(None, group)
        step, micro_batch = self.state.global_step, self.micro_batch
        batch = self.collator.take((step, number, micro_batch), group)

        def first_of_next_step() -> list[Row]:
            parts = rank_parts(self.train_dataset[step + 1], self.ranks.size, self.packing)
            return next(self._groups(parts, 1.0))[0]

        if number + 1 < len(groups):
            self.collator.expect((step, number + 1, micro_batch), lambda: groups[number + 1][0])
        elif step + 1 < self.state.max_steps:
            self.collator.expect((step + 1, 0, micro_batch), first_of_next_step)
        return batch

    def _groups(self, parts: Sequence[Sequence[Row]], total_weight: float) -> Iterator[tuple[list[Row], float]]:
        """The micro-batches of this rank, and what their loss is divided by.

        The ranks of a sharded model compute the same number of them: some repeat their shortest row, without weight.
        """
        groups = [list(micro_batches(rows, self.micro_batch, self.packing)) for rows in parts]
        own = groups[self.ranks.rank]
        yield from ((group, total_weight) for group in own)
        if self.is_sharded:
            shortest = min((row for rows in parts for row in rows), key=lambda row: len(row.input_ids))
            for _ in range(max(map(len, groups)) - len(own)):
                yield [shortest], math.inf

    def forward_backward(self, model: torch.nn.Module, group: list[Row], total_weight: float) -> torch.Tensor:
        """Forward and backward of one micro-batch, accumulating gradients. Returns its share of the step's loss.

        `total_weight`: sum of the loss weights of the step.
        """
        batch = self._collated(group)
        self.hooks.facts.computed_tokens += batch.tokens
        with compile_errors():
            with self.compute_loss_context_manager():
                loss = summed_loss(model, batch, self.answers_only, total_weight)
            # FSDP2 divides the gradients of sharded weights by the number of ranks.
            self.accelerator.backward(loss * self.ranks.size if self.trains_parts else loss)
        return loss.detach()

    def halve(self, parts: Sequence[Sequence[Row]], cause: str) -> None:
        """Halve the micro-batch size, on all ranks alike. `parts`: the rows of each. Raises OutOfMemory if it is 1."""
        largest = max(len(group) for rows in parts for group in micro_batches(rows, self.micro_batch, self.packing))
        if largest == 1:
            raise OutOfMemory(cause)
        self.micro_batch = (largest + 1) // 2
        self.hooks.halved(self.micro_batch)

    def end_autocast(self) -> None:
        """Remove accelerate's autocast wrapper (`Accelerator.prepare_model`), so that the trained model is evaluated in
        the same precision as the base model.
        """
        original = self.model.__dict__.pop("_original_forward", None)
        if original is not None:
            self.model.forward = original

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> float:
        """Raise Diverged if the loss or the norm is not finite.

        The Trainer calls this after clipping and before the optimizer step. Loss and norm are read together: it is the
        only time in a step that our own code waits for the GPU; bitsandbytes' optimizers wait once per trained tensor.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        loss, value = torch.stack([self.step_loss, torch.as_tensor(norm).to(self.step_loss)]).tolist()
        for what, number in (("the loss", loss), ("the gradient norm", value)):
            if not math.isfinite(number):
                raise Diverged(self.state.global_step + 1, what)
        self.hooks.facts.loss, self.hooks.facts.grad_norm = loss, value
        self.ranks.seed(self.args.seed, self.state.global_step, same=True)  # stochastic rounding must be the same
        return float(value)


def training_arguments(
    config: schema.Config, sampler: BatchSampler, run: Path, device: str, checkpointing: ActivationCheckpointing
) -> TrainingArguments:
    """TrainingArguments for a configuration; callbacks control logging, saving and evaluation."""
    train = config.train
    arguments = TrainingArguments(
        output_dir=str(run / "checkpoints"),
        max_steps=sampler.steps,
        per_device_train_batch_size=1,
        learning_rate=train.learning_rate,  # only recorded: the optimizer is given with its rate
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(train.schedule, train.schedule),
        warmup_steps=round(train.warmup_ratio * sampler.steps),
        max_grad_norm=train.max_grad_norm,
        bf16=uses_autocast(config.method, config.train.precision),
        activation_checkpointing=bool(checkpointing.every),
        activation_checkpointing_kwargs=checkpointing_arguments(checkpointing) if checkpointing.every else None,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device == "cpu",
        seed=train.seed,
    )
    # With several visible GPUs the Trainer would wrap the model in DataParallel (transformers, trainer.py,
    # _wrap_model), which splits every argument across GPUs, including logits_to_keep.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
