"""Generate one answer token by token, greedily or by sampling; keys and values of earlier turns are kept.

The forward pass and the end tokens are those of evaluation, so a greedy answer is evaluation's, up to rounding in
batches of other sizes. On every device: `generate` would keep no keys and values, and hand over tokens in a thread.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.cache_utils import DynamicLayer

from engine.evaluation.forward import CACHE_ARGUMENTS, Forward
from engine.methods.adapters import unwrap_peft
from engine.runs.chat_client import Sampling


@dataclass
class ReusableCache:
    """Keys and values of the tokens that a column has computed last."""

    tokens: list[int] = field(default_factory=list)
    cache: Any = None

    def take(self, prompt: Sequence[int], forward: Forward) -> tuple[Any, int]:
        """A cache for this prompt and how many of its first tokens it holds; the last one is always computed."""
        pairs = zip(self.tokens, prompt[:-1], strict=False)
        kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        cache, known = self.cache, len(self.tokens)
        self.cache, self.tokens = None, []  # an answer that fails leaves no cache of unknown content
        if cache is not None and kept < known:
            if any(type(layer) is not DynamicLayer for layer in cache.layers):
                kept = 0  # caches of sliding windows or states cannot be cropped
            for layer in cache.layers if kept else ():  # `crop` has other arguments in other versions
                layer.keys, layer.values = layer.keys[:, :, :kept], layer.values[:, :, :kept]
        if cache is None or not kept:
            return forward.new_cache(), 0
        return cache, kept


class TokenSampler:
    """Selects the next token from its logits."""

    def __init__(self, sampling: Sampling, device: str) -> None:
        self.sampling = sampling
        self._generator = torch.Generator(device).manual_seed(sampling.seed)

    def __call__(self, logits: torch.Tensor) -> int:
        """logits (V,) -> token."""
        if self.sampling.temperature <= 0:
            return int(logits.argmax())
        shares = (logits.float() / self.sampling.temperature).softmax(-1)
        if self.sampling.top_p < 1:
            ordered, order = shares.sort(descending=True)
            ordered[ordered.cumsum(0) - ordered >= self.sampling.top_p] = 0.0  # the most likely token always stays
            return int(order[torch.multinomial(ordered, 1, generator=self._generator)])
        return int(torch.multinomial(shares, 1, generator=self._generator))


@torch.inference_mode()
def stream(
    network: torch.nn.Module,
    prompt: Sequence[int],
    kept: ReusableCache,
    sampling: Sampling,
    device: str,
    started: Callable[[int], None] = lambda cached: None,
) -> Iterator[int]:
    """Yield the tokens of an answer without end, one per forward pass; the caller stops at end tokens.

    `started` is called with the number of prompt tokens whose keys and values are reused. If the architecture accepts
    no cache from its caller, transformers' `generate` computes each token from the whole conversation.
    """
    pick = TokenSampler(sampling, device)
    parameters = inspect.signature(unwrap_peft(network).forward).parameters
    if "position_ids" not in parameters or not any(name in parameters for name in CACHE_ARGUMENTS):
        started(0)
        yield from _by_library(network, prompt, sampling, device)
        return
    forward = Forward(network)
    cache, cached = kept.take(prompt, forward)
    started(cached)
    computed = list(prompt)
    ids, start = computed[cached:], cached
    while True:
        end = start + len(ids)
        tokens, positions = torch.tensor([ids], device=device), torch.arange(start, end, device=device)[None]
        mask = torch.ones((1, end), dtype=torch.long, device=device)
        logits = forward(tokens, mask, positions, cache, last=True)[0, -1]  # (V,)
        kept.cache, kept.tokens = cache, list(computed)
        token = pick(logits)
        yield token
        ids, start = [token], len(computed)
        computed.append(token)


def _by_library(network: torch.nn.Module, prompt: Sequence[int], sampling: Sampling, device: str) -> Iterator[int]:
    """One token at a time by transformers' `generate`, which keeps no state between the calls."""
    pick, tokens = TokenSampler(sampling, device), list(prompt)
    settings = GenerationConfig(max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True)
    inner = unwrap_peft(network)
    original, inner.generation_config = inner.generation_config, GenerationConfig()
    try:
        while True:
            ids = torch.tensor([tokens], device=device)
            output = network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
            token = pick(output.logits[0][0])
            yield token
            tokens.append(token)
    finally:
        inner.generation_config = original


class TextStream:
    """Text of a growing answer: bytes of an incomplete character are held back until it is complete."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self._begin = self._shown = 0
        """Tokens from `_begin` are decoded together; those before `_shown` have been returned."""

    def add(self, token: int) -> str:
        """The characters that this token completes."""
        self.tokens.append(token)
        before = self._decoded(self.tokens[self._begin : self._shown])
        now = self._decoded(self.tokens[self._begin :])
        if len(now) <= len(before) or now.endswith("\ufffd"):
            return ""
        self._begin, self._shown = self._shown, len(self.tokens)
        return now[len(before) :]

    @property
    def text(self) -> str:
        """The whole answer, as evaluation decodes it."""
        return self._decoded(self.tokens)

    def _decoded(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))
