"""Near-duplicates: which held-out prompts count, with what probability, and what is ignored."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from data_fixtures import tokenizer, write_jsonl

from engine.config.schema import Data
from engine.data.duplicates import KeyTable
from engine.data.near_duplicates import LIMIT, LONGEST, THRESHOLD, NearDuplicates, similar_texts
from engine.data.prepare import prepare
from engine.data.rows import Example
from engine.data.split import assign, note_near_duplicates

GRAM = 5


def asked(prompt: str, number: int = 0) -> Example:
    return Example(None, prompt, "a", f"line {number}")


def counted(train: list[str], test: list[str]) -> int | None:
    duplicates = NearDuplicates()
    for split, prompts in (("train", train), ("test", test)):
        for prompt in prompts:
            duplicates.add(split, asked(prompt))
    return duplicates.count("test")


def letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=count))


def jaccard(first: str, other: str) -> float:
    a, b = ({text[n : n + GRAM] for n in range(len(text) - GRAM + 1)} for text in (first, other))
    return len(a & b) / len(a | b)


def pairs(similarity: float, count: int = 200) -> tuple[list[str], list[str]]:
    """Prompts of 400 letters and copies with a different end, with about this Jaccard similarity of 5-grams."""
    rng = random.Random(int(similarity * 100))
    kept = round(400 * 2 * similarity / (1 + similarity))
    train = [letters(rng, 400) for _ in range(count)]
    test = [text[:kept] + letters(rng, 400 - kept) for text in train]
    assert sum(map(jaccard, train, test)) / count == pytest.approx(similarity, abs=0.02)
    return train, test


@pytest.mark.parametrize(
    ("similarity", "low", "high"), [(0.5, 0, 0), (0.65, 0, 0.01), (0.8, 0.2, 0.8), (0.9, 0.97, 1), (0.95, 1, 1)]
)
def test_pairs_count_as_documented(similarity: float, low: float, high: float) -> None:
    train, test = pairs(similarity)
    assert low * len(test) <= (counted(train, test) or 0) <= high * len(test)


def test_an_equal_prompt_is_no_near_duplicate_but_another_spelling_is() -> None:
    rng = random.Random(2)
    train = [letters(rng, 120) for _ in range(40)]
    assert counted(train, train) == 0
    assert counted(train, [f"{text[:-1]}!" for text in train]) == 40
    assert counted(train, [text.upper() for text in train]) == 40


def test_a_short_question_with_another_mark_counts_in_a_chat_too() -> None:
    def chat(text: str) -> Example:
        return Example([{"role": "user", "content": text}, {"role": "assistant", "content": "a"}], None, None, "line 1")

    duplicates = NearDuplicates()
    duplicates.add("train", chat("where is my new card"))
    duplicates.add("test", chat("Where is my new card?"))
    assert duplicates.count("test") == 1


TEMPLATED = [f"What does {name} pay for {count} {thing}?" for name in ("Anna", "Martin", "Marten", "Olga")
             for count in range(2, 30) for thing in ("lamps", "chairs", "tickets")]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("?", " ?"),
        lambda text: text.replace("?", ""),
        str.upper,
        lambda text: text.replace(" ", "\u00a0").replace("W", "\uff37"),
        lambda text: text.replace("What", "Waht"),
        lambda text: text.replace("tickets", "tikets").replace("lamps", "lampps").replace("chairs", "chiars"),
    ],
)
def test_another_spelling_of_a_templated_prompt_counts(change: Callable[[str], str]) -> None:
    copies = [change(text) for text in TEMPLATED[::31]]
    assert counted(TEMPLATED, copies) == len(copies)


def test_other_values_in_a_template_are_other_prompts() -> None:
    others = [text.replace("Olga", name) for text in TEMPLATED[-84::7] for name in ("Boris", "Olaf")]
    others += [text.replace("pay for ", "pay for 1") for text in TEMPLATED[::31] if " 1" not in text]
    kept = [text for text in TEMPLATED if "Martin" not in text]
    assert counted(kept, [*others, *(text for text in TEMPLATED if "Martin" in text)]) == 0


def test_operators_decimal_points_and_digits_are_no_spelling() -> None:
    assert (
        counted(
            ["Is 3 + 5 even?", "Take 1.5 of it", "Is 1 23 odd?"], ["Is 3 - 5 even?", "Take 15 of it", "Is 12 3 odd?"]
        )
        == 0
    )


def test_prompts_that_cannot_be_compared_are_counted() -> None:
    duplicates = NearDuplicates()
    for prompt in ("?!", "a" * (LONGEST + 1), "What is it?"):
        duplicates.add("test", asked(prompt))
    assert duplicates.uncompared("test") == 2


def test_a_fixed_instruction_does_not_make_all_prompts_similar() -> None:
    rng = random.Random(3)
    instruction = "You are a helpful assistant of a bank. Answer briefly and name the intent. " * 10
    train = [f"{instruction}{letters(rng, 40)}" for _ in range(200)]
    assert counted(train, [f"{instruction}{letters(rng, 40)}" for _ in range(50)]) == 0
    assert counted(train, [f"{text}?" for text in train[:50]]) >= 45


@pytest.mark.parametrize("alphabet", ["абвгдежзийклмнопрстуфхцч", "的一是不了人我在有他这中大来上国"])
def test_other_scripts_count_by_character(alphabet: str) -> None:
    rng = random.Random(4)
    train = ["".join(rng.choices(alphabet, k=200)) for _ in range(40)]
    assert counted(train, [text + alphabet[0] for text in train]) == 40
    assert counted(train, ["".join(rng.choices(alphabet, k=200)) for _ in range(40)]) == 0


@pytest.mark.parametrize("text", ["", "a", "ab", "a" * 4, "a" * 100_000])
def test_prompts_of_any_length_are_taken(text: str) -> None:
    assert counted([text, "something else"], [f"{text}"]) == 0


def test_above_the_limit_nothing_is_counted_and_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.data.prepare.LIMIT", 3)
    rows = [{"prompt": f"prompt {number}", "completion": "a"} for number in range(40)]
    done = prepare(Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows))), 64, tokenizer())
    overlap = done.about()["overlap"]["test/train"]
    assert overlap["near"] is None and f"{LIMIT:,}" in overlap["near_reason"]


@pytest.mark.parametrize(("near", "warned"), [(2, False), (5, False), (6, True), (60, True)])
def test_a_warning_comes_above_five_percent(near: int, warned: bool) -> None:
    rng = random.Random(5)
    train = [letters(rng, 120) for _ in range(200)]
    test = [f"{text}?" for text in train[:near]] + [letters(rng, 120) for _ in range(100 - near)]
    rows = {"train": list(map(asked, train)), "test": list(map(asked, test))}
    keys = KeyTable.of([*rows["train"], *rows["test"]])
    done = assign(keys, {name: len(some) for name, some in rows.items()}, Data(validation=0.0))
    duplicates = NearDuplicates()
    for name, some in rows.items():
        for example in some:
            duplicates.add(name, example)
    note_near_duplicates(done, duplicates)
    assert done.overlaps["test/train"].near == near
    assert ("data.near_duplicates" in [notice.code for notice in done.warnings]) == warned
    assert not warned or f"{THRESHOLD:g}" in done.warnings[-1].text


def test_similar_texts_have_the_number_of_the_first_one() -> None:
    words = [hashlib.sha256(bytes([number])).hexdigest() for number in range(30)]
    numbers = similar_texts((*words, f"{words[3]}, please", "something else entirely", words[3]))
    assert numbers[:30] == list(range(30)) and numbers[30:] == [3, 31, 3]
    assert similar_texts(()) == []
