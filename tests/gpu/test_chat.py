"""Answers of a chat session on a GPU."""

from __future__ import annotations

import pytest
import torch
from small_models import ENDS, FULL_ATTENTION, MOST, OTHER_CACHES, made, plainly, random_prompts

from engine.assets import tiny_folder
from engine.config.schema import Model
from engine.extensions.chat.chat_client import Sampling
from engine.extensions.chat.generation import AnswerStreamer, ConversationCache, generate_answer
from engine.methods.model_source import load_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
]
SHAPES = {name: {**FULL_ATTENTION, **OTHER_CACHES}[name] for name in ("llama", "windows in some layers")}


@pytest.mark.parametrize("name", SHAPES)
def test_a_second_turn_is_answered_as_by_transformers(name: str) -> None:
    """Greedy, with the kept cache, against `generate` on the whole conversation."""
    model, kept = made(SHAPES[name]).to("cuda"), ConversationCache()
    tokenizer = load_tokenizer(Model(id=str(tiny_folder())))

    def answer(prompt: list[int]) -> list[int]:
        streamer = AnswerStreamer(tokenizer, ENDS, [].append)
        generate_answer(model, prompt, kept, Sampling(max_new_tokens=MOST), "cuda", streamer)
        return streamer.tokens

    (first,) = random_prompts([30])
    second = [*first, *answer(first), 7, 8, 9]
    assert kept.cache is not None and second[: len(kept.tokens)] == kept.tokens
    for prompt in (second, [*first[:20], 9, 8, 7]):  # the second prompt differs from token 20 on
        assert answer(prompt) == plainly(model, [prompt])[0]
