"""The rows of each optimizer step: how they are split into micro-batches, and the tensors of a micro-batch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from engine.config.device_defaults import (
    HELD_OUT_LOGITS,
    HELD_OUT_ROWS,
    HELD_OUT_TOKENS,
    MAX_MASKED_TOKENS,
    MAX_TOKENS,
    PACKED_MEAN_LENGTH,
    SHAPE_MULTIPLE,
    PackingMode,
)
from engine.config.method_specs import method_spec, steps_in_backward
from engine.config.schema import Config
from engine.data.prepared import lengths_of
from engine.data.rows import IGNORE_INDEX, Row
from engine.methods.machine import copy_to
from engine.training.segments import (
    MIN_SHARED_TOKENS,
    Arrangement,
    Segment,
    Segments,
    common_prefix_length,
    computed_tokens,
    saved_tokens,
)


@dataclass(frozen=True)
class Packing:
    """How rows are combined into a micro-batch.

    `packed`: end to end in one sequence. `shared_prefix`: the same, with common prefixes computed once. `padded`: to a
    batch, padded on the left.
    """

    mode: PackingMode
    tokens: int
    """Maximum tokens of a micro-batch with several rows, padding included."""
    segments: bool = False
    """Whether packed rows are separated by `segments`; otherwise the model separates them by their position ids."""
    lengths: bool = False
    """Whether FlashAttention gets the cumulative lengths of packed rows (`FlashAttentionKwargs` of transformers).
    Without them each layer computes them from the position ids, and the host waits for the GPU several times in each.
    """

    @property
    def one_sequence(self) -> bool:
        return self.mode != "padded"


@dataclass
class MicroBatch:
    """The tensors of one forward pass over B rows of up to L tokens, T tokens in total.

    `model_inputs` are keyword arguments of the model: input_ids and position_ids of shape (1, T) when packed, and
    input_ids, position_ids and attention_mask of shape (B, L) when padded. The LM head runs at the C `columns`; K of
    the targets are in the loss.
    """

    model_inputs: dict[str, Any]
    columns: torch.Tensor
    """(C,): indices in the sequence, from which a token in the loss is predicted; an index is repeated if rows that
    share it differ in the next token.
    """
    targets: torch.Tensor
    """(1, C) or (B, C): the token to predict, or -100."""
    weights: torch.Tensor | None
    """Loss weights of the targets in float32, with their shape; None if all are 1."""
    predictions: torch.Tensor | None = None
    """(N,): for each token in the loss, row by row, its index among the targets in the loss; None if they are in that
    order.
    """
    kept: torch.Tensor | None = None
    """(K,): index of each prediction in the loss among the flattened targets of a padded batch; None if packed."""

    def kept_targets(self) -> torch.Tensor:
        """(K,): the targets in the loss."""
        return self.targets[0] if self.kept is None else self.targets.flatten().index_select(0, self.kept)

    @property
    def tokens(self) -> int:
        """Tokens computed, padding included."""
        return int(self.model_inputs["input_ids"].numel())

    def to(self, device: str) -> MicroBatch:
        """The same tensors on a device."""
        return self._map(lambda tensor: copy_to(tensor, device))

    def pinned(self) -> MicroBatch:
        """The same tensors in pinned host memory, from which a GPU copies without waiting."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> MicroBatch:
        inputs = {
            name: change(value) if isinstance(value, torch.Tensor) else value
            for name, value in self.model_inputs.items()
        }
        rest = (self.weights, self.predictions, self.kept)
        moved = [None if tensor is None else change(tensor) for tensor in rest]
        return MicroBatch(inputs, change(self.columns), change(self.targets), *moved)


def collate(rows: Sequence[Row], packing: Packing, pad: int, device: str) -> MicroBatch:
    batch = collate_on_host(rows, packing, pad, device)
    return batch if device == "cpu" else batch.to(device)


def collate_on_host(rows: Sequence[Row], packing: Packing, pad: int, device: str) -> MicroBatch:
    """The micro-batch of these rows for a device, in host memory."""
    multiple = SHAPE_MULTIPLE[device]
    return _one_sequence(rows, packing, pad, multiple) if packing.one_sequence else _padded(rows, pad, multiple)


class Collator:
    """Collates micro-batches, on a GPU the next one in a thread while the present one is computed.

    The next micro-batch is predicted. The prediction is used only if its key equals the key of the requested
    micro-batch, so that micro-batches are the same with and without the thread, and after a resume. On a CPU a thread
    would compete with the kernels.

    Collating takes 0.8 to 1.3 µs per token (32 rows of 512 tokens, 8 of 2,048; AMD EPYC). Without the thread a GPU that
    trains on 50,000 tokens/s would wait for 4 to 6% of the time in steps with one micro-batch, as each begins when the
    GPU is idle.
    """

    def __init__(self, packing: Packing, pad: int, device: str, in_thread: bool | None = None) -> None:
        """`in_thread`: None to collate in a thread on a GPU."""
        self.packing, self.pad, self.device = packing, pad, device
        in_thread = device == "cuda" if in_thread is None else in_thread
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collate") if in_thread else None
        self._expected: tuple[Hashable, Future[MicroBatch]] | None = None

    def expect(self, key: Hashable, rows: Callable[[], Sequence[Row]]) -> None:
        """Begin to collate rows that are probably asked for next; `key` must determine them."""
        if self._thread is not None:
            self._expected = key, self._thread.submit(lambda: self._on_host(rows()))

    def take(self, key: Hashable, rows: Sequence[Row]) -> MicroBatch:
        """The micro-batch of these rows on the device. Raises what collating it in the thread raised."""
        expected, self._expected = self._expected, None
        same = expected is not None and expected[0] == key
        batch = expected[1].result() if expected is not None and same else self._on_host(rows)
        return batch if self.device == "cpu" else batch.to(self.device)

    def _on_host(self, rows: Sequence[Row]) -> MicroBatch:
        batch = collate_on_host(rows, self.packing, self.pad, self.device)
        return batch.pinned() if self.device == "cuda" else batch


def answer_tokens(row: Row) -> int:
    """Number of tokens of a row that are in the loss, regardless of their weight."""
    return len(row.labels) - 1 - row.labels[1:].count(IGNORE_INDEX)


def loss_weight(row: Row) -> float:
    """Sum of the loss weights of a row's tokens in the loss; their number if the row has no weights.

    The loss of several rows is sum(weight * nll) / sum(weight) over all their tokens.
    """
    if row.weights is None:
        return answer_tokens(row)
    return math.fsum(target_weights(row))


def targets_of(row: Row) -> list[int]:
    """The label of the next token at each position; the last position predicts nothing."""
    return [*row.labels[1:], IGNORE_INDEX]


def target_weights(row: Row) -> list[float]:
    """The loss weight of the next token at each position; 0 if it is not in the loss."""
    weights = row.weights or [1.0] * len(row.labels)
    return [weight * (label != IGNORE_INDEX) for weight, label in zip(weights[1:], row.labels[1:], strict=True)] + [0.0]


def _one_sequence(rows: Sequence[Row], packing: Packing, pad: int, multiple: int) -> MicroBatch:
    """Pack rows; padding to a multiple forms one more row, which no other row attends to and which has no loss.

    It continues the prefixes of the last rows, so that the number of tokens that continue a prefix of all rows is that
    of a multiple too.
    """
    arrangement = Arrangement([row.input_ids for row in rows], packing.mode == "shared_prefix")
    ids, positions, segments = arrangement.ids, arrangement.positions, arrangement.segments
    padding = -len(ids) % multiple
    if padding:
        end = len(ids) + padding
        segments = tuple(
            segment._replace(reach=end) if segment.end < segment.reach == len(ids) else segment for segment in segments
        )
        segments += (Segment(len(ids), end, end),)
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([ids + [pad] * padding]),
        "position_ids": torch.tensor([positions + list(range(padding))]),
    }
    if packing.segments:
        # transformers builds no mask if it gets one of four dimensions; attention over segments ignores it.
        inputs |= {"segments": Segments(segments), "attention_mask": torch.ones((1, 1, 1, 1), dtype=torch.bool)}
    if packing.lengths:  # `FlashAttentionKwargs`, with lengths as numbers of the host
        ends = torch.tensor([0, *(segment.end for segment in segments)], dtype=torch.int32)
        longest = max(segment.end - segment.start for segment in segments)
        inputs |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return MicroBatch(inputs, *_predictions(rows, arrangement.columns))


def _predictions(
    rows: Sequence[Row], columns: Sequence[Sequence[range]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Columns (K,), targets (1, K), weights (1, K) and predictions (N,) of rows at these columns of one sequence.

    What several rows predict alike is computed once, with the sum of their weights.
    """
    summed: dict[tuple[int, int], float] = {}
    predicted: list[tuple[int, int]] = []
    for row, ranges in zip(rows, columns, strict=True):
        places = [column for part in ranges for column in part]
        for column, target, weight in zip(places, targets_of(row), target_weights(row), strict=True):
            if target != IGNORE_INDEX:
                summed[column, target] = summed.get((column, target), 0.0) + weight
                predicted.append((column, target))
    keys = list(summed)
    number = {key: index for index, key in enumerate(keys)}
    plain = all(weight == 1.0 for weight in summed.values())
    return (
        torch.tensor([column for column, _ in keys], dtype=torch.long),
        torch.tensor([[target for _, target in keys]], dtype=torch.long),
        None if plain else torch.tensor([list(summed.values())]),
        None if predicted == keys else torch.tensor([number[key] for key in predicted]),
    )


def _padded(rows: Sequence[Row], pad: int, multiple: int) -> MicroBatch:
    longest = max(len(row.input_ids) for row in rows)
    longest += -longest % multiple
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    targets = torch.full((len(rows), longest), IGNORE_INDEX)
    weights = torch.zeros((len(rows), longest)) if any(row.weights is not None for row in rows) else None
    for number, row in enumerate(rows):
        start = longest - len(row.input_ids)
        ids[number, start:] = torch.tensor(row.input_ids)
        mask[number, start:] = 1
        targets[number, start:] = torch.tensor(targets_of(row))
        if weights is not None:
            weights[number, start:] = torch.tensor(target_weights(row))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    columns = (targets != IGNORE_INDEX).any(0).nonzero()[:, 0]
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    targets = targets[:, columns]
    kept = (targets != IGNORE_INDEX).flatten().nonzero()[:, 0]
    return MicroBatch(inputs, columns, targets, None if weights is None else weights[:, columns], kept=kept)


WORTHWHILE_RATIO = 1.05
MAX_COMPARED = 20_000
"""Rows whose common prefix is measured; more would delay the start of a run by seconds."""
SAMPLED_STEPS = 32
"""Steps whose rows tell how much sharing prefixes saves."""


@dataclass(frozen=True)
class BatchSampler:
    """Row indices of every optimizer step: one seeded permutation per epoch, whose last batch may be smaller.

    As `torch.utils.data.BatchSampler`, but looked up by step, for resuming and for planning.
    """

    rows: int
    batch: int
    steps: int
    seed: int

    @classmethod
    def of(cls, rows: int, batch: int, epochs: float, steps: int | None, seed: int) -> BatchSampler:
        """`steps` if given, else `epochs` times the batches per epoch, at least one."""
        per_epoch = math.ceil(rows / batch)
        return cls(rows, batch, steps or max(1, round(epochs * per_epoch)), seed)

    @property
    def per_epoch(self) -> int:
        return math.ceil(self.rows / self.batch)

    def indices(self, step: int) -> list[int]:
        """Row indices of optimizer step `step` (from 0)."""
        epoch, place = divmod(step, self.per_epoch)
        return self.order(epoch)[place * self.batch : (place + 1) * self.batch].tolist()

    def order(self, epoch: int) -> torch.Tensor:
        """(rows,): row indices of an epoch, one batch after another."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.rows, generator=generator)


class StepDataset:
    """The rows of each optimizer step."""

    def __init__(self, rows: Sequence[Row], sampler: BatchSampler) -> None:
        self.rows, self.sampler = rows, sampler

    def __len__(self) -> int:
        return self.sampler.steps

    def __getitem__(self, step: int) -> list[Row]:
        return [self.rows[index] for index in self.sampler.indices(step)]


class Sharing(NamedTuple):
    """What computing common prefixes once saves, or would save, in training."""

    prefix: int
    """Tokens of the prefix common to `rows` rows; 0 if it is shorter than MIN_SHARED_TOKENS."""
    rows: int
    """Rows that were compared: all training rows, or those of the sampled steps if there are more than MAX_COMPARED."""
    ratio: float
    """Tokens of the rows divided by tokens computed, over a sample of steps; 1 without common prefixes."""

    @property
    def worthwhile(self) -> bool:
        """Whether the setting "auto" shares prefixes."""
        return self.ratio >= WORTHWHILE_RATIO


NO_SHARING = Sharing(0, 0, 1.0)


def sharing_of(rows: Sequence[Row], sampler: BatchSampler, micro_batch: int, packing: Packing) -> Sharing:
    """Measure the sharing of the micro-batches of up to SAMPLED_STEPS steps."""
    packing = replace(packing, mode="shared_prefix")
    tokens = computed = 0
    sampled: set[int] = set()
    for step in {round(n * (sampler.steps - 1) / (SAMPLED_STEPS - 1)) for n in range(SAMPLED_STEPS)}:
        indices = sampler.indices(step)
        sampled.update(indices)
        for group in micro_batches([rows[index] for index in indices], micro_batch, packing):
            ids = [row.input_ids for row in group]
            tokens += sum(map(len, ids))
            computed += computed_tokens(ids)
    compared = range(len(rows)) if len(rows) <= MAX_COMPARED else sorted(sampled)
    prefix = rows[compared[0]].input_ids
    for index in compared:
        prefix = prefix[: common_prefix_length(prefix, rows[index].input_ids)]
        if len(prefix) < MIN_SHARED_TOKENS:
            prefix = []
            break
    return Sharing(len(prefix), len(compared), tokens / max(1, computed))


def choose_packing(
    rows: Sequence[Row], setting: str, device: str, varlen: bool, segments: bool = False, mixed: bool = False
) -> Packing:
    """The configured packing; for "auto", packed if attention needs no dense mask or rows are short, else padded.

    `segments`: whether the model supports attention over segments; `varlen`: whether packed rows need no dense mask,
    because of segments or FlashAttention. Shared prefixes need segments. `mixed`: whether packed rows influence each
    other without segments (`engine.config.model_config`). Then rows are padded if the model does not support segments,
    and `setting` is ignored.
    """
    if mixed and not segments:
        return Packing("padded", MAX_TOKENS[device])
    mean = int(lengths_of(rows).sum()) / max(1, len(rows))
    packing = setting if setting != "auto" else "packed" if varlen or mean <= PACKED_MEAN_LENGTH else "padded"
    if packing == "padded":
        return Packing("padded", MAX_TOKENS[device])
    mode: PackingMode = "shared_prefix" if packing == "shared_prefix" and segments else "packed"
    return Packing(mode, (MAX_TOKENS if varlen else MAX_MASKED_TOKENS)[device], segments)


def decide_sharing(
    packing: Packing, rows: Sequence[Row], sampler: BatchSampler, config: Config, unshared: str = ""
) -> tuple[Packing, Sharing]:
    """Decide whether prefixes are shared, and return what that saves or would save. `unshared`: why they cannot be.

    With `train.packing = "auto"` they are if the rows have at least 1.05 times the tokens that are then computed in
    training. Not with dropout in adapters: a shared prefix has one dropout mask instead of one for each row, which
    changes the noise though not its expectation.
    """
    train = config.train
    if unshared and packing.segments:
        return replace(packing, mode="packed"), NO_SHARING
    if not packing.segments or train.packing not in ("auto", "shared_prefix") or not len(rows):
        return packing, NO_SHARING
    sharing = sharing_of(rows, sampler, train.batch if train.micro_batch == "auto" else train.micro_batch, packing)
    if train.packing == "auto" and sharing.worthwhile and not has_adapter_dropout(config):
        return replace(packing, mode="shared_prefix"), sharing
    return packing, sharing


def has_adapter_dropout(config: Config) -> bool:
    return config.adapter.dropout > 0 and not method_spec(config.method).trains_weights


def step_packing(packing: Packing, config: Config) -> Packing:
    """The packing of training steps: each is one micro-batch if weights are updated during the backward pass."""
    return replace(packing, tokens=sys.maxsize) if steps_in_backward(config) else packing


def micro_batches(rows: Sequence[Row], micro_batch: int, packing: Packing | None = None) -> Iterator[list[Row]]:
    """Split a step's rows into micro-batches of at most `micro_batch` rows: longest first, with shared prefixes in
    lexicographic order, so that rows with a common prefix are neighbors.

    `packing` also limits their tokens; a row longer than the limit forms a micro-batch alone.
    """
    shares = packing is not None and packing.mode == "shared_prefix"
    group: list[Row] = []
    tokens = 0
    for row in sorted(rows, key=(lambda row: row.input_ids) if shares else lambda row: -len(row.input_ids)):
        added = len(row.input_ids) - (saved_tokens(group[-1].input_ids, row.input_ids) if shares and group else 0)
        longest = len(group[0].input_ids) if group else 0
        grown = tokens + added if packing and packing.one_sequence else longest * (len(group) + 1)
        if group and (len(group) == micro_batch or (packing and grown > packing.tokens)):
            yield group
            group, tokens, added = [], 0, len(row.input_ids)
        group.append(row)
        tokens += added
    if group:
        yield group


def rank_parts(rows: Sequence[Row], ranks: int, packing: Packing) -> list[list[Row]]:
    """The rows of a step for each rank, with about as many tokens each; some are empty if there are fewer rows.

    With shared prefixes neighbors in lexicographic order stay together; otherwise the longest row left goes to the rank
    with the fewest tokens (longest processing time first, Graham 1969).
    """
    parts: list[list[Row]] = [[] for _ in range(ranks)]
    if ranks == 1:
        return [list(rows)]
    if packing.mode == "shared_prefix":
        ordered = sorted(rows, key=lambda row: row.input_ids)
        total, before = sum(len(row.input_ids) for row in rows), 0
        for row in ordered:
            parts[min(ranks - 1, (before + len(row.input_ids) // 2) * ranks // total)].append(row)
            before += len(row.input_ids)
        return parts
    tokens = [0] * ranks
    for row in sorted(rows, key=lambda row: -len(row.input_ids)):
        lightest = tokens.index(min(tokens))
        parts[lightest].append(row)
        tokens[lightest] += len(row.input_ids)
    return parts


def held_out_batches(
    rows: Sequence[Row], packing: Packing, device: str, vocabulary: int, answers_only: bool
) -> Iterator[list[Row]]:
    """Split held-out rows into batches. `answers_only`: the LM head runs only at answer tokens."""
    limits = replace(packing, tokens=min(packing.tokens, HELD_OUT_TOKENS[device]))
    max_positions = max(1, HELD_OUT_LOGITS // vocabulary)
    for group in micro_batches(rows, HELD_OUT_ROWS, limits):
        # Split the group so that the LM head runs at no more than `max_positions` positions; never split a row.
        part: list[Row] = []
        columns: set[int] = set()
        answers = 0
        for row in group:
            # Where the LM head runs, counted from the row's end because padding is on the left.
            targets = targets_of(row)
            own = {
                len(targets) - place
                for place, target in enumerate(targets)
                if target != IGNORE_INDEX or not answers_only
            }
            positions = answers + len(own) if packing.one_sequence else (len(part) + 1) * len(columns | own)
            if part and positions > max_positions:
                yield part
                part, columns, answers = [], set(), 0
            part.append(row)
            columns |= own
            answers += len(own)
        yield part
