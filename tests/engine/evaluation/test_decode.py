"""Generation halves its batch on out-of-memory without losing answers, reports progress, and can be ended."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
import transformers
from small_models import (
    FULL_ATTENTION,
    MOST,
    PAD,
    SMALL,
    VOCABULARY,
    Counted,
    asked,
    generator,
    made,
    plainly,
    random_prompts,
    texts,
)
from transformers import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from engine.config.device_defaults import DECODER
from engine.evaluation.forward import GROUPED_SDPA, PrefillResult, RunningCache, grouped_query_attention, sdpa_by_group
from engine.training.guards import OutOfMemory

PROMPTS = random_prompts([9, 3, 17, 5, 11, 1, 30, 2, 8, 21, 4, 6, 13])


def counted() -> Counted:
    return made(FULL_ATTENTION["llama"], Counted)


@pytest.fixture(params=["ftbench", "generate"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ours, and transformers' `generate` as on CUDA."""
    monkeypatch.setitem(DECODER, "cpu", request.param)
    return str(request.param)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(decoder: str) -> None:
    model = counted()
    expected = texts(plainly(model, PROMPTS))
    model.room = 2
    ours = generator(13)
    assert ours.answers(model, asked(PROMPTS)) == expected and ours.batch == 2


@pytest.mark.parametrize(
    ("failing", "decoder"),
    [(2, "ftbench"), (3, "ftbench"), (5, "ftbench"), (9, "ftbench"), (5, "generate")],
    indirect=["decoder"],
)
def test_out_of_memory_during_generation_loses_nothing(failing: int, decoder: str) -> None:
    model = counted()
    expected = texts(plainly(model, PROMPTS))
    model.passes, model.fails_at = 0, lambda number: number == failing
    ours = generator(8)
    told: list[int] = []
    assert ours.answers(model, asked(PROMPTS), told.append) == expected and ours.batch == 4
    assert told == sorted(told)


def test_one_prompt_that_does_not_fit_is_out_of_memory(decoder: str) -> None:
    model = counted()
    model.room = 0
    with pytest.raises(OutOfMemory):
        generator(8).answers(model, asked(PROMPTS))


def test_other_errors_are_not_treated_as_out_of_memory(decoder: str) -> None:
    with pytest.raises(IndexError):
        generator(8).answers(made(FULL_ATTENTION["llama"]), asked([[3, VOCABULARY + 7]]))


def test_a_common_prefix_is_computed_once() -> None:
    model = counted()
    prompts = random_prompts([2] * 10, beginning=50)
    generator(10, most=1).answers(model, asked(prompts))
    assert model.tokens == 50 + 10 * 2


def test_a_repeating_answer_takes_far_fewer_passes_than_tokens() -> None:
    model = made(transformers.LlamaConfig(**SMALL | {"initializer_range": 0.02, "tie_word_embeddings": True}), Counted)
    (answer,) = plainly(model, PROMPTS[2:3], 100, frozenset())
    assert len(set(answer[50:])) < 10  # it runs in a circle, as models do that have not learnt to end
    model.passes = 0
    assert generator(1, 100, frozenset()).answers(model, asked(PROMPTS[2:3])) == texts([answer])
    assert model.passes < 50


def test_draft_tokens_stay_within_the_models_positions() -> None:
    # No position is left behind the longest prompt's last token but one: asking about a further one is an IndexError.
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=30 + MOST - 1, n_embd=64, n_layer=2, n_head=4,
                                     bos_token_id=1, eos_token_id=2, pad_token_id=PAD)  # fmt: skip
    model = made(config)
    expected = texts(plainly(model, PROMPTS, MOST, frozenset()))
    assert generator(4, MOST, frozenset()).answers(model, asked(PROMPTS)) == expected


def test_answers_are_no_longer_than_max_new_tokens() -> None:
    model = made(FULL_ATTENTION["llama"])
    for most in (1, 2, 7):
        ours = generator(4, most, frozenset()).answers(model, asked(PROMPTS))
        assert [len(text.split()) for text in ours] == [most] * len(PROMPTS)


def test_progress_increases_to_all_rows_and_may_end_the_work(decoder: str) -> None:
    model = made(FULL_ATTENTION["llama"])
    told: list[int] = []
    generator(4).answers(model, asked(PROMPTS), told.append)
    assert told == sorted(told) and told[-1] == len(PROMPTS)

    def stop(done: int) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    before = model.generation_config
    with pytest.raises(KeyboardInterrupt):
        generator(4).answers(model, asked(PROMPTS), stop)
    assert model.generation_config is before and model.config._attn_implementation == "sdpa"


def test_the_models_attention_is_restored_afterwards() -> None:
    model, seen = made(FULL_ATTENTION["llama"]), []
    ours = generator(4)
    ours.answers(model, asked(PROMPTS), lambda done: seen.append(model.model.config._attn_implementation))
    assert set(seen) == {GROUPED_SDPA} and model.config._attn_implementation == "sdpa"
    with pytest.raises(ZeroDivisionError):
        ours.answers(model, asked(PROMPTS), lambda done: 1 // 0)
    assert model.config._attn_implementation == "sdpa"
    eager = made(FULL_ATTENTION["llama, eager"])
    ours.answers(eager, asked(PROMPTS), lambda done: seen.append(eager.config._attn_implementation))
    assert seen[-1] == "eager"


@pytest.mark.parametrize(
    ("softcapping", "expected"), [(None, [GROUPED_SDPA, "flash_attention_2"]), (50.0, [])], ids=["llama", "soft-capped"]
)
def test_models_with_flash_attention_decode_without_it(
    softcapping: float | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the names are looked at: FlashAttention 2 needs a GPU."""
    model = copy.deepcopy(made(FULL_ATTENTION["llama"]))
    names: list[str] = []
    model.config._attn_implementation = "flash_attention_2"
    model.config.attn_logit_softcapping = softcapping
    monkeypatch.setattr(model, "set_attn_implementation", names.append)
    with grouped_query_attention(model):
        assert names == expected[:1]
    assert names == expected


def test_grouped_attention_equals_sdpa() -> None:
    model = made(FULL_ATTENTION["llama"])
    layer = model.model.layers[0].self_attn  # 4 query heads, 2 key heads
    query, key, value = torch.randn(3, 4, 5, 16), torch.randn(3, 2, 9, 16), torch.randn(3, 2, 9, 16)
    mask = torch.rand(3, 1, 5, 9) < 0.7
    mask[..., 0] = True
    for shape in (mask, mask[:1], None):
        expected, _ = sdpa_attention_forward(layer, query, key, value, shape, scaling=0.3)
        torch.testing.assert_close(sdpa_by_group(layer, query, key, value, shape, scaling=0.3)[0], expected)


def test_a_cache_that_is_dropped_is_freed_without_garbage_collection() -> None:
    """Else the next batch's cache would be allocated next to it, where all rows end at the same time."""
    cache = RunningCache(2, 2, "cpu")
    keys = torch.ones(2, 1, 4, 8)
    read = PrefillResult(torch.zeros(2, 3), DynamicCache(), torch.ones(2, 4, dtype=torch.long), [4, 4])
    for layer in range(2):
        read.cache.update(keys, keys, layer)
    cache.admit(read, range(2))
    kept = weakref.ref(cache.layers[0].keys)
    gc.disable()
    try:
        del cache
        assert kept() is None
    finally:
        gc.enable()
