"""Answers of a chat session: greedy as transformers, sampled by seed, kept cache, text while it is written, stops."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from msgspec.structs import replace
from small_models import ENDS, FULL_ATTENTION, MOST, OTHER_CACHES, made, plainly, random_prompts
from tiny_configs import model_with

from engine.assets import tiny_folder
from engine.config.schema import Model
from engine.extensions.chat.chat_client import Sampling
from engine.extensions.chat.generation import AnswerStreamer, ConversationCache, generate_answer
from engine.methods.model_source import load_tokenizer
from engine.methods.rope import separate_lengths

GREEDY = Sampling(max_new_tokens=MOST)
PROMPTS = random_prompts([9, 1, 30])
EVERY = FULL_ATTENTION | OTHER_CACHES


def streamer(pieces: list[str] | None = None) -> AnswerStreamer:
    tokenizer = load_tokenizer(Model(id=str(tiny_folder())))
    return AnswerStreamer(tokenizer, ENDS, [].append if pieces is None else pieces.append)


def answer(
    model: torch.nn.Module,
    prompt: list[int],
    kept: ConversationCache | None = None,
    sampling: Sampling = GREEDY,
    stopped: Callable[[], bool] = lambda: False,
) -> list[int]:
    received = streamer()
    generate_answer(model, prompt, kept or ConversationCache(), sampling, "cpu", received, stopped)
    assert received.has_ended or stopped() or len(received.tokens) == sampling.max_new_tokens
    return received.tokens


@pytest.mark.parametrize("name", EVERY)
def test_a_greedy_answer_is_that_of_transformers(name: str) -> None:
    model = made(EVERY[name])
    for prompt in PROMPTS:
        assert answer(model, prompt) == plainly(model, [prompt])[0]


@pytest.mark.parametrize("name", EVERY)
def test_a_conversation_continues_with_the_kept_cache(name: str) -> None:
    """A longer prompt, one that differs from the middle on, and another one: each as with an empty cache."""
    model, kept = made(EVERY[name]), ConversationCache()
    computed: list[int] = []
    model.register_forward_pre_hook(
        lambda module, given, named: computed.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    first = PROMPTS[2]
    second = [*first, *answer(model, first, kept), 7, 8, 9]
    prompts = (second, [*first[:20], 9, 8, 7], PROMPTS[0], PROMPTS[0])
    computed.clear()
    assert [answer(model, prompt, kept) for prompt in prompts] == [answer(model, prompt) for prompt in prompts]
    if name != "state":
        assert computed[0] <= len(second) - len(first)


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("rope", ["longrope", "dynamic"])
def test_a_conversation_in_which_rope_changes_is_answered_as_one_prompt(rope: str, family: str) -> None:
    """From 24 tokens on; Phi-3 computes all of a row again when it reaches them."""
    plain, kept = model_with(rope, family), ConversationCache()
    model, prompt = copy.deepcopy(plain), PROMPTS[0]
    separate_lengths(model)
    for _ in range(4):
        said = answer(model, prompt, kept)
        assert said == plainly(copy.deepcopy(plain), [prompt])[0]
        prompt = [*prompt, *said, 7, 8, 9]
    assert len(prompt) > 30


def test_sampling_is_decided_by_the_seed() -> None:
    model = made(FULL_ATTENTION["llama"])
    torch.manual_seed(7)
    state = torch.get_rng_state()
    hot = [Sampling(temperature=3.0, seed=seed, max_new_tokens=12) for seed in (1, 1, 2)]
    first, same, other = (answer(model, PROMPTS[0], sampling=sampling) for sampling in hot)
    assert first == same != other and torch.equal(torch.get_rng_state(), state)
    nucleus = Sampling(temperature=3.0, top_p=0.01, seed=5, max_new_tokens=MOST)
    assert answer(model, PROMPTS[0], sampling=nucleus) == answer(model, PROMPTS[0])


def test_sampling_is_not_limited_to_the_most_likely_tokens() -> None:
    """transformers' default is the 50 most likely ones."""
    model = made(FULL_ATTENTION["llama"])
    flat = Sampling(temperature=10.0**6, max_new_tokens=1)
    with torch.no_grad():
        order = model(torch.tensor([PROMPTS[0]])).logits[0, -1].argsort(descending=True).tolist()
    drawn = {token for seed in range(40) for token in answer(model, PROMPTS[0], sampling=replace(flat, seed=seed))}
    assert any(order.index(token) >= 50 for token in drawn)


@pytest.mark.parametrize(
    "text", ["café", "naïve 🙂🙃 done", "日本語のテスト", "ภาษาไทย", "\x1b[31m red \x07", "", "a\nb\n", '{"a":1}']
)
def test_streamed_pieces_are_whole_characters_and_add_up(text: str) -> None:
    pieces: list[str] = []
    received = streamer(pieces)
    tokens = received.tokenizer(text, add_special_tokens=False)["input_ids"]
    received.ends = frozenset()
    received.put(torch.tensor([[1, 2, 3]]))  # the prompt
    for token in tokens:
        received.put(torch.tensor([token]))
    received.end()
    assert "".join(pieces) == received.text == received.tokenizer.decode(tokens, skip_special_tokens=True)
    assert "\ufffd" not in "".join(pieces) and received.tokens == tokens


@pytest.mark.parametrize("text", ["one two three four", "日本語のテストです", "ภาษาไทยเขียนติดกัน"])
def test_text_appears_while_it_is_written(text: str) -> None:
    pieces: list[str] = []
    received = streamer(pieces)
    received.ends = frozenset()
    for token in received.tokenizer(text, add_special_tokens=False)["input_ids"]:
        received.put(torch.tensor([token]))
    assert len(pieces) > 2


def test_an_answer_that_is_stopped_ends_with_the_next_token() -> None:
    model, received = made(FULL_ATTENTION["llama"]), streamer()
    received.ends = frozenset()
    generate_answer(model, PROMPTS[0], ConversationCache(), GREEDY, "cpu", received, lambda: len(received.tokens) >= 3)
    assert len(received.tokens) == 4 and not received.has_ended


def test_an_answer_that_fails_leaves_no_cache() -> None:
    model, kept = made(FULL_ATTENTION["llama"]), ConversationCache()
    tokens = answer(model, PROMPTS[0], kept)
    with pytest.raises(IndexError):
        answer(model, [*PROMPTS[0], *tokens, 100_000], kept)
    assert kept.cache is None
    assert answer(model, PROMPTS[0], kept) == answer(model, PROMPTS[0])
