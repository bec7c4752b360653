"""Attention for decoding: grouped-query SDPA without repeating keys and values for every query head.

transformers repeats keys and values per query head if a forward pass has a mask and more than one token per row. During
generation that is every pass, and reading the keys takes most of its time. Here the query heads of a group become
additional queries to their shared key head: the same products without copies.

Models loaded with FlashAttention 2 decode with it too: transformers' FlashAttention 2 reads the padding mask and copies
keys and values without padding in every layer for every token (`_upad_input` of `modeling_flash_attention_utils.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from engine.methods.adapters import unwrap_peft
from engine.training import varlen_attention

NAME = "sdpa_by_group"
SDPA = ("sdpa", varlen_attention.NAME)
"""Implementations that are transformers' SDPA for a batch of prompts."""
FLASH = "flash_attention_2"


@contextmanager
def attention_by_group(model: torch.nn.Module) -> Iterator[None]:
    """Context in which the model uses grouped attention: instead of SDPA if it has grouped heads, and instead of
    FlashAttention 2."""
    inner = unwrap_peft(model)
    if not _is_supported(inner):
        yield
        return
    before = inner.config._attn_implementation
    inner.set_attn_implementation(NAME)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def sdpa_by_group(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, H, T, D), key and value (B, G, S, D), mask (B or 1, 1, T, S) -> (B, T, H, D), as in transformers."""
    rows, heads, tokens, size = query.shape
    group = heads // key.shape[1]
    shared = attention_mask is not None and attention_mask.shape[1] == 1
    if attention_mask is None or not shared or group == 1 or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    queries = query.reshape(rows, heads // group, group * tokens, size)
    mask = attention_mask.expand(-1, -1, tokens, -1).repeat(1, 1, group, 1)  # (B or 1, 1, group · T, S)
    output = torch.nn.functional.scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scaling)
    return output.reshape(rows, heads, tokens, value.shape[-1]).transpose(1, 2).contiguous(), None


def _is_supported(model: torch.nn.Module) -> bool:
    """Whether this architecture uses transformers' common attention registry, and grouped attention is faster."""
    config = model.config.get_text_config()
    if not varlen_attention.uses_common_attention(type(model)):
        return False
    if config._attn_implementation == FLASH:
        return model._supports_sdpa and not getattr(config, "attn_logit_softcapping", None)
    heads = getattr(config, "num_attention_heads", 0)
    return (getattr(config, "num_key_value_heads", None) or heads) < heads and config._attn_implementation in SDPA


AttentionInterface.register(NAME, sdpa_by_group)
AttentionMaskInterface.register(NAME, sdpa_mask)
