"""Verify by logits that "base" is the base model and that each adapter and each full model is active."""

from __future__ import annotations

import torch

from engine.chat.base_copy import BaseCopy
from engine.config.errors import Notice

TOLERANCE = 1e-3
"""Relative to the largest logit: rounding differs between kernels, a trained adapter changes much more."""


@torch.inference_mode()
def logits_of(network: torch.nn.Module, prompt: list[int], device: str) -> torch.Tensor:
    """Logits (T, V) of a prompt in float32, on the CPU."""
    ids = torch.tensor([prompt], device=device)
    return network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float().cpu()


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference, relative to the largest logit."""
    return float((one - other).abs().max() / other.abs().max())


def verify(
    copy: BaseCopy, before: torch.Tensor, prompt: list[int], device: str, titles: dict[str, str]
) -> list[Notice]:
    """Defects of a base with its adapters.

    before: logits of the base before an adapter was attached. titles: key of an adapter -> its column's title.
    """
    defects = []
    with copy.active(None) as network:
        found = logits_of(network, prompt, device)
    if largest_difference(found, before) > TOLERANCE:
        text = f"{copy.name} is not the base model while adapters are loaded: its logits differ from those before"
        defects.append(Notice("chat.base_changed", text))
    for key in copy.adapters:
        with copy.active(key) as network:
            found = logits_of(network, prompt, device)
        if largest_difference(found, before) <= TOLERANCE:
            text = f"the adapter of {titles[key]} is not active: its logits equal those of the base model"
            defects.append(Notice("chat.adapter_inactive", text))
    return defects
