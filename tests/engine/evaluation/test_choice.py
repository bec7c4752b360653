"""The choice equals that of scoring every answer with its full prompt."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_models import FULL_ATTENTION, OTHER_CACHES, PAD, SMALL, VOCABULARY, Counted, asked, made, random_prompts
from tiny_configs import model_with

from engine.config.errors import UserError
from engine.data.items import evaluation_items
from engine.data.rows import Row
from engine.evaluation.choice_scoring import Bounds, Chooser
from engine.evaluation.metrics import Choices, RowLoss
from engine.evaluation.score import row_losses
from engine.methods.rope import separate_lengths
from engine.training.batches import Packing
from engine.training.guards import OutOfMemory

PROMPTS = random_prompts([9, 3, 17, 1, 30, 2, 5])
END = 2


def branching(count: int, length: int) -> Choices:
    """Distinct answers of up to `length` tokens and an end token, many with a common prefix."""
    generator = torch.Generator().manual_seed(5)
    distinct: dict[tuple[int, ...], None] = {}
    while len(distinct) < count:
        size = int(torch.randint(0, length, (1,), generator=generator))
        first = int(torch.randint(10, 30, (1,), generator=generator))
        # Behind the first only three tokens: prefixes meet.
        distinct[(first, *torch.randint(10, 13, (size,), generator=generator).tolist(), END)] = None
    return Choices([list(tokens) for tokens in distinct], [str(tokens) for tokens in distinct])


CHOICES = {
    "branching": branching(30, 5),
    "one token each": Choices([[token] for token in range(40, 60)], [str(token) for token in range(40, 60)]),
    "one begins another": Choices(
        [[10, 11], [10], [10, 11, 12], [14], [14, 15], [16], [17, 18], [17]], list("abcdefgh")
    ),
}


def chooser(choices: Choices, batch: int, **how: Any) -> Chooser:
    def whole(model: torch.nn.Module, rows: Sequence[Row]) -> list[RowLoss]:
        return row_losses(model, rows, Packing("padded", 1000), PAD, "cpu")

    return Chooser(choices, batch, PAD, "cpu", **{"whole": whole, "warn": lambda code, text: None} | how)


@torch.no_grad()
def by_scoring_all(model: torch.nn.Module, prompts: list[list[int]], choices: Choices) -> list[str]:
    """One forward pass for each prompt and choice."""
    chosen = []
    for prompt in prompts:
        scores = []
        for tokens in choices.tokens:
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].double()
            scores.append(float(logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum()))
        chosen.append(choices.texts[int(np.argmax(scores))])
    return chosen


@cache
def expected_of(family: str, kind: str) -> list[str]:
    return by_scoring_all(made(FULL_ATTENTION[family]), PROMPTS, CHOICES[kind])


@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("kind", CHOICES)
@pytest.mark.parametrize("family", FULL_ATTENTION)
def test_the_same_as_scoring_every_answer(family: str, kind: str, batch: int) -> None:
    answers = chooser(CHOICES[kind], batch).answers(made(FULL_ATTENTION[family]), asked(PROMPTS))
    assert answers == expected_of(family, kind) and len(set(answers)) > 1


@pytest.mark.parametrize("rope", ["longrope", "dynamic"])
def test_the_same_where_rope_depends_on_the_length_of_prompt_and_choice(rope: str) -> None:
    """Prompts on both sides of the 24 tokens where it changes, and choices that reach them."""
    prompts = random_prompts([3, 9, 18, 19, 20, 22, 24, 25, 33])
    plain, choices, notes = model_with(rope), CHOICES["branching"], []
    expected = [by_scoring_all(copy.deepcopy(plain), [prompt], choices)[0] for prompt in prompts]
    model = copy.deepcopy(plain)
    separate_lengths(model)
    answers = chooser(choices, 4, warn=lambda code, text: notes.append(text)).answers(model, asked(prompts))
    assert answers == expected and len(set(expected)) > 2
    beyond = sum(len(prompt) + max(map(len, choices.tokens)) > 24 for prompt in prompts)
    assert [note.split(" need")[0] for note in notes] == [f"{beyond} prompts"] and 4 < beyond < len(prompts)


def test_answers_with_close_scores_are_distinguished() -> None:
    model = made(FULL_ATTENTION["llama"])
    model.lm_head.weight.data *= 0.05  # answers of one length are within a fraction of a nat
    choices = Choices([tokens for tokens in branching(200, 3).tokens if len(tokens) == 3], [str(n) for n in range(200)])
    expected = by_scoring_all(model, PROMPTS, choices)
    assert chooser(choices, 4).answers(model, asked(PROMPTS)) == expected and len(set(expected)) > 3


@pytest.mark.parametrize("seed", range(30))
def test_branch_and_bound_finds_the_best_where_ends_are_nearly_certain(seed: int) -> None:
    random, choices = np.random.default_rng(seed), branching(80, 5)
    # What a token costs behind what is before it: much, little or nearly nothing.
    costs: dict[tuple[int, ...], float] = {}
    scores = np.zeros((80, 6))
    for number, tokens in enumerate(choices.tokens):
        for length in range(1, len(tokens) + 1):
            cost = costs.setdefault(tuple(tokens[:length]), float(random.choice([3, 0.3, 0.01]) * random.random()))
            scores[number, length - 1] = -cost
    bounds = Bounds(scores[None, :, 0].copy(), choices.shared())
    wave = 1
    while pairs := bounds.promising(wave):
        bounds.learn(pairs, scores[[choice for _, choice in pairs]])
        wave *= 2
    assert bounds.best() == [int(scores.sum(1).argmax())]


def test_one_scored_answer_bounds_all_with_the_same_prefix() -> None:
    choices = Choices([[5, 6, 7], [5, 6, 8], [5, 9], [4, 4]], list("abcd"))
    bounds = Bounds(np.array([[-1.0, -1.0, -1.0, -5.0]]), choices.shared())
    bounds.learn([(0, 0)], np.array([[-1.0, -3.0, -0.5]]))
    assert bounds.upper.tolist() == [[-4.5, -4.0, -1.0, -5.0]] and bounds.exact.tolist() == [
        [True, False, False, False]
    ]
    assert bounds.promising(9) == [(0, 2), (0, 1)]


def test_a_common_prefix_of_the_prompts_changes_nothing() -> None:
    model, prompts = made(FULL_ATTENTION["qwen2"]), random_prompts([9, 3, 17, 5], beginning=40)
    expected = by_scoring_all(model, prompts, CHOICES["branching"])
    assert chooser(CHOICES["branching"], 3).answers(model, asked(prompts)) == expected


@pytest.mark.parametrize("family", OTHER_CACHES)
def test_a_cache_that_cannot_be_shared_changes_no_answer(family: str) -> None:
    model, choices, said = made(OTHER_CACHES[family]), CHOICES["one begins another"], []
    ours = chooser(choices, 4, warn=lambda code, text: said.append(text)).answers(model, asked(PROMPTS))
    assert ours == by_scoring_all(model, PROMPTS, choices)
    assert len(said) == 1 and type(model).__name__ in said[0]


def test_equally_likely_answers_give_the_first() -> None:
    model = made(transformers.LlamaConfig(**SMALL))
    torch.nn.init.zeros_(model.lm_head.weight)  # every token is as likely as every other: the shortest answers tie
    choices = Choices([[9, 8, 7], [5, 6], [3, 4], [6, 5]], list("abcd"))
    assert chooser(choices, 4).answers(model, asked(PROMPTS)) == ["b"] * len(PROMPTS)


def test_with_a_confident_model_few_answers_are_scored() -> None:
    model = made(FULL_ATTENTION["llama"], Counted)
    likely = [model.generate(torch.tensor([prompt]), max_new_tokens=3)[0, len(prompt) :].tolist() for prompt in PROMPTS]
    choices = Choices(branching(60, 5).tokens + likely, [str(number) for number in range(60 + len(likely))])
    expected = by_scoring_all(model, PROMPTS, choices)
    model.tokens = 0
    assert chooser(choices, 32).answers(model, asked(PROMPTS)) == expected
    every = sum(len(prompt) + len(tokens) for prompt in PROMPTS for tokens in choices.tokens)
    assert model.tokens < every / 10


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost() -> None:
    model = made(FULL_ATTENTION["llama"], Counted)
    expected = by_scoring_all(model, PROMPTS, CHOICES["branching"])
    model.room = 16
    ours = chooser(CHOICES["branching"], 7)
    assert ours.answers(model, asked(PROMPTS)) == expected and ours.batch == 4
    model.room = 0
    with pytest.raises(OutOfMemory):
        ours.answers(model, asked(PROMPTS))


def test_progress_increases_to_all_rows() -> None:
    told: list[int] = []
    chooser(CHOICES["one token each"], 4).answers(made(FULL_ATTENTION["gpt2"]), asked(PROMPTS), told.append)
    assert told == [4, 7]


def answered(answer: list[int], text: str, cut: bool = False) -> Row:
    """A training row of two turns; the last one is this answer, followed by the end token and a line feed."""
    prompt, before = [3, 4, 5, 6], [-100, 4, 5, -100]
    return Row([*prompt, *answer, END, 9], [*before, *answer, END, -100], prompt, text, "here", cut)


def test_the_choices_are_the_distinct_last_answers_with_end_tokens() -> None:
    rows = [answered([10, 11], "x"), answered([12], "y"), answered([10, 11], "x"), answered([13, 14], "cut", cut=True)]
    choices = Choices.of(rows)
    assert (choices.tokens, choices.texts) == ([[10, 11, END], [12, END]], ["x", "y"])
    items = evaluation_items([*rows, answered([1], " x ")])
    assert choices.unknown(items) == [items[3]]
    assert choices.shared().tolist() == [[3, 0], [0, 2]]


def test_too_many_and_too_few_answers_are_refused() -> None:
    many = [answered([token // VOCABULARY, token % VOCABULARY], str(token)) for token in range(1001)]
    assert len(Choices.of(many[:1000]).texts) == 1000
    for rows, code in ((many, "data.too_many_choices"), (many[:1], "data.too_few_choices")):
        with pytest.raises(UserError) as error:
            Choices.of(rows)
        assert error.value.code == code
