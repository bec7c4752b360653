"""Generation halves its batch on out-of-memory without losing answers, reports progress, and can be ended."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import (
    FULL_ATTENTION,
    VOCABULARY,
    Counted,
    asked,
    generator,
    made,
    plainly,
    random_prompts,
    texts,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from engine.evaluation.forward import GROUPED_SDPA, grouped_query_attention, sdpa_by_group
from engine.training.guards import OutOfMemory

PROMPTS = random_prompts([9, 3, 17, 5, 11, 1, 30, 2, 8, 21, 4, 6, 13])


def counted() -> Counted:
    return made(FULL_ATTENTION["llama"], Counted)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost() -> None:
    model = counted()
    expected = texts(plainly(model, PROMPTS))
    model.room = 2
    ours = generator(13)
    assert ours.answers(model, asked(PROMPTS)) == expected and ours.batch == 2


@pytest.mark.parametrize("failing", [1, 2, 5, 9])
def test_out_of_memory_during_generation_loses_nothing(failing: int) -> None:
    model = counted()
    expected = texts(plainly(model, PROMPTS))
    model.passes, model.fails_at = 0, lambda number: number == failing
    ours = generator(8)
    told: list[int] = []
    assert ours.answers(model, asked(PROMPTS), told.append) == expected and ours.batch == 4
    assert told == sorted(told)


def test_one_prompt_that_does_not_fit_is_out_of_memory() -> None:
    model = counted()
    model.room = 0
    with pytest.raises(OutOfMemory):
        generator(8).answers(model, asked(PROMPTS))


def test_other_errors_are_not_treated_as_out_of_memory() -> None:
    with pytest.raises(IndexError):
        generator(8).answers(made(FULL_ATTENTION["llama"]), asked([[3, VOCABULARY + 7]]))


def test_answers_are_no_longer_than_max_new_tokens() -> None:
    model = made(FULL_ATTENTION["llama"])
    for most in (1, 2, 7):
        ours = generator(4, most, frozenset()).answers(model, asked(PROMPTS))
        assert [len(text.split()) for text in ours] == [most] * len(PROMPTS)


def test_progress_increases_to_all_rows_and_may_end_the_work() -> None:
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
