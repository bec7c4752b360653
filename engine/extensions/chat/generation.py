"""Generate one answer with transformers' `generate` and stream its text.

The end tokens are those of evaluation, so a greedy answer is evaluation's, up to rounding in batches of other sizes.
Keys and values of earlier turns are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerBase, StoppingCriteriaList, TextStreamer
from transformers.cache_utils import DynamicLayer

from engine.config.model_config import length_limit
from engine.evaluation.forward import Forward, reads_prompts_in_parts
from engine.evaluation.generate import without_own_settings
from engine.extensions.chat.chat_client import Sampling

Stopped = Callable[[], bool]
"""Whether the client asked to stop the current answer."""


@dataclass
class ConversationCache:
    """Keys and values of the conversation that a column has answered last."""

    tokens: list[int] = field(default_factory=list)
    cache: DynamicCache | None = None

    def take(self, prompt: list[int], forward: Forward) -> DynamicCache:
        """A cache of the first tokens of this prompt that were computed last; the last token is always computed.

        Templates may render earlier turns differently, for example without their reasoning.
        """
        cache, self.cache = self.cache, None  # an answer that fails leaves no cache of unknown content
        limit = length_limit(forward.config.to_dict())
        if limit and len(prompt) > limit:
            return forward.new_cache()  # with other RoPE frequencies than shorter prompts
        pairs = zip(self.tokens, prompt[:-1], strict=False)
        kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if cache is None or not kept:
            return forward.new_cache()
        if kept < len(self.tokens):
            if any(type(layer) is not DynamicLayer for layer in cache.layers):
                return forward.new_cache()  # sliding windows cannot be cropped
            for layer in cache.layers:  # `crop` has other arguments in other versions
                layer.keys, layer.values = layer.keys[:, :, :kept], layer.values[:, :, :kept]
        return cache


class AnswerStreamer(TextStreamer):
    """Receives the tokens of an answer from `generate`, and sends its text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int], send: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self.ends, self.send = ends, send
        self.tokens: list[int] = []
        """Without the end token."""
        self.has_ended = False
        """By an end token."""
        self.first = self.last = 0.0
        """Times of the first and of the latest token, by `time.monotonic`."""

    def put(self, value: torch.Tensor) -> None:
        """The prompt (1, T), which comes first, or the next token (1,)."""
        if value.ndim > 1:
            return
        self.last = time.monotonic()
        self.first = self.first or self.last
        token = int(value)
        self.has_ended = token in self.ends
        if not self.has_ended:
            self.tokens.append(token)
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.send(text)

    @property
    def text(self) -> str:
        """The whole answer, as evaluation decodes it."""
        return str(self.tokenizer.decode(self.tokens, skip_special_tokens=True))


@torch.inference_mode()
def generate_answer(
    network: torch.nn.Module,
    prompt: list[int],
    kept: ConversationCache,
    sampling: Sampling,
    device: str,
    streamer: AnswerStreamer,
    stopped: Stopped = lambda: False,
) -> None:
    """Generate an answer until an end token, the maximum number of tokens or a stop request."""
    settings = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        pad_token_id=streamer.tokenizer.pad_token_id,
        eos_token_id=sorted(streamer.ends),
        disable_compile=True,
    )
    if sampling.temperature > 0:
        settings.update(do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p, top_k=0)
    cache: dict[str, Any] = {}
    if reads_prompts_in_parts(network):  # other caches and recurrent states are those of `generate`
        forward = Forward(network)
        cache = {forward.cache_argument: kept.take(prompt, forward)}

    def stop(ids: torch.Tensor, scores: object, **options: object) -> torch.Tensor:
        return torch.tensor([stopped()], device=device)

    ids = torch.tensor([prompt], device=device)
    with torch.random.fork_rng([0] if device == "cuda" else []), without_own_settings(network):
        torch.manual_seed(sampling.seed)
        tokens = network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([stop]),
            **cache,
        )
    for held in cache.values():
        kept.tokens, kept.cache = tokens[0, : held.get_seq_length()].tolist(), held
