"""Attention in which several query heads share a key head, without a copy of the keys for each of them.

transformers repeats keys and values for every query head as soon as a pass has more than one token a row and a mask.
While answering, that is every pass, and the keys are most of what it reads. Here the query heads of a group become
further queries to their one key head: the same products, over tensors as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, modeling_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from engine.evaluation.forward import bare

NAME = "sdpa_by_group"


@contextmanager
def attention_by_group(model: torch.nn.Module) -> Iterator[None]:
    """Meanwhile the model attends by groups, if it does so by transformers' own SDPA and has groups."""
    inner = bare(model)
    if not _takes(inner):
        yield
        return
    inner.set_attn_implementation(NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation("sdpa")


def sdpa_by_group(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **how: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, H, T, D), key and value (B, G, S, D), mask (B or 1, 1, T, S) -> (B, T, H, D), as transformers has."""
    rows, heads, tokens, size = query.shape
    group = heads // key.shape[1]
    shared = attention_mask is not None and attention_mask.shape[1] == 1
    if attention_mask is None or not shared or group == 1 or how.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **how)
    queries = query.reshape(rows, heads // group, group * tokens, size)
    mask = attention_mask.expand(-1, -1, tokens, -1).repeat(1, 1, group, 1)  # (B or 1, 1, group · T, S)
    found = torch.nn.functional.scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scaling)
    return found.reshape(rows, heads, tokens, value.shape[-1]).transpose(1, 2).contiguous(), None


def _takes(model: torch.nn.Module) -> bool:
    """Whether this architecture finds its attention in transformers' common table, and has grouped heads."""
    modules = [sys.modules[kind.__module__] for kind in type(model).__mro__]
    own = next((table for module in modules if (table := getattr(module, "ALL_ATTENTION_FUNCTIONS", None))), None)
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    grouped = (getattr(config, "num_key_value_heads", None) or heads) < heads
    return grouped and own is modeling_utils.ALL_ATTENTION_FUNCTIONS and config._attn_implementation == "sdpa"


AttentionInterface.register(NAME, sdpa_by_group)
AttentionMaskInterface.register(NAME, sdpa_mask)
