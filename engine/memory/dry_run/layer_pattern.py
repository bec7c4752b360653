"""Find how the decoder layers of a model repeat, and make a shallow model with fewer repetitions."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from engine.config.device_defaults import OFF, ActivationCheckpointing
from engine.methods.weights import text_part, unwrap_peft

SHALLOW_PERIODS, DEEPER_PERIODS = 2, 3
"""Number of periods of the two shallow models."""
INDEX_ATTRIBUTES = {"layer_idx", "layer_id", "layer_index", "layer_number"}
"""Attributes with a layer's index, ignored when layers are compared."""


@dataclass(frozen=True)
class LayerPattern:
    """How kinds of decoder layers repeat: some initial layers, then periods, then the start of a further period."""

    layers: int
    first: int
    period: int

    @property
    def periods(self) -> int:
        """Number of complete periods."""
        return (self.layers - self.first) // self.period

    def layers_of(self, periods: int) -> int:
        """Number of layers of a model with this many periods."""
        return self.layers - (self.periods - periods) * self.period

    @property
    def layers_at_start(self) -> int:
        """Number of layers at the start that contain every kind."""
        return self.first + self.period

    @property
    def layers_at_end(self) -> int:
        """Number of layers at the end that contain every kind."""
        return self.period + (self.layers - self.first) % self.period


def decoder_layers(model: torch.nn.Module) -> torch.nn.ModuleList | None:
    """The list of decoder layers of the part that text uses; None if there is not exactly one."""
    lists = [
        module
        for module in text_part(unwrap_peft(model)).modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) > 1
        and all(isinstance(layer, GradientCheckpointingLayer) for layer in module)
    ]
    return lists[0] if len(lists) == 1 else None


def layer_pattern(model: torch.nn.Module, checkpointing: ActivationCheckpointing = OFF) -> LayerPattern | None:
    """The pattern with the fewest layers to run; None if running all layers takes no longer.

    Layers that recompute their activations are another kind than those that do not.
    """
    layers = decoder_layers(model)
    if layers is None:
        return None
    known: dict[Any, int] = {}
    keys = ((_kind(layer), checkpointing.recomputes(number)) for number, layer in enumerate(layers))
    kinds = [known.setdefault(key, len(known)) for key in keys]
    patterns = [
        LayerPattern(len(kinds), first, period)
        for period in range(1, len(kinds) // (DEEPER_PERIODS + 1) + 1)
        for first in range(len(kinds) - period * (DEEPER_PERIODS + 1) + 1)
        if kinds[first + period :] == kinds[first:-period]
    ]
    best = min(patterns, key=lambda pattern: pattern.layers_of(DEEPER_PERIODS), default=None)
    worth = best is not None and best.layers_of(SHALLOW_PERIODS) + best.layers_of(DEEPER_PERIODS) < best.layers
    return best if worth else None


def _kind(layer: torch.nn.Module) -> Any:
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
                if key not in INDEX_ATTRIBUTES and isinstance(value, (int, float, str, type(None)))
            ),
        )
        for name, module in layer.named_modules()
    )


def shallow(model: PreTrainedModel, pattern: LayerPattern, periods: int) -> PreTrainedModel:
    """A copy with this many periods; `model` is on the meta device, where copies need no memory."""
    cut = copy.deepcopy(model)
    layers = decoder_layers(cut)
    assert layers is not None
    count = pattern.layers_of(periods)
    layers._modules = dict(list(layers._modules.items())[:count])
    config = cut.config.get_text_config()  # KV caches are created from it
    config.num_hidden_layers = count
    if isinstance(kinds := getattr(config, "layer_types", None), list):
        config.layer_types = kinds[:count]
    return cut
