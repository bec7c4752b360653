"""Answers are those of transformers' own batched generate, however they are batched, guessed, cut short or refilled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import transformers
from small_models import FULL_ATTENTION, OTHER_CACHES, PAD, SMALL, VOCABULARY, asked, made, random_prompts

from engine.contract import schema
from engine.contract.errors import UserError
from engine.data.prepare import prepare
from engine.data.tokens import Row
from engine.evaluation.generate import Generator, end_tokens
from engine.methods import qlora
from engine.methods.machine import Machine
from engine.methods.tokenizer import load_tokenizer
from engine.training.guards import OutOfMemory

ENDS = frozenset(range(5, VOCABULARY, 9))
"""A ninth of the vocabulary: answers end after few tokens or many."""
MOST = 24
PROMPTS = random_prompts([9, 3, 17, 5, 11, 1, 30, 2, 8, 21, 4, 6, 13])


class Numbers:
    """A tokenizer whose text is the ids, so that equal texts are equal tokens."""

    pad_token_id = PAD

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, tokens))


def generator(batch: int, most: int = MOST, ends: frozenset[int] = ENDS, **how: Any) -> Generator:
    how = {"tokenizer": Numbers(), "warn": lambda code, text: None} | how
    return Generator(max_new_tokens=most, batch=batch, device="cpu", ends=ends, **how)


def plainly(
    model: torch.nn.Module, prompts: list[list[int]], most: int = MOST, ends: frozenset[int] = ENDS
) -> list[list[int]]:
    """What generate answers to all prompts in one left-padded batch, in file order."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    how = {"max_new_tokens": most, "do_sample": False, "eos_token_id": sorted(ends), "pad_token_id": PAD}
    answers = model.generate(input_ids=ids, attention_mask=mask, **how)[:, longest:].tolist()
    return [answer[: next((n for n, token in enumerate(answer) if token in ends), most)] for answer in answers]


def texts(answers: list[list[int]]) -> list[str]:
    return [Numbers().decode(answer) for answer in answers]


@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("family", FULL_ATTENTION)
def test_the_same_as_generate_whatever_the_batch(family: str, batch: int) -> None:
    model = made(FULL_ATTENTION[family])
    expected = plainly(model, PROMPTS)
    assert len({len(answer) for answer in expected}) > 4
    assert generator(batch).answers(model, asked(PROMPTS)) == texts(expected)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_common_beginning_changes_nothing(batch: int) -> None:
    model = made(FULL_ATTENTION["llama"])
    prompts = random_prompts([9, 3, 17, 5, 11], beginning=40)
    assert generator(batch).answers(model, asked(prompts)) == texts(plainly(model, prompts))
    again = [prompts[0], prompts[0]]  # nothing but the beginning: its last token still has to predict
    assert generator(batch).answers(model, asked(again)) == texts(plainly(model, again))


@pytest.fixture(scope="module")
def tickets() -> tuple[transformers.PreTrainedTokenizerBase, list[Row]]:
    tokenizer = load_tokenizer(schema.Model())
    return tokenizer, prepare(schema.Data(max_rows=40), 512, tokenizer).test[:20]


def own(model: torch.nn.Module, tickets: tuple[Any, list[Row]], batch: int) -> tuple[list[str], list[str]]:
    """(ours, generate's) answers of a model of the embedded kind."""
    tokenizer, rows = tickets
    ends = end_tokens(tokenizer, model, rows)
    expected = plainly(model, [row.prompt for row in rows], 40, ends)
    ours = generator(batch, 40, ends, tokenizer=tokenizer).answers(model, rows)
    return ours, [tokenizer.decode(answer, skip_special_tokens=True) for answer in expected]


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_the_embedded_model_answers_the_same(tickets: Any, batch: int) -> None:
    from engine.methods import full

    config = schema.Config(method="full", train=schema.Train(precision="fp32"))
    ours, expected = own(full.load(config, Machine("cpu", "CPU", False, False)).eval(), tickets, batch)
    assert ours == expected and len(set(ours)) > 5


def test_adapters_and_a_quantized_base_answer_the_same(tickets: Any) -> None:
    config = schema.Config(method="qlora", quantization=schema.Quantization(compute_dtype="fp32"),
                           train=schema.Train(precision="fp32"))  # fmt: skip
    base = qlora.load(config, Machine("cpu", "CPU", False, False))
    torch.manual_seed(0)
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
    ours, expected = own(model, tickets, 6)
    assert ours == expected and len(set(ours)) > 5


@pytest.mark.parametrize("family", OTHER_CACHES)
def test_another_cache_is_left_to_the_library_and_said(family: str) -> None:
    model = made(OTHER_CACHES[family])
    said: list[tuple[str, str]] = []
    ours = generator(len(PROMPTS), warn=lambda code, text: said.append((code, text))).answers(model, asked(PROMPTS))
    assert ours == texts(plainly(model, PROMPTS))
    assert [code for code, _ in said] == ["generation"] and type(model).__name__ in said[0][1]


@pytest.mark.parametrize("config", [FULL_ATTENTION["llama"], OTHER_CACHES["sliding window"]])
def test_a_models_own_generation_settings_do_not_count(config: transformers.PreTrainedConfig) -> None:
    model = made(config)
    expected = texts(plainly(model, PROMPTS))
    model.generation_config.repetition_penalty = 2.0
    assert texts(plainly(model, PROMPTS)) != expected
    assert generator(32).answers(model, asked(PROMPTS)) == expected
    assert model.generation_config.repetition_penalty == 2.0


class Counted(transformers.LlamaForCausalLM):
    """Counts its passes and the tokens given to it; does not fit where more than `room` rows are given."""

    room, passes, tokens = 99, 0, 0
    fails_at: Callable[[int], bool] = staticmethod(lambda number: False)

    def forward(self, input_ids=None, position_ids=None, attention_mask=None, cache=None, logits_to_keep=0, **rest):
        self.passes, self.tokens = self.passes + 1, self.tokens + input_ids.numel()
        if len(input_ids) > self.room or self.fails_at(self.passes):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask,
                               cache=cache, logits_to_keep=logits_to_keep, **rest)  # fmt: skip


def counted() -> Counted:
    return made(FULL_ATTENTION["llama"], Counted)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost() -> None:
    model = counted()
    expected = texts(plainly(model, PROMPTS))
    model.room = 2
    ours = generator(13)
    assert ours.answers(model, asked(PROMPTS)) == expected and ours.batch == 2


@pytest.mark.parametrize("failing", [2, 3, 5, 9])
def test_running_out_of_memory_half_way_loses_nothing(failing: int) -> None:
    model = counted()
    expected = texts(plainly(model, PROMPTS))
    model.passes, model.fails_at = 0, lambda number: number == failing
    ours = generator(8)
    assert ours.answers(model, asked(PROMPTS)) == expected and ours.batch == 4


def test_one_prompt_that_does_not_fit_is_out_of_memory() -> None:
    model = counted()
    model.room = 0
    with pytest.raises(OutOfMemory):
        generator(8).answers(model, asked(PROMPTS))


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    with pytest.raises(IndexError):
        generator(8).answers(made(FULL_ATTENTION["llama"]), asked([[3, VOCABULARY + 7]]))


def test_a_common_beginning_is_read_once() -> None:
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


def test_guesses_stay_within_the_positions_a_model_has() -> None:
    # No position is left behind the longest prompt's last token but one: asking about a further one is an IndexError.
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=30 + MOST - 1, n_embd=64, n_layer=2, n_head=4,
                                     bos_token_id=1, eos_token_id=2, pad_token_id=PAD)  # fmt: skip
    model = made(config)
    expected = texts(plainly(model, PROMPTS, MOST, frozenset()))
    assert generator(4, MOST, frozenset()).answers(model, asked(PROMPTS)) == expected


def test_answers_are_no_longer_than_asked_for() -> None:
    model = made(FULL_ATTENTION["llama"])
    for most in (1, 2, 7):
        ours = generator(4, most, frozenset()).answers(model, asked(PROMPTS))
        assert [len(text.split()) for text in ours] == [most] * len(PROMPTS)


def test_progress_rises_to_all_rows_and_may_end_the_work() -> None:
    model, told = made(FULL_ATTENTION["llama"]), []
    generator(4).answers(model, asked(PROMPTS), told.append)
    assert told == sorted(told) and told[-1] == len(PROMPTS)

    def stop(done: int) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator(4).answers(model, asked(PROMPTS), stop)


def test_a_row_without_a_prompt_is_the_datas_mistake() -> None:
    with pytest.raises(UserError, match="row 1: the test row has no prompt"):
        generator(4).answers(made(FULL_ATTENTION["llama"]), asked([[3], []]))
