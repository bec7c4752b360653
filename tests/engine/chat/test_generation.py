"""Answers of a chat session token by token: greedy as transformers, sampled by seed, kept cache, partial characters."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from small_models import ENDS, FULL_ATTENTION, MOST, OTHER_CACHES, made, plainly, random_prompts

from engine.assets import tiny_folder
from engine.chat.generation import ReusableCache, TextStream, TokenSampler, stream
from engine.config.schema import Model
from engine.methods.model_source import load_tokenizer
from engine.runs.chat_client import Sampling

GREEDY = Sampling()
PROMPTS = random_prompts([9, 1, 30])
EVERY = FULL_ATTENTION | OTHER_CACHES


def answer(
    model: torch.nn.Module, prompt: list[int], kept: ReusableCache | None = None, sampling: Sampling = GREEDY
) -> tuple[list[int], int]:
    """Tokens of an answer, and how many tokens of the prompt were not computed again."""
    cached: list[int] = []
    tokens: list[int] = []
    for token in islice(stream(model, prompt, kept or ReusableCache(), sampling, "cpu", cached.append), MOST):
        if token in ENDS:
            break
        tokens.append(token)
    return tokens, cached[0]


@pytest.mark.parametrize("name", EVERY)
def test_a_greedy_answer_is_that_of_transformers(name: str) -> None:
    model = made(EVERY[name])
    for prompt in PROMPTS:
        assert answer(model, prompt)[0] == plainly(model, [prompt])[0]


@pytest.mark.parametrize("name", EVERY)
def test_a_conversation_continues_with_the_kept_cache(name: str) -> None:
    """A longer prompt, one that differs from the middle on, and another one: each as with an empty cache."""
    model, kept = made(EVERY[name]), ReusableCache()
    first = PROMPTS[2]
    said, cached = answer(model, first, kept)
    assert cached == 0
    second = [*first, *said, 7, 8, 9]
    shorter = [*first[:20], 9, 8, 7]
    answers = [answer(model, prompt, kept) for prompt in (second, shorter, PROMPTS[0], PROMPTS[0])]
    expected = [answer(model, prompt)[0] for prompt in (second, shorter, PROMPTS[0], PROMPTS[0])]
    assert [tokens for tokens, _ in answers] == expected
    if name in FULL_ATTENTION:
        reused = [cached for _, cached in answers]
        assert reused[0] >= len(first) and reused[1] == 20 and reused[3] == len(PROMPTS[0]) - 1


def test_sampling_is_decided_by_the_seed() -> None:
    model = made(FULL_ATTENTION["llama"])
    hot = [Sampling(temperature=3.0, seed=seed) for seed in (1, 1, 2)]
    first, same, other = (list(islice(stream(model, PROMPTS[0], ReusableCache(), way, "cpu"), 12)) for way in hot)
    assert first == same != other
    nucleus = Sampling(temperature=3.0, top_p=0.01, seed=5)
    greedy = list(islice(stream(model, PROMPTS[0], ReusableCache(), GREEDY, "cpu"), 12))
    assert list(islice(stream(model, PROMPTS[0], ReusableCache(), nucleus, "cpu"), 12)) == greedy


def test_top_p_keeps_the_most_likely_tokens() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    pick = TokenSampler(Sampling(temperature=1.0, top_p=0.75, seed=0), "cpu")
    assert {pick(logits) for _ in range(200)} == {0, 1}
    everything = TokenSampler(Sampling(temperature=1.0, seed=0), "cpu")
    assert {everything(logits) for _ in range(400)} == {0, 1, 2, 3}


@pytest.mark.parametrize("text", ["café", "naïve 🙂🙃 done", "日本語のテスト", "\x1b[31m red \x07", "", "a\nb\n"])
def test_streamed_pieces_are_whole_characters_and_add_up(text: str) -> None:
    tokenizer = load_tokenizer(Model(id=str(tiny_folder())))
    stream_ = TextStream(tokenizer)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [stream_.add(token) for token in tokens]
    assert "".join(pieces) == stream_.text == tokenizer.decode(tokens, skip_special_tokens=True)
    assert "\ufffd" not in "".join(pieces)


def test_an_answer_that_fails_leaves_no_cache() -> None:
    model, kept = made(FULL_ATTENTION["llama"]), ReusableCache()
    answer(model, PROMPTS[0], kept)
    broken: Iterator[int] = stream(model, [*PROMPTS[0], 100_000], kept, GREEDY, "cpu")
    with pytest.raises(IndexError):
        next(broken)
    assert kept.tokens == [] and kept.cache is None
    assert answer(model, PROMPTS[0], kept)[0] == answer(model, PROMPTS[0])[0]
