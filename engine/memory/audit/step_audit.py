"""Audit one method: its real training step, held-out loss and decoding step on fake tensors, with the GPU's kernels.

The worker's trainer runs its own loop: batches, loss, backward pass, clipping and optimizer. Only values are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import TrainerCallback

from engine.config import schema
from engine.config.activation_checkpointing import ActivationCheckpointing, resolve_checkpointing
from engine.config.batch_limits import SHAPE_MULTIPLE, mixing_reason
from engine.config.files import SCRATCH_PREFIX, temporary_folder
from engine.data.rows import Row
from engine.evaluation import score
from engine.evaluation.worst_case import longest_answers, run_worst_case
from engine.memory.audit.operation_counter import OperationCounter
from engine.memory.audit.required_flops import required_flops
from engine.memory.dry_run.fake_model import allocate, bare_model, trainable
from engine.memory.dry_run.layer_extrapolation import SHALLOW_PERIODS, layer_pattern, shallow
from engine.memory.formula.audit_counts import MethodAudit, PhaseCounts
from engine.methods.machine import Machine, kernels_of
from engine.methods.optimizers import make_unpaged
from engine.training import trainer as trainer_module
from engine.training import varlen_attention
from engine.training.batches import BatchSampler, Packing, choose_packing, micro_batches
from engine.training.trainer import AnswerTrainer, Hooks, training_arguments

GPU = Machine("cuda", "a GPU", bf16=True, flash_attention=False)
STEPS = 2
"""The first step creates the optimizer's state; the second is audited."""
DECODED_ROWS, NEW_TOKENS = 8, 32


def audit_method(config: schema.Config, model_config: Any, rows: Sequence[Row], micro_batch: int) -> MethodAudit:
    """Audit `config` on a GPU with bf16, for an optimizer step of `rows` in micro-batches of `micro_batch` rows.

    Of many identical decoder layers a few run (`layer_extrapolation`): the bounds hold per layer.
    `model_config`: transformers' configuration of the model. Raises UserError if the model cannot be built.
    """
    bare = bare_model(config, model_config, GPU)
    checkpointing = resolve_checkpointing(config.train.gradient_checkpointing, GPU.device)
    pattern = layer_pattern(bare, checkpointing)
    layers = pattern.blocks if pattern else 0
    if pattern is not None:
        bare = shallow(bare, pattern, SHALLOW_PERIODS)
    model: Any = trainable(bare, config, GPU)
    vocabulary = model_config.get_text_config().vocab_size
    longest = max(len(row.input_ids) for row in rows)
    segments = not varlen_attention.unsupported_reason(model, longest)
    if segments:
        varlen_attention.enable(model)
    mixed = bool(mixing_reason(model_config.to_dict()))
    packing = choose_packing(rows, config.train.packing, GPU.device, segments, segments, mixed)
    counter = OperationCounter(GPU.device, vocabulary)
    with FakeTensorMode(allow_non_fake_inputs=True), counter, kernels_of(GPU.device), _shapes_of_gpu():
        allocate(model)
        training = _training(model, config, rows, micro_batch, packing, counter, checkpointing)
        held_out = _held_out(model, rows, packing, counter)
        decoding = _decoding(model, rows, counter)
    return MethodAudit(
        method=config.method,
        layers=pattern.with_periods(SHALLOW_PERIODS) if pattern else 0,
        all_layers=layers,
        precision=str(next(iter(model.parameters())).dtype).removeprefix("torch."),
        tokens=sum(len(row.input_ids) for row in rows),
        checkpointing=checkpointing.setting,
        training=training,
        required_flops=required_flops(model, rows, checkpointing),
        held_out=held_out,
        decoding=decoding,
    )


class _StepCounts(TrainerCallback):
    """Counts the operations of each step, which has `groups` micro-batches."""

    def __init__(self, counter: OperationCounter, groups: int) -> None:
        self.counter, self.groups = counter, groups
        self.counts: list[PhaseCounts] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.counter.reset()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.counts.append(_counts(self.counter, self.groups))


def _training(
    model: Any,
    config: schema.Config,
    rows: Sequence[Row],
    micro_batch: int,
    packing: Packing,
    counter: OperationCounter,
    checkpointing: ActivationCheckpointing,
) -> PhaseCounts:
    """The second of two optimizer steps."""
    optimizer = make_unpaged(model.parameters(), config, GPU)
    sampler = BatchSampler(len(rows), len(rows), STEPS, 0)
    steps = _StepCounts(counter, len(list(micro_batches(rows, micro_batch, packing))))

    with _placed(model), _collation_on_host(counter, trainer_module), temporary_folder(SCRATCH_PREFIX) as folder:
        trainer = AnswerTrainer(
            rows=rows,
            sampler=sampler,
            packing=packing,
            micro_batch=micro_batch,
            checkpoint_folder=Path(folder),
            keep_checkpoints=1,
            tokenizer=SimpleNamespace(pad_token_id=0),
            hooks=Hooks(),
            model=model,
            args=training_arguments(config, sampler, Path(folder), "cpu", checkpointing),
            optimizers=(optimizer, None),
        )
        trainer.add_callback(steps)
        trainer.train()
        trainer.end_autocast()
    return steps.counts[-1]


def _held_out(model: Any, rows: Sequence[Row], packing: Packing, counter: OperationCounter) -> PhaseCounts:
    counter.reset()
    with _collation_on_host(counter, score):
        score.row_losses(model.eval(), rows, packing, 0, "cpu")
    return _counts(counter, 1)


def _decoding(model: Any, rows: Sequence[Row], counter: OperationCounter) -> PhaseCounts:
    """Prefill of the longest prompts and one step at the maximum length."""
    counter.reset()
    answers = longest_answers([row.input_ids for row in rows], DECODED_ROWS, NEW_TOKENS)
    assert answers is not None
    run_worst_case(model, answers, 0, "cpu")
    return _counts(counter, 1)


def _counts(counter: OperationCounter, groups: int) -> PhaseCounts:
    return PhaseCounts(
        tokens=counter.all_tokens,
        micro_batches=groups,
        matmul={str(dtype).removeprefix("torch."): flops for dtype, flops in counter.matmul.items()},
        mask_bytes=counter.mask_bytes,
        repeated_bytes=counter.repeated_bytes,
        cast_bytes=counter.cast_bytes,
        logits_bytes=counter.peak_logits,
        host_waits=dict(counter.waits),
    )


@contextmanager
def _placed(model: Any) -> Iterator[None]:
    """Context in which moving the model to its device does nothing: fake parameters cannot be replaced."""
    model.to = lambda *args, **kwargs: model
    try:
        yield
    finally:
        del model.to


@contextmanager
def _collation_on_host(counter: OperationCounter, module: Any) -> Iterator[None]:
    """Context in which a module's collation is work of the CPU, as in a run, and sets the tokens of the batch."""
    original = module.collate

    def collate(*args: Any, **kwargs: Any) -> Any:
        with counter.on_host():
            batch = original(*args, **kwargs)
        counter.begin_batch(batch.tokens, batch.model_inputs["input_ids"].shape[-1])
        return batch

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(module, "collate", collate))
        yield


@contextmanager
def _shapes_of_gpu() -> Iterator[None]:
    """Context in which batches are padded as on a GPU."""
    with mock.patch.dict(SHAPE_MULTIPLE, cpu=SHAPE_MULTIPLE[GPU.device]):
        yield
