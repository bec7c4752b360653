"""RoPE whose frequencies depend on a row's length: by the length of each row, not of the longest one of a forward pass.

transformers chooses the frequencies of `longrope` and `dynamic` RoPE by the largest position of a forward pass, for all
of its rows; `dynamic` keeps them for shorter rows of later passes (`dynamic_rope_update` of modeling_rope_utils.py).
The loss of a row would depend on the rows that are computed with it, and before it.

Here the rotary module of the model runs once for the rows of each length that has frequencies of its own, from its
initial state, and each token gets those of its row. While an answer is generated, the row of a token ends with it, as
it does for a prompt that transformers' `generate` answers alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor


def separate_lengths(model: torch.nn.Module) -> None:
    """Let a model compute RoPE by the length of each row. Without effect on models whose RoPE does not depend on it."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        kinds = kinds.values() if isinstance(kinds, dict) else [kinds]
        if any(kind == "longrope" or "dynamic" in str(kind) for kind in kinds) and "forward" not in vars(module):
            module.forward = partial(_by_length, module, type(module).forward)


def row_lengths(positions: torch.Tensor) -> torch.Tensor:
    """(B, T) positions -> (B, T) lengths of the rows that the tokens belong to.

    Another row begins where positions do not grow: of a packed sequence, or after padding.
    """
    begins = torch.nn.functional.pad(positions[:, 1:] <= positions[:, :-1], (1, 0))
    rows = begins.long().cumsum(-1)
    lengths = torch.zeros_like(positions).scatter_reduce_(-1, rows, positions + 1, "amax")
    return lengths.gather(-1, rows)


def _by_length(module: Any, own: Any, x: torch.Tensor, position_ids: torch.Tensor, layer_type: Any = None) -> Any:
    """What the rotary module computes for each row alone. position_ids (B, T), or (axes, B, T) of multimodal models."""
    options = {} if layer_type is None else {"layer_type": layer_type}
    kind = module.rope_type if layer_type is None else module.rope_type[layer_type]
    lengths = row_lengths(position_ids if position_ids.ndim == 2 else position_ids[0])

    def of(rows: torch.Tensor) -> Any:
        """For rows of one length, or whose length does not matter: other tokens are at position 0."""
        if "dynamic" in kind:
            _reset(module, layer_type)
        return own(module, x, position_ids.where(rows, 0), **options)

    if kind == "longrope":
        parameters = module.config.rope_parameters
        parameters = parameters if layer_type is None else parameters[layer_type]
        longer = lengths > parameters["original_max_position_embeddings"]
        return _select(longer, of(longer), of(~longer))
    if "dynamic" not in kind or isinstance(lengths, FakeTensor):  # whose values, not known, do not change its memory
        return own(module, x, position_ids, **options)
    limit = module.original_max_seq_len
    computed = of(lengths <= limit)
    for length in lengths[lengths > limit].unique().tolist():
        computed = _select(lengths == length, of(lengths == length), computed)
    return computed


def _reset(module: Any, layer_type: str | None) -> None:
    """Undo what a dynamic RoPE keeps of longer rows."""
    prefix = "" if layer_type is None else f"{layer_type}_"
    setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq"))
    setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _select(rows: torch.Tensor, first: Any, second: Any) -> Any:
    """Of two results of a rotary module, cos and sin or one tensor (B, T, D), the first for these tokens (B, T)."""
    if isinstance(first, tuple):
        return tuple(_select(rows, *pair) for pair in zip(first, second, strict=True))
    return torch.where(rows[..., None], first, second)
