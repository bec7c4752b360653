"""Splitting by prompt: no prompt is in two splits, no row is lost, and given test rows are not changed."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from data_fixtures import CHATML, tokenizer, write_jsonl
from message_parts import figures, settings

from engine.config.errors import Notice, UserError
from engine.config.schema import Data
from engine.data.duplicates import KeyTable, earlier_prompts, keys_of
from engine.data.prepare import prepare
from engine.data.rows import Example
from engine.data.split import NOT_SELECTED, SHARED, TEST, TRAIN, VALIDATION, Assignment, assign

PASSAGES = {"prompt": "{context}\n{question}", "completion": "answer"}
SIDES = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


@dataclass
class Split:
    """The examples of each split in reading order, and their assignment."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    assignment: Assignment
    given: list[Example]
    """The examples of all given splits."""

    @property
    def about(self) -> list[str]:
        return self.assignment.about

    @property
    def warnings(self) -> list[Notice]:
        return self.assignment.warnings


def split(
    train: list[Example],
    validation: list[Example] | None,
    test: list[Example] | None,
    shares: tuple[float, float | None],
    seed: int,
    max_rows: int | None,
) -> Split:
    """`assign` for examples in memory. `shares`: of validation and test."""
    given = {"train": train, "validation": validation, "test": test}
    splits = {name: rows for name, rows in given.items() if rows is not None}
    examples = [example for rows in splits.values() for example in rows]
    data = Data(validation=shares[0], test=shares[1], seed=seed, max_rows=max_rows)
    done = assign(KeyTable.of(examples), {name: len(rows) for name, rows in splits.items()}, data)
    picked = {name: [examples[number] for number in done.rows(code)] for name, code in SIDES.items()}
    return Split(picked["train"], picked["validation"], picked["test"], done, examples)


def examples(*contents: Any) -> Any:
    return [Example(None, f"q{content}", "a", f"line {n}") for n, content in enumerate(contents, 1)]


def multi_reference(prompts: Any, rng: Any) -> Any:
    """Rows like those of E2E: every prompt has 4 to 10 answers, in random order."""
    rows = [
        (f"name[{n}], food[French]", f"answer {k} of {n}") for n in range(prompts) for k in range(rng.randint(4, 10))
    ]
    rng.shuffle(rows)
    return [Example(None, prompt, answer, f"line {n}") for n, (prompt, answer) in enumerate(rows, 1)]


def prompts(rows: Any) -> Any:
    return {example.prompt for example in rows}


def split_rows(
    train: Any,
    validation: Any = None,
    test: Any = None,
    shares: Any = (0.05, None),
    seed: Any = 0,
    max_rows: Any = None,
) -> Any:
    return split(train, validation, test, shares, seed, max_rows)


def keys(rows: Any) -> Any:
    return {keys_of(example) for example in rows}


@pytest.mark.parametrize("trial", range(20))
def test_no_content_is_in_two_splits_and_no_row_is_lost(trial: Any) -> None:
    rng = random.Random(trial)
    rows = examples(*(rng.randrange(60) for _ in range(rng.randrange(20, 200))))
    done = split_rows(rows, shares=(rng.choice([0.05, 0.2]), rng.choice([None, 0.3])), seed=trial)
    assert not keys(done.train) & keys(done.validation)
    assert not keys(done.train) & keys(done.test)
    assert not keys(done.validation) & keys(done.test)
    places = [example.where for side in (done.train, done.validation, done.test) for example in side]
    assert sorted(places) == sorted(example.where for example in rows)


def test_splits_depend_on_content_and_seed_not_on_order() -> None:
    rows = examples(*range(200))
    shuffled = random.Random(1).sample(rows, len(rows))
    assert keys(split_rows(rows).validation) == keys(split_rows(shuffled).validation)
    assert keys(split_rows(rows).test) == keys(split_rows(shuffled).test)
    assert keys(split_rows(rows).validation) != keys(split_rows(rows, seed=1).validation)
    assert [e.where for e in split_rows(rows).train] == sorted(
        (e.where for e in split_rows(rows).train), key=lambda w: int(w[5:])
    )


@pytest.mark.parametrize(("rows", "expected"), [(20, 1), (100, 5), (10, 0)])
def test_the_validation_share_gives_at_least_one_row_of_twenty(rows: Any, expected: Any) -> None:
    assert len(split_rows(examples(*range(rows)), test=[]).validation) == expected


def test_without_a_test_set_a_tenth_is_held_out_and_at_most_500() -> None:
    done = split_rows(examples(*range(300)), shares=(0.0, None))
    assert (len(done.test), len(done.train)) == (30, 270)
    assert figures(done.about[0]) == ["30"] and "no test split" in done.about[0]
    assert len(split_rows(examples(*range(7000)), shares=(0.0, None)).test) == 500


def test_a_test_share_of_0_holds_out_nothing() -> None:
    done = split_rows(examples(*range(300)), shares=(0.0, 0.0))
    assert done.test == [] and [warning.code for warning in done.warnings] == ["data.no_test_rows"]


def test_a_given_test_set_is_kept_and_its_overlap_reported() -> None:
    test = examples(0, 1, 2)
    done = split_rows(examples(*range(100)), test=test)
    assert done.test == test
    assert [warning.code for warning in done.warnings] == ["data.test_overlaps_train"]
    overlap = done.assignment.overlaps["test/train"]
    assert (overlap.of, overlap.prompt, overlap.answer, overlap.both) == (3, 3, 3, 3)
    assert [done.given[row] for row in done.assignment.same_prompt["test/train"][0]] == [test[0], done.train[0]]


def test_a_given_validation_set_loses_what_it_shares() -> None:
    done = split_rows(examples(*range(10)), validation=examples(3, 50, 99), test=examples(99))
    assert [example.prompt for example in done.validation] == ["q50"]
    assert [warning.code for warning in done.warnings] == ["data.validation_overlaps"]
    assert done.assignment.count(SHARED) == 2


def test_max_rows_chooses_by_content_and_leaves_the_held_out_rows_alone() -> None:
    rows = examples(*range(300))
    small, large = split_rows(rows, max_rows=10), split_rows(rows, max_rows=50)
    assert len(small.train) == 10
    assert keys(small.train) < keys(large.train)
    assert keys(small.test) == keys(large.test)
    assert keys(small.validation) == keys(large.validation)


@pytest.mark.parametrize("trial", range(10))
def test_all_answers_of_a_prompt_are_in_one_split(trial: Any) -> None:
    rng = random.Random(trial)
    rows = multi_reference(rng.randint(5, 400), rng)
    done = split_rows(rows, shares=(rng.choice([0.0, 0.05, 0.2]), rng.choice([None, 0.3])), seed=trial)
    assert done.test
    assert not prompts(done.test) & prompts(done.train)
    assert not prompts(done.validation) & (prompts(done.train) | prompts(done.test))
    overlap = done.assignment.overlaps["test/train"]
    assert (overlap.of, overlap.prompt, overlap.answer, overlap.both) == (len(done.test), 0, 0, 0)


def test_the_default_holds_out_at_most_500_prompts_independent_of_their_answers() -> None:
    rows = multi_reference(6000, random.Random(0))
    done = split_rows(rows, shares=(0.0, None))
    assert len(prompts(done.test)) == done.assignment.item_count(2) == 500
    assert len(done.test) > 3000


def test_a_test_file_with_training_prompts_and_other_answers_overlaps_by_prompt_alone() -> None:
    train = [Example(None, f"ask {n}", f"say {n}", f"line {n}") for n in range(50)]
    test = [Example(None, f" ask  {n} ", f"other {n}", f"line {n}") for n in range(20)]
    overlap = split_rows(train, test=test).assignment.overlaps["test/train"]
    assert (overlap.of, overlap.prompt, overlap.answer, overlap.both) == (20, 20, 0, 0)


def test_validation_held_out_of_training_never_has_a_prompt_of_a_given_test_set() -> None:
    train = [Example(None, f"ask {n}", f"say {n}", f"line {n}") for n in range(100)]
    test = [Example(None, f"ask {n}", f"other {n}", f"line {n}") for n in range(95)]
    done = split_rows(train, test=test, shares=(0.2, None))
    assert len(done.train) + len(done.validation) == 100
    assert prompts(done.validation) <= {f"ask {n}" for n in range(95, 100)}


def test_a_prompt_is_the_same_however_it_is_spaced_composed_or_written() -> None:
    chat = Example(
        [{"role": "user", "content": "na\u00efve  question\n"}, {"role": "assistant", "content": "a"}], "", "", "1"
    )
    same = Example(
        [{"role": "user", "content": " nai\u0308ve question"}, {"role": "assistant", "content": "b"}], None, None, "2"
    )
    system = Example([{"role": "system", "content": "Be brief."}, *(chat.messages or [])], None, None, "3")
    tools = Example(chat.messages, None, None, "4", tools=[{"type": "function", "function": {"name": "f"}}])
    keys = [keys_of(example) for example in (chat, same, system, tools)]
    assert keys[0].prompt == keys[1].prompt and keys[0].answer != keys[1].answer
    assert len({key.prompt for key in keys}) == 3
    assert keys[0].answer == keys[2].answer


def test_random_ids_of_tool_calls_do_not_make_two_prompts() -> None:
    def row(number: Any) -> Any:
        call = {"id": f"call_{number}", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
        turns = [
            {"role": "user", "content": "ask"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "3", "tool_call_id": f"call_{number}"},
            {"role": "assistant", "content": "three"},
        ]
        return Example(turns, None, None, f"line {number}")

    assert keys_of(row(1)) == keys_of(row(2))


def test_texts_without_a_prompt_are_split_one_by_one() -> None:
    done = split_rows([Example(None, "", f"text {n}", f"line {n}") for n in range(100)])
    assert (len(done.train), len(done.validation), len(done.test)) == (86, 4, 10)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("rows", range(1, 25))
def test_training_is_never_left_without_rows(rows: Any, share: Any) -> None:
    done = split_rows(examples(*range(rows)), shares=(share, share))
    assert done.train
    assert len(done.train) + len(done.validation) + len(done.test) == rows


def test_rows_over_the_limit_are_counted() -> None:
    assert split_rows(examples(*range(300)), max_rows=10).assignment.count(NOT_SELECTED) == 300 - 30 - 14 - 10


def grouped(rng: Any, rows: int, prompts: int, groups: int) -> list[Example]:
    """Rows with random prompts and groups; some have no group."""
    return [
        Example(
            None,
            f"q{rng.randrange(prompts)}",
            f"a{n}",
            f"line {n}",
            group=rng.choice(["", f"g{rng.randrange(groups)}"]),
        )
        for n in range(rows)
    ]


@pytest.mark.parametrize("trial", range(12))
def test_rows_of_a_prompt_or_group_are_in_one_split_also_through_others(trial: Any) -> None:
    rng = random.Random(trial)
    rows = grouped(rng, 300, prompts=rng.choice([60, 250]), groups=rng.choice([30, 200]))
    done = split(rows, None, None, (0.1, 0.2), trial, None)
    place = {row.where: name for name in SIDES for row in getattr(done, name)}
    assert len(place) == len(rows)
    for key in ("prompt", "group"):
        by_value: dict[str, set[str]] = {}
        for row in rows:
            if value := getattr(row, key):
                by_value.setdefault(value, set()).add(place[row.where])
        assert all(len(names) == 1 for names in by_value.values())
    shuffled = split(rng.sample(rows, len(rows)), None, None, (0.1, 0.2), trial, None)
    assert {row.where: name for name in SIDES for row in getattr(shuffled, name)} == place
    assert done.assignment.groups is not None
    numbers = dict(zip([row.where for row in rows], done.assignment.groups.tolist(), strict=True))
    alone = [row for row in rows if not row.group and sum(row.prompt == other.prompt for other in rows) == 1]
    assert all(sum(numbers[row.where] == other for other in numbers.values()) == 1 for row in alone)


def test_prompts_of_earlier_answers_are_those_of_rows_that_end_there() -> None:
    turns = [{"role": "system", "content": "Be  kind."}] * 3 + [
        {"role": "user", "content": "caf\u0065\u0301?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "x1", "function": {"name": "f"}}]},
        {"role": "tool", "content": "3", "tool_call_id": "x1"},
        {"role": "assistant", "content": "Three."},
        {"role": "assistant", "content": "Indeed."},
        {"role": "user", "content": "Thanks."},
        {"role": "assistant", "content": "Bye."},
    ]
    for start in (0, 2, 3, 4):  # with and without a system message; an answer first
        for tools in (None, [{"name": "f"}]):
            messages = turns[start:]
            whole = Example(messages, None, None, "line 1", tools=tools)
            ends = [n for n, turn in enumerate(messages[:-1]) if turn["role"] == "assistant"]
            parts = [Example(messages[: n + 1], None, None, "line 1", tools=tools) for n in ends]
            assert earlier_prompts(whole) == [keys_of(part).prompt for part in parts]
            untrained = dataclasses.replace(whole, weights={ends[0]: 0.0})
            assert earlier_prompts(untrained) == [keys_of(part).prompt for part in parts[1:]]


def passages(count: int, questions: int) -> list[dict[str, Any]]:
    rng = random.Random(3)
    words = ("north", "river", "built", "church", "war")
    texts = [" ".join(f"{rng.choice(words)}{n}" for _ in range(60)) for n in range(count)]
    return [
        {"context": text, "question": f"what of {n} and {k}?", "answer": f"a{n}-{k}", "doc": n if n else None}
        for n, text in enumerate(texts)
        for k in range(questions)
    ]


def test_a_group_is_offered_where_passages_recur_and_is_the_group_of_the_items(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", passages(40, 5))
    plain = prepare(Data(id=str(file), map=PASSAGES), 512, tokenizer(CHATML))
    (offer,) = [notice.text for notice in plain.warnings() if notice.code == "data.group_suggestion"]
    assert settings(offer) == {"data.group": "context"}
    by_passage = prepare(Data(id=str(file), map=PASSAGES, group="context"), 512, tokenizer(CHATML))
    assert "data.group_suggestion" not in [notice.code for notice in by_passage.warnings()]
    seen = {name: {row.input_ids[40] for row in getattr(by_passage, name)} for name in SIDES}
    assert by_passage.about()["overlap"]["test/train"]["near"] == 0 < plain.about()["overlap"]["test/train"]["near"]
    groups = [item.group for item in by_passage.test_items]
    assert seen["test"] and all(groups.count(group) == 5 for group in groups)
    numbers = prepare(Data(id=str(file), map=PASSAGES, group="doc"), 512, tokenizer(CHATML))
    assert "numbers read" in numbers.about()["why"]
    role = next(column["role"] for column in numbers.about()["columns"] if column["name"] == "doc")
    assert role == "group"


@pytest.mark.parametrize(("group", "code"), [("dcument", "data.unknown_group"), ("tags", "data.group_not_text")])
def test_a_group_that_is_no_name_is_refused(group: str, code: str, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"prompt": f"q{n}", "completion": "a", "tags": [n]} for n in range(9)])
    with pytest.raises(UserError) as refused:
        prepare(Data(id=str(file), group=group), 512, tokenizer(CHATML))
    assert refused.value.code == code


def queries(count: int, wordings: int) -> list[dict[str, Any]]:
    """Rows like Spider's: several wordings of one question, and the query as text and parsed."""
    rows = []
    for n in range(count):
        query = f"SELECT name, city, price FROM table_{n} WHERE price > {n} AND city = 'x{n}' ORDER BY name LIMIT {n}"
        rows += [
            {
                "db_id": f"db{n % 9}",
                "question": f"{word} {n}",
                "query": query,
                "sql": {"select": [n]},
                "kind": f"{w % 2}",
            }
            for w, word in enumerate(["find", "list all", "show me", "which are", "name every"][:wordings])
        ]
    return rows


def test_long_answers_shared_by_other_prompts_are_warned_of_with_the_column_to_group_by(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", queries(40, 5))
    done = prepare(Data(id=str(file)), 512, tokenizer(CHATML))
    assert {use.name: use.role for use in done.facts.columns}["query"] == "answer"
    (warning,) = [notice.text for notice in done.warnings() if notice.code == "data.shared_answers"]
    assert settings(warning) == {"data.group": "db_id"}
    grouped = prepare(Data(id=str(file), group="db_id"), 512, tokenizer(CHATML))
    assert "data.shared_answers" not in [notice.code for notice in grouped.warnings()]


@pytest.mark.parametrize(("name", "groups", "offered"), [("user", 6, True), ("user", 90, False), ("kind", 6, False)])
def test_a_column_of_users_is_offered_if_it_has_groups(tmp_path: Path, name: str, groups: int, offered: bool) -> None:
    rows = [
        {"prompt": hashlib.sha256(bytes([n])).hexdigest(), "completion": f"{n}", name: f"u{n % groups}"}
        for n in range(120)
    ]
    done = prepare(Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows))), 512, tokenizer(CHATML))
    assert ("data.group_suggestion" in [notice.code for notice in done.warnings()]) == offered


def test_long_labels_are_no_shared_answers(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} of what?", "completion": "the customer asks about the " + "card " * 20 + f"{n % 9}"}
            for n in range(200)]  # fmt: skip
    done = prepare(Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows))), 512, tokenizer(CHATML))
    assert "data.shared_answers" not in [notice.code for notice in done.warnings()]


@pytest.mark.parametrize(("shared", "warned"), [(20, False), (160, True)])
def test_few_shared_answers_are_no_warning(tmp_path: Path, shared: int, warned: bool) -> None:
    """Of 400 rows, `shared` have an answer of two rows: about as large a share of the test rows."""
    answers = [n // 2 if n < shared else n for n in range(400)]
    rows = [{"prompt": f"{n} of what?", "completion": "the customer asks about " + "card " * 20 + f"{answer}"}
            for n, answer in enumerate(answers)]  # fmt: skip
    done = prepare(Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows))), 512, tokenizer(CHATML))
    assert ("data.shared_answers" in [notice.code for notice in done.warnings()]) == warned
