"""A deep model by two shallow ones: what equal decoder blocks hold grows by the same with each of them.

At any moment of a step (the loss, the last block's backward pass, the optimizer's step …) the bytes alive are affine in
the number of blocks: each adds its weights, its optimizer state and what it keeps. The peak over all moments is not,
since another moment may be the highest in a deeper model; so moments are told apart and extrapolated one by one.
Blocks at both ends are watched apart from those between: while a pass walks through equal blocks its memory rises
or falls by the same with each, so that it is highest at an end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from engine.memory.dry_run.memory_tracker import MemoryTracker

SHALLOW_PERIODS, DEEPER_PERIODS = 2, 3
"""Periods of the shallow models."""
FIRST, BETWEEN, LAST = "first blocks", "blocks between", "last blocks"
NUMBERS = {"layer_idx", "layer_id", "layer_index", "layer_number"}
"""Attributes that say which block it is and not of which kind."""


@dataclass(frozen=True)
class LayerPattern:
    """How kinds of blocks repeat: some of their own first, then periods; what is left over begins like a period."""

    blocks: int
    first: int
    period: int

    @property
    def periods(self) -> int:
        """Whole ones."""
        return (self.blocks - self.first) // self.period

    def with_periods(self, periods: int) -> int:
        """Blocks of a model that has so many periods and is otherwise like this one."""
        return self.blocks - (self.periods - periods) * self.period

    @property
    def begins(self) -> int:
        """Blocks at the beginning among which every kind is met."""
        return self.first + self.period

    @property
    def ends(self) -> int:
        """The same at the end."""
        return self.period + (self.blocks - self.first) % self.period


def blocks_of(model: torch.nn.Module) -> torch.nn.ModuleList | None:
    """The decoder's blocks; None where it has no one list of them."""
    found = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) > 1
        and all(isinstance(block, GradientCheckpointingLayer) for block in module)
    ]
    return found[0] if len(found) == 1 else None


def depth_of(model: torch.nn.Module) -> LayerPattern | None:
    """The repetition that leaves the fewest blocks to run; None where running all of them is as quick."""
    blocks = blocks_of(model)
    if blocks is None:
        return None
    known: dict[Any, int] = {}
    kinds = [known.setdefault(_kind(block), len(known)) for block in blocks]
    found = [
        LayerPattern(len(kinds), first, period)
        for period in range(1, len(kinds) // (DEEPER_PERIODS + 1) + 1)
        for first in range(len(kinds) - period * (DEEPER_PERIODS + 1) + 1)
        if kinds[first + period :] == kinds[first:-period]
    ]
    best = min(found, key=lambda depth: depth.with_periods(DEEPER_PERIODS), default=None)
    worth = best is not None and best.with_periods(SHALLOW_PERIODS) + best.with_periods(DEEPER_PERIODS) < best.blocks
    return best if worth else None


def _kind(block: torch.nn.Module) -> Any:
    """What tells two kinds of block apart: classes, shapes, and every plain setting but the block's number."""
    return tuple(
        (
            name,
            type(module),
            tuple((key, value.shape, value.dtype) for key, value in module._parameters.items() if value is not None),
            tuple((key, value.shape, value.dtype) for key, value in module._buffers.items() if value is not None),
            tuple(
                (key, value)
                for key, value in vars(module).items()
                if key not in NUMBERS and isinstance(value, (int, float, str, type(None)))
            ),
        )
        for name, module in block.named_modules()
    )


def shallow(model: PreTrainedModel, depth: LayerPattern, periods: int) -> PreTrainedModel:
    """A copy with so many periods; `model` is on meta, where copies cost nothing."""
    cut = copy.deepcopy(model)
    blocks = blocks_of(cut)
    assert blocks is not None
    count = depth.with_periods(periods)
    blocks._modules = dict(list(blocks._modules.items())[:count])
    config = cut.config.get_text_config()  # caches are made by it
    config.num_hidden_layers = count
    if isinstance(kinds := getattr(config, "layer_types", None), list):
        config.layer_types = kinds[:count]
    return cut


@contextmanager
def watched(model: torch.nn.Module, depth: LayerPattern | None, live: MemoryTracker) -> Iterator[None]:
    """Meanwhile moments begin where a pass comes to the first blocks, to those between and to the last ones."""
    blocks = blocks_of(model)
    if blocks is None or depth is None:
        yield
        return
    count = len(blocks)
    forward = {0: FIRST, depth.begins: BETWEEN, count - depth.ends: LAST}
    backward = {count - 1: LAST, count - depth.ends - 1: BETWEEN, depth.begins - 1: FIRST}

    def entered(number: int) -> Any:
        def hook(block: torch.nn.Module, inputs: Any) -> None:
            if not live.going_back and number in forward:
                live.begin(f"forward, {forward[number]}")

        return hook

    def left(number: int) -> Any:
        def hook(block: torch.nn.Module, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if not live.going_back and number in backward and hidden.requires_grad:
                hidden.register_hook(lambda gradient: live.begin(f"backward, {backward[number]}"))

        return hook

    with ExitStack() as hooks:
        for number, block in enumerate(blocks):
            for handle in (
                block.register_forward_pre_hook(entered(number)),
                block.register_forward_hook(left(number)),
            ):
                hooks.callback(handle.remove)
        yield


@dataclass(frozen=True)
class DryRunPeaks:
    """What a dry run of one depth found, bytes."""

    static: int
    moments: dict[str, dict[str, int]]
    parameters: int
    trainable: int

    def peak(self, *stages: str) -> dict[str, int]:
        """Of the moments of stages whose names begin so, the highest by part; {} where there was none."""
        chosen = [parts for name, parts in self.moments.items() if name.startswith(stages)]
        return max(chosen, key=lambda parts: sum(parts.values()), default={})


def extrapolate(few: DryRunPeaks, more: DryRunPeaks, periods: int) -> DryRunPeaks | None:
    """What a model of so many periods would have shown; None where the two have not had the same moments."""
    names = [name for name in more.moments if not name.endswith(BETWEEN)]
    if few.moments.keys() != set(names):
        return None

    def at(two: int, three: int) -> int:
        return three + (periods - DEEPER_PERIODS) * (three - two) // (DEEPER_PERIODS - SHALLOW_PERIODS)

    def parts(name: str) -> dict[str, int]:
        two, three = few.moments[name], more.moments[name]
        return {part: at(two.get(part, 0), three.get(part, 0)) for part in {**two, **three}}

    return DryRunPeaks(
        at(few.static, more.static),
        {name: parts(name) for name in names},
        at(few.parameters, more.parameters),
        at(few.trainable, more.trainable),
    )
