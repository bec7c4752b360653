"""Evaluation items: the rows of one prompt are one item, answered once and scored against every reference."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from data_fixtures import write_jsonl
from message_parts import figures

from engine.assets import tiny_folder
from engine.config.metric_specs import metric_names, metric_spec
from engine.config.schema import Data, Model
from engine.data.items import (
    EvaluationItem,
    evaluation_items,
    items_fingerprint,
    reference_examples,
    sampled,
    sampled_by_rows,
)
from engine.data.prepare import prepare
from engine.data.rows import Example, Row
from engine.evaluation.metrics import Choices, best_score, mean_loss, scoring_function
from engine.evaluation.score import Scorer, item_losses, read_items, row_losses, summarize, write_items
from engine.methods.model_source import load_tokenizer
from engine.runs.run.predictions import ScoredItem
from engine.training.batches import Packing

LAYOUT = Packing("padded", 2048)


def row(target: str, item: int = -1, references: tuple[str, ...] = (), prompt: int = 5) -> Row:
    ids = [prompt, *(6 + ord(letter) % 50 for letter in target)]
    return Row(ids, [-100, *ids[1:]], [prompt], target, target, False, references=references, item=item)


def answers(items: list[EvaluationItem]) -> list[tuple[str, ...]]:
    return [item.references for item in items]


def test_rows_of_one_prompt_are_one_item_in_the_order_of_their_first() -> None:
    rows = [row("a", 7), row("b", 2), row("c", 7), row(" a ", 7), row("d"), row("e")]
    items = evaluation_items(rows)
    assert answers(items) == [("a", "c"), ("b",), ("d",), ("e",)]
    assert items[0].rows == (rows[0], rows[2])


def test_references_of_a_row_are_accepted_answers_each_once() -> None:
    items = evaluation_items([row("Paris", 1, ("Paris, France", "paris")), row("Paname", 1)], [row("paris", 1)])
    assert answers(items) == [("Paris", "Paname", "paris", "Paris, France")]
    assert [reference.target for reference in items[0].rows] == ["Paris", "Paname", "paris"]


@pytest.mark.parametrize("made", [sampled, sampled_by_rows])
def test_items_are_sampled_by_content_independent_of_the_order_of_rows(made: Any) -> None:
    rows = [row(f"{letter}{n}", n, prompt=9 + n) for n in range(40) for letter in "ab"]
    shuffled = random.Random(1).sample(rows, len(rows))
    few, other = made(evaluation_items(rows), 10), made(evaluation_items(shuffled), 10)
    assert {item.row.item for item in few} == {item.row.item for item in other}
    assert [item.row.item for item in few] == sorted(item.row.item for item in few)
    assert len(few) == (10 if made is sampled else 5)
    assert made(evaluation_items(rows), 1000) == evaluation_items(rows)


def test_a_sample_by_rows_has_one_item_at_least() -> None:
    assert len(sampled_by_rows(evaluation_items([row(f"{n}", 1) for n in range(9)]), 4)) == 1
    assert sampled_by_rows([], 4) == [] == sampled([], 4)


@pytest.mark.parametrize(
    ("metric", "output", "references", "expected"),
    [
        ("exact_match", "blue", ["red", " blue "], 1.0),
        ("exact_match", "green", ["red", "blue"], 0.0),
        ("choice", "blue", ["red", "blue"], 1.0),
        ("contains", "it is BLUE", ["red", "blue"], 1.0),
        ("number", "so 1,200", ["a dozen: 12", "#### 1200"], 1.0),
        ("json", '{"a": 1, "b": 2}', ['{"a": 1, "b": 3}', '{"a": 1}', "no object"], 0.5),
        ("rouge", "the cat sat", ["a dog ran", "the cat sat down"], 6 / 7),
    ],
)
def test_the_best_reference_counts(metric: str, output: str, references: list[str], expected: float) -> None:
    assert best_score(metric, output, references)[metric] == pytest.approx(expected)
    each = [scoring_function(metric)(output, reference)[metric] for reference in references]
    assert best_score(metric, output, references[::-1])[metric] == max(each)


def test_further_views_are_those_of_the_best_reference() -> None:
    scores = best_score("json", '{"a": 1}', ['{"a": 2}', '{"a": 1}'])
    assert scores == {"json": 1.0, "exact_match": 1.0, "valid": 1.0}


def test_a_choice_is_unknown_only_where_no_reference_is_allowed() -> None:
    choices = Choices.of([row("yes"), row("no")])
    items = evaluation_items([row("maybe", 1), row("no", 1), row("perhaps", 2)])
    assert choices.unknown(items) == [items[1]]


def test_the_loss_of_an_item_is_the_mean_over_its_answers() -> None:
    model = tiny_model_for_test()
    items = evaluation_items([row("ab", 1), row("abcdefgh", 1), row("xyz", 2)])
    (first, second), rest = (
        row_losses(model, items[0].rows, LAYOUT, 0, "cpu"),
        row_losses(model, items[1].rows, LAYOUT, 0, "cpu"),
    )
    losses = item_losses(model, items, LAYOUT, 0, "cpu")
    assert losses[0] == pytest.approx(((first[0] + second[0]) / 2, 5.0, 5.0))
    assert losses[1] == pytest.approx(rest[0])
    alone = mean_loss(item_losses(model, evaluation_items([row("ab"), row("xyz")]), LAYOUT, 0, "cpu"))
    assert alone == pytest.approx((first[0] + rest[0][0]) / 5)


def tiny_model_for_test() -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder(), dtype=torch.float32)


class Answers:
    """A generator with fixed answers that counts the prompts."""

    def __init__(self, outputs: list[str]) -> None:
        self.outputs, self.asked = outputs, 0

    def answer_tokens(self, model: Any, rows: list[Row], progress: Any) -> list[list[int]]:
        self.asked += len(rows)
        return [[number] for number in range(len(rows))]

    def texts(self, answers: list[list[int]]) -> list[str]:
        return [self.outputs[answer[0]] for answer in answers]

    def has_ended(self, answer: list[int]) -> bool:
        return answer[0] == 0


def test_every_item_is_answered_once_and_no_items_give_no_score() -> None:
    generator: Any = Answers(["c", "x"])
    scorer = Scorer("exact_match", generator, LAYOUT, 0, "cpu")
    items = evaluation_items([row("a", 1), row("b", 1), row("c", 1), row("d", 2)])
    scored = scorer.items(tiny_model_for_test(), items)
    assert generator.asked == 2
    assert [(item.scores or {})["exact_match"] for item in scored] == [1.0, 0.0]
    assert [item.ended for item in scored] == [True, False]
    assert scorer.items(torch.nn.Identity(), []) == []


def test_an_evaluation_reports_the_rows_whose_loss_is_known() -> None:
    reports: list[tuple[str, int, int]] = []
    scorer = Scorer("loss", Answers([]), LAYOUT, 0, "cpu", lambda *report: reports.append(report))
    scorer.items(tiny_model_for_test(), evaluation_items([row("a", 1), row("b", 1), row("c", 2)]))
    assert reports[-1] == ("loss", 3, 3)


@pytest.mark.parametrize("metric", metric_names())
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_summary_of_few_items_claims_no_more_than_they_say(metric: str, count: int) -> None:
    scores = {metric: 1.0} if metric_spec(metric).needs_answers else None
    summary = summarize([ScoredItem(nll=1.0, tokens=2, output="x", scores=scores)] * count, metric, 0.0)
    assert summary.score.rows == summary.loss.rows == count
    assert (summary.score.mean is None) == (summary.perplexity is None) == (count == 0)
    if count < 2:
        assert summary.score.low is None is summary.score.high


def test_predictions_keep_the_references_and_are_found_again(tmp_path: Path) -> None:
    items = evaluation_items([row("a", 1), row("b", 1), row("c", 2)])
    scored = ((2.5, "b", 1.0), (2, "x", 0.0))
    base = [ScoredItem(nll=1.0, tokens=n, output=text, scores={"exact_match": score}) for n, text, score in scored]
    write_items(tmp_path / "p.jsonl", items, ["ask", "other"], base, None)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert lines[0]["references"] == ["a", "b"] and "references" not in lines[1]
    assert read_items(tmp_path / "p.jsonl", items, ["ask", "other"]) == base
    others = evaluation_items([row("a", 1), row("changed", 1), row("c", 2)])
    assert read_items(tmp_path / "p.jsonl", others, ["ask", "other"]) is None


def test_the_fingerprint_of_items_knows_all_answers() -> None:
    first, second = evaluation_items([row("a", 1), row("b", 1)]), evaluation_items([row("a", 1), row("c", 1)])
    assert items_fingerprint(first) != items_fingerprint(second) != items_fingerprint(evaluation_items([row("a", 1)]))


def test_other_answers_of_an_example_become_examples() -> None:
    turns = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "a"}]
    example = Example(turns, "ask", "a", "line 1", references=("b", " ", "c"))
    others = reference_examples(example)
    assert [other.completion for other in others] == ["b", "c"]
    assert [(other.messages or [])[-1]["content"] for other in others] == ["b", "c"]
    assert (example.messages or [])[-1]["content"] == "a"


def test_a_multi_reference_set_is_prepared_into_items(tmp_path: Path) -> None:
    rng = random.Random(3)
    rows = [
        {"prompt": f"name[{n}]", "completion": f"say {n} {k}"} for n in range(60) for k in range(rng.randint(4, 10))
    ]
    rng.shuffle(rows)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(values) + "\n" for values in rows))
    made = prepare(Data(id=str(tmp_path / "rows.jsonl"), validation=0.1), 64, load_tokenizer(Model()))
    prompts = {
        name: {tuple(prepared.prompt) for prepared in getattr(made, name)} for name in ("train", "validation", "test")
    }
    assert prompts["test"] and not prompts["test"] & prompts["train"]
    assert prompts["validation"] and not prompts["validation"] & (prompts["train"] | prompts["test"])
    items = made.test_items
    assert len(items) == made.facts.test_items == len(prompts["test"]) < len(made.test)
    assert sum(len(item.references) for item in items) == len(made.test)
    assert made.about()["overlap"]["test/train"]["prompt"] == 0


def called(city: str) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": city}}}]}


def chat(number: int, calls: bool = True, **weight: float) -> list[dict[str, Any]]:
    """A conversation with three answers, the first of which is a call."""
    asked = [
        {"role": "user", "content": f"{text} {number}?"} for text in ("the weather in Oslo", "and tomorrow", "bye")
    ]
    first = called("Oslo") if calls else {"role": "assistant", "content": "Cold."}
    result = [{"role": "tool", "content": '{"degrees": 3}'}] if calls else []
    second: dict[str, Any] = {"role": "assistant", "content": f"Cloudy, {number}.", **weight}
    return [asked[0], first, *result, asked[1], second, asked[2], {"role": "assistant", "content": "Bye!"}]


def prepared_chats(path: Path, rows: list[list[dict[str, Any]]], max_length: int = 512, **data: Any) -> Any:
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in rows))
    tokenizer = load_tokenizer(Model(chat_template="tools-plain"))
    return prepare(Data(id=str(path), test=0.2, **data), max_length, tokenizer), tokenizer


def test_every_answer_in_the_loss_of_a_conversation_is_an_item(tmp_path: Path) -> None:
    prepared, tokenizer = prepared_chats(tmp_path / "a.jsonl", [chat(number) for number in range(40)])
    items, rows = prepared.test_items, list(prepared.test)
    assert len(items) == 3 * len(rows) == prepared.facts.test_items > 3
    for row, three in zip(rows, zip(*[iter(items)] * 3, strict=True), strict=True):
        assert [row.where in item.row.where for item in three] == [True] * 3
        assert len({item.row.where for item in three}) == 3
        assert {item.group for item in three} == {row.group} != {""}
        assert "weather" in three[0].target and three[2].target == "Bye!"
        for item in three:
            assert row.input_ids[: len(item.row.prompt)] == item.row.prompt  # what the model saw before this answer
        trained = [[label for label in item.row.labels if label != -100] for item in three]
        assert [label for part in trained for label in part] == [
            label for label in row.labels if label != -100
        ]  # each token counts once
        assert best_score("tool_calls", three[0].target, three[0].references)["tool_calls"] == 1
        assert "weather" in tokenizer.decode(trained[0])
    groups = [row.group for row in rows]
    assert len(set(groups)) == len(groups)


def test_an_answer_that_is_not_in_the_loss_is_no_item(tmp_path: Path) -> None:
    prepared, _ = prepared_chats(tmp_path / "a.jsonl", [chat(number, weight=0) for number in range(40)])
    assert len(prepared.test_items) == 2 * len(prepared.test) == prepared.facts.test_items
    single = [[*chat(number)[:1], {"role": "assistant", "content": "Cold."}] for number in range(40)]
    prepared, _ = prepared_chats(tmp_path / "b.jsonl", single)
    assert len(prepared.test_items) == len(prepared.test) and {item.group for item in prepared.test_items} == {""}


def test_an_answer_beyond_max_length_is_no_item(tmp_path: Path) -> None:
    rows = [chat(number, calls=False) for number in range(40)]
    whole, _ = prepared_chats(tmp_path / "a.jsonl", rows)
    short = min(len(row.prompt) for row in whole.test)
    cut, _ = prepared_chats(tmp_path / "a.jsonl", rows, max_length=short)
    assert len(cut.test_items) == cut.facts.test_items == 2 * len(cut.test)


def test_conversations_with_the_same_last_prompt_have_the_same_earlier_items(tmp_path: Path) -> None:
    answers = [(number, f"{word} of {number}") for number in range(20) for word in ("a", "b")]
    rows = [[*chat(number)[:-1], {"role": "assistant", "content": answer}] for number, answer in answers]
    prepared, _ = prepared_chats(tmp_path / "a.jsonl", rows)
    assert len(prepared.test_items) == 3 * len(prepared.test) / 2
    assert [len(item.references) for item in prepared.test_items[:3]] == [1, 1, 2]


@pytest.mark.parametrize("splits", ["held out", "given"])
@pytest.mark.parametrize("grouped", [False, True])
def test_all_items_of_a_row_are_in_one_split_and_one_group(tmp_path: Path, splits: str, grouped: bool) -> None:
    """The group is data.group's if it is set, whether splits are held out or files of their own."""
    rows = [{"messages": chat(number), **({"thread": f"t{number // 3}"} if grouped else {})} for number in range(90)]
    places = {name: tmp_path / f"{name}.jsonl" for name in ("train", "validation", "test")}
    parts = (
        {"train": rows} if splits == "held out" else dict(zip(places, (rows[:60], rows[60:75], rows[75:]), strict=True))
    )
    for name, part in parts.items():
        places[name].write_text("".join(json.dumps(row) + "\n" for row in part))
    given: dict[str, Any] = {"group": "thread" if grouped else None} | (
        {"test": 0.2, "validation": 0.1}
        if splits == "held out"
        else {name: str(places[name]) for name in ("test", "validation")}
    )
    tokenizer = load_tokenizer(Model(chat_template="tools-plain"))
    prepared = prepare(Data(id=str(places["train"]), **given), 512, tokenizer)

    def thread(location: str) -> int:
        """Which conversation, or which thread, a row or an item is from."""
        number = int(location.split("line ")[1].split()[0]) - 1
        number += {"validation": 60, "test": 75}.get(Path(location.split(" ")[0]).stem, 0)
        return number // 3 if grouped else number

    items = prepared.test_items
    assert len(items) == 3 * len(prepared.test) > 9
    of = {name: {thread(row.where) for row in getattr(prepared, name)} for name in ("train", "validation", "test")}
    assert {thread(item.row.where) for item in items} == of["test"]
    assert not of["test"] & (of["train"] | of["validation"]) and not of["validation"] & of["train"]
    by_group: dict[str, set[int]] = {}
    for item in items:
        by_group.setdefault(item.group, set()).add(thread(item.row.where))
    assert "" not in by_group and all(len(threads) == 1 for threads in by_group.values())
    assert len(by_group) == len(of["test"])


def said(*texts: str) -> list[dict[str, Any]]:
    """A conversation of a user and the model, in turns."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def test_an_earlier_answer_to_a_prompt_of_training_is_no_item(tmp_path: Path) -> None:
    """Many conversations begin alike."""
    rows = [said("hello", f"hi {n}", f"e {n}?", "f") for n in range(40)]
    rows += [said(f"a {n}?", "b", f"c {n}?", "d") for n in range(40)]
    prepared, _ = prepared_chats(tmp_path / "a.jsonl", rows)
    trained = {tuple(row.input_ids[: n + 1]) for row in prepared.train for n in range(len(row.input_ids))}
    items = prepared.test_items
    assert len(items) == prepared.facts.test_items >= len(prepared.test)
    earlier = [item for item in items if " answer " in item.row.where]
    assert earlier and not any(tuple(item.row.prompt) in trained for item in earlier)
    assert any("earlier answer" in text and "also in training" in text for text in prepared.about()["split"])


def test_rows_whose_prompt_a_conversation_answers_are_in_its_split(tmp_path: Path) -> None:
    """Conversations that are stored once per answer, at most four times, in any order."""
    stored = [
        said(*(text for turn in range(3) for text in (f"ask {n} {turn}?", f"reply {turn}")))[: 2 * turns]
        for n in range(60)
        for turns in ((1, 2, 3), (2, 3), (1, 3), (3,))[n % 4]
    ]
    random.Random(0).shuffle(stored)
    prepared, _ = prepared_chats(tmp_path / "a.jsonl", stored, validation=0.1)

    def conversation(row: Any) -> str:
        return str(stored[int(row.where.split("line ")[1].split()[0]) - 1][0]["content"])

    of = {name: {conversation(row) for row in getattr(prepared, name)} for name in ("train", "validation", "test")}
    assert of["test"] and not of["test"] & (of["train"] | of["validation"]) and not of["validation"] & of["train"]
    assert "data.test_overlaps_earlier" not in [notice.code for notice in prepared.warnings()]
    usage = prepared.about()["data_usage"]
    assert usage["train"] + usage["validation"] + usage["test"] == usage["read"] == len(stored)
    (account,) = [text for text in prepared.about()["split"] if "last turn" in text]
    together, moved = map(int, figures(account))
    assert together == 60 and 0 < moved <= 60
    items = prepared.test_items  # each answer once, with one unit of the statistics per conversation
    assert len(items) == prepared.facts.test_items == 3 * len(of["test"])
    by_group: dict[str, set[str]] = {}
    for item in items:
        by_group.setdefault(item.group, set()).add(conversation(item.row))
    assert "" not in by_group and sorted(map(len, by_group.values())) == [1] * len(of["test"])


def test_a_given_test_split_with_prompts_that_training_answers_early_is_warned_of(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", [{"messages": said(f"a {n}?", "b")} for n in range(3)])
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": said(f"a {n}?", "b", f"c {n}?", "d")} for n in range(2, 40)])
    data = Data(id=str(path), test=str(tmp_path / "test.jsonl"))
    prepared = prepare(data, 512, load_tokenizer(Model(chat_template="tools-plain")))
    (warned,) = [notice.text for notice in prepared.warnings() if notice.code == "data.test_overlaps_earlier"]
    assert warned.startswith("1 of 3 test rows") and len(prepared.test) == 3
    assert not {row.where for row in prepared.validation} & {"a.jsonl line 1"}  # the conversation of the tested prompt


def test_items_with_the_same_prompt_are_one_group(tmp_path: Path) -> None:
    """The first question of all test conversations is the same, and not in training."""
    told = [[{"role": "user", "content": text}, {"role": "assistant", "content": "b"}] for text in map(str, range(40))]
    tested = [[*told[n % 2], *chat(n)] for n in range(6)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in tested))
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in told[2:]))
    tokenizer = load_tokenizer(Model(chat_template="tools-plain"))
    prepared = prepare(Data(id=str(path), test=str(tmp_path / "test.jsonl")), 512, tokenizer)
    assert len(prepared.test_items) == 2 + 6 * 3
    by_prompt: dict[tuple[int, ...], set[str]] = {}
    for item in prepared.test_items:
        by_prompt.setdefault(tuple(item.row.prompt), set()).add(item.group)
    assert all(len(groups) == 1 for groups in by_prompt.values())
    assert len({item.group for item in prepared.test_items}) == 2
