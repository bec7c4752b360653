"""Extrapolate a deep model's memory from two shallow ones: memory is affine in the number of identical decoder layers.

At any point of a step (the loss, the last layer's backward pass, the optimizer step …) the live bytes are affine in the
number of layers: each adds its weights, optimizer state and saved activations. The peak over all points is not, because
another point may have the peak in a deeper model; so each point is extrapolated separately. The first and last layers
are tracked separately from those between them: through identical layers memory rises or falls by the same amount per
layer, so its peak is at one of the ends.
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

from engine.config.device_defaults import OFF, ActivationCheckpointing
from engine.memory.dry_run.memory_tracker import MemoryTracker
from engine.methods.weights import text_part, unwrap_peft

SHALLOW_PERIODS, DEEPER_PERIODS = 2, 3
"""Number of periods of the two shallow models."""
FIRST, BETWEEN, LAST = "first blocks", "blocks between", "last blocks"
NUMBERS = {"layer_idx", "layer_id", "layer_index", "layer_number"}
"""Attributes with a layer's index, ignored when layers are compared."""


@dataclass(frozen=True)
class LayerPattern:
    """How kinds of decoder layers repeat: some initial layers, then periods, then the start of a further period."""

    blocks: int
    first: int
    period: int

    @property
    def periods(self) -> int:
        """Number of complete periods."""
        return (self.blocks - self.first) // self.period

    def with_periods(self, periods: int) -> int:
        """Number of layers of a model with this many periods."""
        return self.blocks - (self.periods - periods) * self.period

    @property
    def begins(self) -> int:
        """Number of layers at the start that contain every kind."""
        return self.first + self.period

    @property
    def ends(self) -> int:
        """Number of layers at the end that contain every kind."""
        return self.period + (self.blocks - self.first) % self.period


def blocks_of(model: torch.nn.Module) -> torch.nn.ModuleList | None:
    """The list of decoder layers of the part that text uses; None if there is not exactly one."""
    lists = [
        module
        for module in text_part(unwrap_peft(model)).modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) > 1
        and all(isinstance(block, GradientCheckpointingLayer) for block in module)
    ]
    return lists[0] if len(lists) == 1 else None


def layer_pattern(model: torch.nn.Module, checkpointing: ActivationCheckpointing = OFF) -> LayerPattern | None:
    """The pattern with the fewest layers to run; None if running all layers takes no longer.

    Layers that recompute their activations are another kind than those that do not.
    """
    blocks = blocks_of(model)
    if blocks is None:
        return None
    known: dict[Any, int] = {}
    keys = ((_kind(block), checkpointing.recomputes(number)) for number, block in enumerate(blocks))
    kinds = [known.setdefault(key, len(known)) for key in keys]
    patterns = [
        LayerPattern(len(kinds), first, period)
        for period in range(1, len(kinds) // (DEEPER_PERIODS + 1) + 1)
        for first in range(len(kinds) - period * (DEEPER_PERIODS + 1) + 1)
        if kinds[first + period :] == kinds[first:-period]
    ]
    best = min(patterns, key=lambda pattern: pattern.with_periods(DEEPER_PERIODS), default=None)
    worth = best is not None and best.with_periods(SHALLOW_PERIODS) + best.with_periods(DEEPER_PERIODS) < best.blocks
    return best if worth else None


def _kind(block: torch.nn.Module) -> Any:
    """Identity of a layer's kind: classes, shapes, and all plain attributes except the layer's index."""
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


def shallow(model: PreTrainedModel, pattern: LayerPattern, periods: int) -> PreTrainedModel:
    """A copy with this many periods; `model` is on the meta device, where copies need no memory."""
    cut = copy.deepcopy(model)
    blocks = blocks_of(cut)
    assert blocks is not None
    count = pattern.with_periods(periods)
    blocks._modules = dict(list(blocks._modules.items())[:count])
    config = cut.config.get_text_config()  # KV caches are created from it
    config.num_hidden_layers = count
    if isinstance(kinds := getattr(config, "layer_types", None), list):
        config.layer_types = kinds[:count]
    return cut


@contextmanager
def tracking_layers(model: torch.nn.Module, pattern: LayerPattern | None, tracker: MemoryTracker) -> Iterator[None]:
    """Context in which forward and backward passes mark where the first, middle and last layers start."""
    blocks = blocks_of(model)
    if blocks is None or pattern is None:
        yield
        return
    count = len(blocks)
    forward = {0: FIRST, pattern.begins: BETWEEN, count - pattern.ends: LAST}
    backward = {count - 1: LAST, count - pattern.ends - 1: BETWEEN, pattern.begins - 1: FIRST}

    def entered(number: int) -> Any:
        def hook(block: torch.nn.Module, inputs: Any) -> None:
            if not tracker.in_backward and number in forward:
                tracker.begin(f"forward, {forward[number]}")

        return hook

    def left(number: int) -> Any:
        def hook(block: torch.nn.Module, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if not tracker.in_backward and number in backward and hidden.requires_grad:
                hidden.register_hook(lambda gradient: tracker.begin(f"backward, {backward[number]}"))

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
    """Result of a dry run of one depth, in bytes."""

    static: int
    moments: dict[str, dict[str, int]]
    parameters: int
    trainable: int

    def peak(self, *stages: str) -> dict[str, int]:
        """The highest peak, by part, of the stages with these prefixes; {} if there is none."""
        chosen = [parts for name, parts in self.moments.items() if name.startswith(stages)]
        return max(chosen, key=lambda parts: sum(parts.values()), default={})


def extrapolate(few: DryRunPeaks, more: DryRunPeaks, periods: int) -> DryRunPeaks | None:
    """Extrapolate to a model with this many periods; None if the two dry runs do not have the same stages."""
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
