"""Call a causal LM with a KV cache owned by the caller, and check whether a model supports it.

A batch of left-padded prompts is read into a cache, which many rows can share; their common prefix is computed once.
All shapes of caches are (rows, key heads, columns, head size).

Attention for decoding is grouped-query SDPA without repeating keys and values for every query head. transformers
repeats them if a forward pass has a mask and more than one token per row: while prompts are read. Here the query heads
of a group become additional queries to their shared key head: the same products without copies, as transformers
computes one token per row (`pack_gqa` of its `integrations/sdpa_attention.py`).

Models loaded with FlashAttention 2 decode with it too: transformers' FlashAttention 2 reads the padding mask and copies
keys and values without padding in every layer for every token (`_upad_input` of `modeling_flash_attention_utils.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import takewhile
from typing import Any, TypeVar

import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from engine.methods.adapters import unwrap_peft
from engine.methods.machine import is_out_of_memory
from engine.training import varlen_attention
from engine.training.guards import OutOfMemory, free_memory
from engine.training.ranks import weights_are_sharded

F = TypeVar("F", bound=Callable[..., Any])


def without_gradients(function: F) -> F:
    """A function that runs in torch's inference mode; with a sharded model only without gradients: the weights that its
    layers get in inference mode could not be used in training.
    """

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        with torch.no_grad() if weights_are_sharded() else torch.inference_mode():
            return function(*arguments, **options)

    return run  # type: ignore[return-value]


CACHE_ARGUMENTS = ("cache", "past_key_values")
"""Names of forward's cache argument: transformers 5 renamed it."""

T = TypeVar("T")


class Forward:
    """The model as a function of tokens, mask, positions and cache; it appends keys and values to the cache."""

    def __init__(self, model: torch.nn.Module) -> None:
        parameters = _parameters(model)
        self.model = model
        self.config = unwrap_peft(model).config
        self.cache_argument = next(name for name in CACHE_ARGUMENTS if name in parameters)
        self.trims_logits = "logits_to_keep" in parameters

    def __call__(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache, last: bool = False
    ) -> torch.Tensor:
        """Logits (B, T, V); with `last` (B, 1, V), of the last position only.

        ids and positions (B, T); mask (B, columns in the cache + T), 1 for columns that may be attended to.
        """
        limit = last_logits(ids.device) if last and self.trims_logits else {}
        arguments = {self.cache_argument: cache, "use_cache": True, **limit}
        logits = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, **arguments).logits
        return logits[:, -1:] if last else logits

    def new_cache(self) -> DynamicCache:
        """An empty cache for this model's layers."""
        return DynamicCache(config=self.config)


def last_logits(device: torch.device | str) -> dict[str, torch.Tensor]:
    """The argument with which a model that supports `logits_to_keep` computes logits of the last position only.

    It is an index tensor, because a slice is not contiguous: for bf16 on the CPU torch would then copy the LM head's
    weight for every row of the batch.
    """
    return {"logits_to_keep": torch.tensor([-1], device=device)}


def cache_unsupported_reason(model: torch.nn.Module) -> str:
    """Why this model's KV cache cannot be split, joined and shared by row; "" if it can.

    It can if every layer keeps all keys and values of full attention. Sliding windows, recurrent states and keys shared
    between layers are not supported.
    """
    parameters = _parameters(model)
    name = type(unwrap_peft(model)).__name__
    if "position_ids" not in parameters or not any(argument in parameters for argument in CACHE_ARGUMENTS):
        return f"{name} does not accept position_ids and a cache"
    try:
        kinds = {type(layer) for layer in DynamicCache(config=unwrap_peft(model).config).layers}
    except (KeyError, AttributeError) as error:
        return f"{name} has a custom cache ({error})"
    unsupported = sorted(kind.__name__ for kind in kinds - {DynamicLayer})
    return f"{name} uses {', '.join(unsupported)}" if unsupported or not kinds else ""


def reads_prompts_in_parts(model: torch.nn.Module) -> bool:
    """Whether `generate` can read prompts a few columns at a time: the model accepts a cache, and all layers keep keys
    and values, maybe of a window. Other models raise with `prefill_chunk_size`.
    """
    if not any(argument in _parameters(model) for argument in CACHE_ARGUMENTS):
        return False
    try:
        layers = DynamicCache(config=unwrap_peft(model).config).layers
    except (KeyError, AttributeError):
        return False
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def column_multiple(model: torch.nn.Module, device: str) -> int:
    """Prompts are padded to a multiple of this many tokens: on the CPU oneDNN keeps a kernel for each new size of a
    bf16 product, so fewer lengths need less memory."""
    return 8 if device == "cpu" and unwrap_peft(model).dtype is torch.bfloat16 else 1


def left_padded(
    prompts: Sequence[Sequence[int]], pad: int, device: str, multiple: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, mask and positions, each (B, L), padded on the left: the last column predicts the next token.

    L is a multiple of `multiple`.
    """
    longest = max(len(prompt) for prompt in prompts)
    longest += -longest % multiple
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    for number, prompt in enumerate(prompts):
        ids[number, longest - len(prompt) :] = torch.tensor(prompt)
        mask[number, longest - len(prompt) :] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)


def within_memory(work: Callable[[], T]) -> T | None:
    """The result of `work`, None if it ran out of memory; its memory is freed by then.

    Raises the error if the model is sharded: the other ranks are within a layer and cannot repeat the work.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or weights_are_sharded():
            raise
    free_memory()
    return None


def halved(batch: int, problem: str) -> int:
    """Half of a batch size that did not fit in memory. Raises OutOfMemory with `problem` if it cannot be halved."""
    if batch == 1:
        raise OutOfMemory(problem)
    return (batch + 1) // 2


def _parameters(model: torch.nn.Module) -> frozenset[str]:
    return frozenset(inspect.signature(unwrap_peft(model).forward).parameters)


GROUPED_SDPA = "sdpa_by_group"
SDPA = ("sdpa", varlen_attention.NAME)
"""Implementations that are transformers' SDPA for a batch of prompts."""
FLASH = "flash_attention_2"


@contextmanager
def grouped_query_attention(model: torch.nn.Module) -> Iterator[None]:
    """Context in which the model uses grouped attention: instead of SDPA if it has grouped heads, and instead of
    FlashAttention 2."""
    inner = unwrap_peft(model)
    config = inner.config.get_text_config()
    replaces = varlen_attention.uses_common_attention(type(inner))
    if replaces and config._attn_implementation == FLASH:
        replaces = inner._supports_sdpa and not getattr(config, "attn_logit_softcapping", None)
    elif replaces:
        layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config]  # Gemma 4 12B
        replaces = config._attn_implementation in SDPA and any(map(_has_groups, layers))
    if not replaces:
        yield
        return
    before = inner.config._attn_implementation
    inner.set_attn_implementation(GROUPED_SDPA)
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def _has_groups(layer: Any) -> bool:
    """Whether several query heads share a key head in a layer with this configuration."""
    heads = getattr(layer, "num_attention_heads", 0)
    return (getattr(layer, "num_key_value_heads", None) or heads) < heads


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


AttentionInterface.register(GROUPED_SDPA, sdpa_by_group)
AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)


MIN_PREFIX = 8
"""Tokens; a shorter common prefix is computed with every prompt."""


@dataclass(frozen=True)
class PrefillResult:
    """Result of a prefill of B prompts."""

    logits: torch.Tensor
    """(B, V): logits of the token after each prompt."""
    cache: DynamicCache
    mask: torch.Tensor
    """(B, columns of the cache): 1 at the tokens of a prompt, the last of which is in the last column."""
    lengths: list[int]
    """Tokens of each prompt."""


class Prefill:
    """Prefills prompts of one set; a prefix common to all of them, such as a system prompt, is computed once."""

    def __init__(self, forward: Forward, prompts: Sequence[Sequence[int]], pad: int, device: str) -> None:
        self.forward, self.pad, self.device = forward, pad, device
        # Shorter than the shortest prompt, whose last token must be computed; all others share the prefix of these two.
        first, last = min(map(list, prompts)), max(map(list, prompts))
        shared = [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
        common = shared[: min(map(len, prompts)) - 1]
        self.common = common if len(prompts) > 1 and len(common) >= MIN_PREFIX else []
        self.prefix_cache: DynamicCache | None = None
        self.multiple = column_multiple(forward.model, device)

    def __call__(self, prompts: Sequence[Sequence[int]]) -> PrefillResult:
        """Prefill prompts, each of which must start with a prompt of the set."""
        skipped, cache = len(self.common), self.forward.new_cache()
        if self.common:
            if self.prefix_cache is None:
                prefix_cache = self.forward.new_cache()
                self.forward(*left_padded([self.common], self.pad, self.device), prefix_cache, last=True)
                self.prefix_cache = prefix_cache
            for layer, prefix in zip(cache.layers, self.prefix_cache.layers, strict=True):
                layer.update(*(part.expand(len(prompts), -1, -1, -1) for part in (prefix.keys, prefix.values)))
        rest = [prompt[skipped:] for prompt in prompts]
        ids, mask, positions = left_padded(rest, self.pad, self.device, self.multiple)
        mask = torch.cat([mask.new_ones((len(prompts), skipped)), mask], dim=1)
        logits = self.forward(ids, mask, positions + skipped, cache, last=True)
        return PrefillResult(logits[:, -1], cache, mask, [len(prompt) for prompt in prompts])


class PromptLayer(DynamicLayer):
    """Keys and values of prompts shared by many rows; expanded per layer during attention and freed afterwards."""

    def __init__(self, prompts: DynamicLayer, rows: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.rows = prompts.keys, prompts.values, rows
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prompts of the selected rows followed by the new tokens."""
        keys = torch.cat([self.keys.index_select(0, self.rows), key_states], dim=2)
        return keys, torch.cat([self.values.index_select(0, self.rows), value_states], dim=2)


def shared_prompts(prompts: Cache, rows: torch.Tensor) -> Cache:
    """A cache in which row i continues prompt `rows[i]`. (R,) on the model's device."""
    return Cache(layers=[PromptLayer(layer, rows) for layer in prompts.layers])
