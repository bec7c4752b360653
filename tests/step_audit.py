"""Count what a method's step would do on a GPU, and check the bounds: the worker's step on fake tensors, without GPU.

`MemoryTracker` sees every operation of the worker's own loop: batches, loss, backward pass, clipping and optimizer;
only values are missing. Counted are matrix products by data type, attention, masks, copies of keys and values, casts,
and operations that make the host wait for the GPU. Sizes come from shapes: FLOPs are 2 per multiplication and addition,
as in torch.utils.flop_counter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from bitsandbytes.optim import optimizer as bitsandbytes_optimizer
from msgspec import Struct
from small_training import Steps, make_training
from torch._subclasses.fake_tensor import FakeTensor

from engine.config import schema
from engine.config.device_defaults import (
    SHAPE_MULTIPLE,
    ActivationCheckpointing,
    ResolvedCheckpointing,
    optimizer_name,
    resolve_checkpointing,
)
from engine.config.files import SCRATCH_PREFIX, temporary_folder
from engine.config.model_config import mixing_reason
from engine.data.rows import Row
from engine.evaluation import score
from engine.evaluation.worst_case import longest_answers, run_worst_case
from engine.extensions.doctor.report import required_flops
from engine.memory.dry_run.fake_model import allocate, bare_model, trainable
from engine.memory.dry_run.layer_pattern import SHALLOW_PERIODS, layer_pattern, shallow
from engine.memory.dry_run.memory_tracker import DenseFakeTensorMode, MemoryTracker
from engine.memory.formula.estimate import Device
from engine.methods.machine import Machine, compute_dtype, kernels_of
from engine.methods.model_source import vocabulary_size
from engine.methods.optimizers import make_unpaged
from engine.training import batches as batches_module
from engine.training import varlen_attention
from engine.training.batches import BatchSampler, MicroBatch, Packing, choose_packing, micro_batches
from engine.training.fit import StepFacts, fit


class PhaseCounts(Struct, frozen=True, kw_only=True):
    """Counts of one phase: a training step, a held-out loss, or prefill and one decoding step."""

    tokens: int
    """Tokens computed."""
    micro_batches: int
    matmul: dict[str, int]
    """FLOPs of matrix products by data type."""
    mask_bytes: int
    """Bytes of masks of T x T, for T tokens in a micro-batch."""
    repeated_bytes: int
    """Bytes of keys and values copied for each query head."""
    cast_bytes: int
    """Bytes written by casts of activations and gradients between floating point types."""
    logits_bytes: int
    """Peak bytes of logits and their gradients."""
    host_waits: dict[str, int]
    """Operations for which the host waits for the GPU."""
    optimizer_waits: int = 0
    """Calls of `torch.cuda.synchronize` by bitsandbytes' optimizer: one per trained tensor."""
    blocking_copies: int = 0
    """Copies to the GPU for which the host waits."""

    @property
    def flops(self) -> int:
        return sum(self.matmul.values())


class MethodAudit(Struct, frozen=True, kw_only=True):
    """Counts of one method."""

    method: str
    precision: str
    """Data type of the weights."""
    layers: int
    """Decoder layers that ran; 0: all."""
    all_layers: int
    """Decoder layers of the model."""
    tokens: int
    """Tokens of the step's rows."""
    checkpointing: ResolvedCheckpointing
    """As `train.gradient_checkpointing`, with `auto` resolved."""
    optimizer_tensors: int
    """Tensors that bitsandbytes updates; 0 with torch's optimizer."""
    training: PhaseCounts
    required_flops: int
    """FLOPs of the step's matrix products by the shapes of the layers (`required_flops`)."""
    held_out: PhaseCounts
    decoding: PhaseCounts

    @property
    def flops_ratio(self) -> float:
        """Matrix products computed / required."""
        return self.training.flops / self.required_flops


MAX_FLOPS_RATIO = 1.05
MAX_TOKENS_RATIO = 1.05
MAX_HOST_WAITS = 1
MAX_LOGITS = 256 << 20
"""Bytes."""


@dataclass(frozen=True)
class Bound:
    """A measured value and its limit."""

    name: str
    value: float
    limit: float
    unit: str = ""

    @property
    def kept(self) -> bool:
        return self.value <= self.limit


def bounds(audit: MethodAudit) -> list[Bound]:
    """Every bound of one method."""
    phases = (audit.training, audit.held_out, audit.decoding)
    waits = sum(audit.training.host_waits.values())
    logits = max(phase.logits_bytes for phase in phases)
    checked = [
        Bound("matmul FLOPs / required", audit.flops_ratio, MAX_FLOPS_RATIO),
        Bound("tokens computed / real", audit.training.tokens / audit.tokens, MAX_TOKENS_RATIO),
        Bound("materialized T x T attention masks", sum(phase.mask_bytes for phase in phases), 0, "bytes"),
        Bound("repeated keys and values", sum(phase.repeated_bytes for phase in phases), 0, "bytes"),
        Bound("host synchronizations per optimizer step", waits, MAX_HOST_WAITS),
        Bound("blocking copies to the GPU", audit.training.blocking_copies, 0),
        Bound("synchronizations of the optimizer", audit.training.optimizer_waits, audit.optimizer_tensors),
        Bound("logits", logits, MAX_LOGITS, "bytes"),
    ]
    if audit.precision == "bfloat16":
        checked.insert(0, Bound("float32 matmul", sum(map(_float32, phases)), 0, "FLOPs"))
    return checked


def _float32(phase: PhaseCounts) -> int:
    return phase.matmul.get("float32", 0)


aten = torch.ops.aten
HOST_WAITS = {
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
}
"""Operations whose result, or whose shape, the host reads from the GPU."""
MIN_CAST = 1 << 16
"""Elements: smaller casts are scalars, positions and masks of a row."""


class OperationCounter(MemoryTracker):
    """Tracks memory like `MemoryTracker`, and counts operations."""

    def __init__(self, device: Device, vocabulary: int, bf16: bool = True) -> None:
        super().__init__(device, vocabulary, bf16)
        self._on_host = False
        self.reset()

    def reset(self) -> None:
        """Start counting again."""
        self.all_tokens = 0
        """Tokens of all micro-batches."""
        self.length = 0
        """Tokens of a sequence of the current micro-batch: a mask has this many rows and columns."""
        self.matmul: Counter[torch.dtype] = Counter()
        """FLOPs of matrix products by the data type in which they are computed."""
        self.mask_bytes = 0
        self.repeated_bytes = 0
        """Bytes of copies of keys and values for each query head."""
        self.cast_bytes = 0
        """Bytes written by casts between floating point types, other than casts of weights."""
        self.waits: Counter[str] = Counter()
        """Operation -> number of times that the host waits for it."""
        self.peak_logits = 0
        self.optimizer_waits = self.blocking_copies = 0
        self._read_last = 0

    def begin_batch(self, tokens: int, length: int) -> None:
        """Start a micro-batch of this many tokens, in sequences of `length` tokens."""
        self.length = length
        self.all_tokens += tokens

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """Context for work that a run does on the CPU: its operations are not the GPU's."""
        before, self._on_host = self._on_host, True
        try:
            yield
        finally:
            self._on_host = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default and args[0].dtype == torch.bool and isinstance(args[0], FakeTensor):
            result: Any = True  # `isfinite`
        else:
            result = super().__torch_dispatch__(func, types, args, kwargs)
        if not self._on_host:
            self._count(func, args, result)
            self.peak_logits = max(self.peak_logits, self.now.get("logits", 0))
        return result

    def _count(self, func: Any, args: Any, result: Any) -> None:
        if func in HOST_WAITS or _has_bool_index(func, args):
            self._count_wait(func, args)
        if (flops := matmul_flops(func, args)) and isinstance(args[0], FakeTensor):
            self.matmul[_computed_in(func, args)] += flops
        for tensor in _tensors(result):
            self._count_tensor(func, args, tensor)

    def _count_wait(self, func: Any, args: Any) -> None:
        """Elements of one tensor that are read one after the other, as `tolist` does, are one transfer."""
        source = args[0].untyped_storage()._cdata
        if func not in (aten._local_scalar_dense.default, aten.item.default) or source != self._read_last:
            self.waits[func.__name__.split(".")[0]] += 1
        self._read_last = source

    def _count_tensor(self, func: Any, args: Any, tensor: torch.Tensor) -> None:
        shape = tensor.shape
        if func.is_view or tensor.ndim < 2:
            return
        if self.length > 1 and shape[-1] == shape[-2] == self.length:
            self.mask_bytes += _bytes(tensor)
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if source is None or not isinstance(source, FakeTensor):
            return
        if func is aten.clone.default and source.ndim == 5 and _is_expanded(source):
            self.repeated_bytes += _bytes(tensor)
        if func is aten._to_copy.default and source.is_floating_point() and tensor.is_floating_point():
            changed = source.dtype != tensor.dtype and tensor.numel() >= MIN_CAST
            self.cast_bytes += _bytes(tensor) if changed and not _is_weight(source) else 0


def matmul_flops(func: Any, args: Any) -> int:
    """FLOPs of a matrix product; 0 for other operations, and for products with one term per sum (rotary angles)."""
    packet = getattr(func, "overloadpacket", None)
    if packet in (aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten._grouped_mm):
        left, right = args[1:3] if packet in (aten.addmm, aten.baddbmm) else args[:2]
        if left.shape[-1] == 1:
            return 0
        if packet is aten._grouped_mm:  # of tokens with a weight per expert or, backward, of tokens with tokens
            terms = left.numel() * right.shape[-1]
            return 2 * terms
        return 2 * math.prod(left.shape) * int(right.shape[-1])
    if func is torch.ops.bitsandbytes.gemm_4bit.default:
        inputs, _packed, shape = args[:3]
        return 2 * inputs.numel() * int(shape[0])
    return 0


def _computed_in(func: Any, args: Any) -> torch.dtype:
    if func is torch.ops.bitsandbytes.gemm_4bit.default:
        return args[0].dtype
    factors = [arg for arg in args[:3] if isinstance(arg, torch.Tensor) and arg.is_floating_point()]
    return max((factor.dtype for factor in factors), key=lambda dtype: dtype.itemsize)


def _has_bool_index(func: Any, args: Any) -> bool:
    """Whether an operation indexes by a boolean tensor: its number of results is known only to the GPU."""
    if func not in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default):
        return False
    booleans = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
    return bool(booleans)


def _is_expanded(tensor: torch.Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _is_weight(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _tensors(values: Any) -> list[torch.Tensor]:
    values = values if isinstance(values, (list, tuple)) else [values]
    return [value for value in values if isinstance(value, torch.Tensor)]


GPU = Machine("cuda", "a GPU", bf16=True, flash_attention=False)
STEPS = 2
"""The first step creates the optimizer's state; the second is audited."""
DECODED_ROWS, NEW_TOKENS = 8, 32


def audit_method(config: schema.Config, model_config: Any, rows: Sequence[Row], micro_batch: int) -> MethodAudit:
    """Audit `config` on a GPU with bf16, for an optimizer step of `rows` in micro-batches of `micro_batch` rows.

    Of many identical decoder layers a few run (`dry_run`): the bounds hold per layer.
    `model_config`: transformers' configuration of the model. Raises UserError if the model cannot be built.
    """
    bare = bare_model(config, model_config, GPU)
    checkpointing = resolve_checkpointing(config.train.gradient_checkpointing, GPU.device)
    pattern = layer_pattern(bare, checkpointing)
    layers = pattern.layers if pattern else 0
    if pattern is not None:
        bare = shallow(bare, pattern, SHALLOW_PERIODS)
    model: Any = trainable(bare, config, GPU)
    vocabulary = vocabulary_size(model_config)
    longest = max(len(row.input_ids) for row in rows)
    segments = not varlen_attention.unsupported_reason(model, longest, GPU, compute_dtype(config, GPU))
    if segments:
        varlen_attention.enable(model)
    mixed = bool(mixing_reason(model_config.to_dict()))
    packing = choose_packing(rows, config.train.packing, GPU.device, segments, segments, mixed)
    counter = OperationCounter(GPU.device, vocabulary)
    with DenseFakeTensorMode(), counter, kernels_of(GPU.device), _shapes_of_gpu():
        allocate(model)
        training = _training(model, config, rows, micro_batch, packing, counter, checkpointing)
        held_out = _held_out(model, rows, packing, counter)
        decoding = _decoding(model, rows, counter)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    own = optimizer_name(config.optimizer.name, GPU.device) == "adamw" and trained[0].dtype == torch.float32
    return MethodAudit(
        method=config.method,
        optimizer_tensors=0 if own else len(trained),
        layers=pattern.layers_of(SHALLOW_PERIODS) if pattern else 0,
        all_layers=layers,
        precision=str(next(iter(model.parameters())).dtype).removeprefix("torch."),
        tokens=sum(len(row.input_ids) for row in rows),
        checkpointing=checkpointing.setting,
        training=training,
        required_flops=required_flops(model, rows, checkpointing),
        held_out=held_out,
        decoding=decoding,
    )


class _StepCounts(Steps):
    """Counts the operations of each step, which has `groups` micro-batches."""

    def __init__(self, counter: OperationCounter, groups: int) -> None:
        super().__init__(begin=counter.reset)
        self.counter, self.groups = counter, groups
        self.counts: list[PhaseCounts] = []

    def step(self, facts: StepFacts) -> None:
        self.counts.append(_counts(self.counter, self.groups))
        self.counter.reset()


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

    with (
        _collation_on_host(counter, batches_module, "collate_on_host"),
        _counted_synchronizations(counter),
        temporary_folder(SCRATCH_PREFIX) as folder,
    ):
        training = make_training(
            model, rows, sampler, config, optimizer, Path(folder), packing=packing, micro_batch=micro_batch,
            checkpointing=checkpointing,
        )  # fmt: skip
        fit(training, steps)
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
    run_worst_case(model, answers, 0, "cpu", planned="cuda")
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
        optimizer_waits=counter.optimizer_waits,
        blocking_copies=counter.blocking_copies,
    )


@contextmanager
def _counted_synchronizations(counter: OperationCounter) -> Iterator[None]:
    """Context that counts the tensors for which bitsandbytes' optimizer waits."""

    def wait(parameter: torch.Tensor) -> None:
        counter.optimizer_waits += 1

    with mock.patch.object(bitsandbytes_optimizer, "sync_gpu", wait):
        yield


@contextmanager
def _collation_on_host(counter: OperationCounter, module: Any, name: str = "collate") -> Iterator[None]:
    """Context in which a module's collation is work of the CPU, as in a run, and sets the tokens of the batch."""
    original = getattr(module, name)

    def collate(*args: Any, **kwargs: Any) -> Any:
        with counter.on_host():
            batch = original(*args, **kwargs)
            counter.blocking_copies += blocking_copies(batch)
        counter.begin_batch(batch.tokens, batch.model_inputs["input_ids"].shape[-1])
        return batch

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(module, name, collate))
        yield


def blocking_copies(batch: MicroBatch) -> int:
    """Copies of a batch, and of the indices of its segments, to a GPU for which the host would wait: all but those from
    pinned memory that are asked not to block.
    """
    pinned, blocking = set[int](), [0]

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.add(id(tensor))
        return tensor

    def to(tensor: torch.Tensor, device: Any, non_blocking: bool = False) -> torch.Tensor:
        if torch.device(device).type == "cuda":
            blocking[0] += not (non_blocking and id(tensor) in pinned)
        return tensor

    with mock.patch.object(torch.Tensor, "pin_memory", pin), mock.patch.object(torch.Tensor, "to", to):
        moved = batch.to("cuda")
        if segments := moved.model_inputs.get("segments"):
            segments.gathered_keys(torch.device("cuda"))
    return blocking[0]


@contextmanager
def _shapes_of_gpu() -> Iterator[None]:
    """Context in which batches are padded as on a GPU."""
    with mock.patch.dict(SHAPE_MULTIPLE, cpu=SHAPE_MULTIPLE[GPU.device]):
        yield


def rows_of(lengths: list[int]) -> list[Row]:
    """Rows of these lengths with half of their tokens in the loss, without common prefixes."""
    return [
        Row([1 + number] * length, [-100] * (length // 2) + [5] * (length - length // 2), [1], "", "", False)
        for number, length in enumerate(lengths)
    ]
