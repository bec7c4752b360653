"""Answers equal those of transformers' generate for any batch size, and with prompts read in parts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import peft
import pytest
import torch
import transformers
from model_shapes import MIXED_SHAPES
from small_models import (
    FULL_ATTENTION,
    OTHER_CACHES,
    PAD,
    VOCABULARY,
    asked,
    generator,
    made,
    plainly,
    random_prompts,
    texts,
)

from engine.config import schema
from engine.config.device_defaults import MAX_TOKENS
from engine.config.errors import UserError
from engine.data.prepare import prepare
from engine.data.rows import Row
from engine.evaluation.generate import end_tokens
from engine.evaluation.worst_case import WorstCaseAnswers, run_worst_case
from engine.methods import qlora
from engine.methods.machine import Machine
from engine.methods.model_source import load_tokenizer

PROMPTS = random_prompts([9, 3, 17, 5, 11, 1, 30, 2])


@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("family", [*FULL_ATTENTION, *OTHER_CACHES])
def test_the_same_as_generate_for_any_batch_size(family: str, batch: int) -> None:
    model = made({**FULL_ATTENTION, **OTHER_CACHES}[family])
    expected = plainly(model, PROMPTS)
    assert len({len(answer) for answer in expected}) > 4 or family in OTHER_CACHES
    assert generator(batch).answers(model, asked(PROMPTS)) == texts(expected)


@pytest.fixture(scope="module")
def tickets() -> tuple[transformers.PreTrainedTokenizerBase, Sequence[Row]]:
    tokenizer = load_tokenizer(schema.Model())
    return tokenizer, prepare(schema.Data(max_rows=40), 512, tokenizer).test[:10]


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


IN_PARTS = {
    "llama": FULL_ATTENTION["llama"],
    "windows in some layers": OTHER_CACHES["windows in some layers"],
    "linear attention": MIXED_SHAPES["linear attention"],
    "experts and windows": MIXED_SHAPES["masks without positions"],
}


@pytest.mark.parametrize("name", IN_PARTS)
def test_prompts_read_in_parts_are_answered_as_each_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = copy.deepcopy(IN_PARTS[name])
    config.initializer_range = 0.3
    model, said = made(config), []
    ours, rows = generator(4, most=12, warn=lambda code, text: said.append(code)), asked(PROMPTS[:7])
    at_once = ours.answer_tokens(model, rows)
    monkeypatch.setitem(MAX_TOKENS, "cpu", 4 * 7)
    told: list[int] = []
    said.clear()
    answers = ours.answer_tokens(model, rows, told.append)
    assert answers == at_once == ours.answer_tokens_alone(model, rows)
    assert len({len(answer) for answer in answers}) > 1 and not said
    assert told == sorted(told) and told[-1] == len(rows) and len(told) > len(rows)


def test_a_model_without_cache_reads_whole_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAX_TOKENS, "cpu", 8)
    model = made(transformers.OpenAIGPTConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2))
    (prompt,) = prompts = random_prompts([30])
    assert generator(1, most=4).answer_tokens(model, asked(prompts)) == plainly(model, prompts, 4)
    run_worst_case(model, WorstCaseAnswers([prompt], 4), PAD, "cpu")


def test_generate_keeps_the_kernels_of_experts_while_it_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU transformers would copy the weights of every expert of every row."""
    switched: list[str] = []

    @contextmanager
    def switch(model: torch.nn.Module) -> Iterator[None]:
        switched.append(type(model).__name__)
        yield

    monkeypatch.setattr(transformers.GenerationMixin, "_optimize_model_for_decode", switch)
    model = made(MIXED_SHAPES["masks without positions"])
    generator(4).answer_tokens(model, asked(PROMPTS))
    assert switched == [] and "_optimize_model_for_decode" not in vars(model)
    plainly(model, PROMPTS)
    assert switched == ["GptOssForCausalLM"]


@pytest.mark.parametrize("mechanism", MIXED_SHAPES)
def test_answers_do_not_depend_on_the_other_prompts_of_a_batch(mechanism: str) -> None:
    config = copy.deepcopy(MIXED_SHAPES[mechanism])
    config.initializer_range = 0.3  # large differences between logits, so that rounding does not matter
    model, prompts = made(config), random_prompts([4, 9, 17, 30])
    together = generator(4, most=8, ends=frozenset()).answer_tokens(model, asked(prompts))
    assert together == generator(1, most=8, ends=frozenset()).answer_tokens(model, asked(prompts))


@pytest.mark.parametrize("config", [FULL_ATTENTION["llama"], OTHER_CACHES["sliding window"]])
def test_a_models_generation_config_is_ignored(config: transformers.PreTrainedConfig) -> None:
    model = made(config)
    expected = texts(plainly(model, PROMPTS))
    model.generation_config.repetition_penalty = 2.0
    assert texts(plainly(model, PROMPTS)) != expected
    assert generator(32).answers(model, asked(PROMPTS)) == expected
    assert model.generation_config.repetition_penalty == 2.0


def test_a_row_without_a_prompt_is_a_user_error() -> None:
    with pytest.raises(UserError) as error:
        generator(4).answers(made(FULL_ATTENTION["llama"]), asked([[3], []]))
    assert (error.value.code, error.value.location) == ("data.empty_prompt", "row 1")
