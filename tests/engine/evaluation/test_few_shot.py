"""The base model with training rows in the prompt: prompts, and the rung of a ladder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import MICRO, ON_SMALL
from forked import ftbench

from engine.config.errors import UserError
from engine.data.items import EvaluationItem, few_shot_items
from engine.data.rows import IGNORE_INDEX, Row
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.ladder.ladder_state import is_base, shots_of

BOS, END = 1, 2


def row(first: int, cut: bool = False, length: int = 2) -> Row:
    prompt = [BOS, *range(first, first + length)]
    answer = [first + 50, END]
    return Row([*prompt, *answer], [*[IGNORE_INDEX] * len(prompt), *answer], prompt, "t", f"row {first}", cut)


TRAIN = [row(10), row(20), row(30, cut=True), row(40)]
ITEM = EvaluationItem((row(70),), ("t",))


def test_examples_are_complete_training_rows_before_the_prompt_with_one_bos() -> None:
    (item,) = few_shot_items([ITEM], TRAIN, 2, BOS, 8, None)
    prompt = item.row.prompt
    assert prompt.count(BOS) == 1 and prompt[0] == BOS and prompt.count(END) == 2 and prompt[-2:] == [70, 71]
    assert item.references == ITEM.references and 30 not in prompt  # the cut row is no example
    assert item.row.input_ids == [*prompt, 120, END]
    assert [label for label in item.row.labels if label != IGNORE_INDEX] == [120, END]
    assert len(item.row.labels) == len(item.row.input_ids)


def test_all_items_have_the_same_examples() -> None:
    other = EvaluationItem((row(80),), ("t",))
    first, second = few_shot_items([ITEM, other], TRAIN, 3, BOS, 8, None)
    assert first.row.prompt[:-2] == second.row.prompt[:-2]


def test_examples_that_do_not_fit_are_refused() -> None:
    assert few_shot_items([ITEM], TRAIN, 2, BOS, 3, 18)
    for shots, positions in ((2, 12), (4, None)):
        with pytest.raises(UserError, match="examples"):
            few_shot_items([ITEM], TRAIN, shots, BOS, 3, positions)


def test_the_numbers_of_examples_are_checked() -> None:
    assert make_plan("demo", [], {}, base_shots=[4, 0, 4, 2]).base_shots == [2, 4]
    with pytest.raises(UserError) as caught:
        make_plan("demo", [], {}, base_shots=[65])
    assert caught.value.code == "ladder.base_shots" and "65" in caught.value.problem
    with pytest.raises(UserError) as caught:
        make_plan("demo", ["base-4-shot=lora"], {})
    assert caught.value.code == "ladder.rung_name" and "reserved" in caught.value.problem
    assert is_base("base-4-shot") and shots_of("base-4-shot") == 4 and not is_base("base-shot")
    assert ftbench("ladder", "demo", "--base-shots", "x").returncode == 2


def test_the_base_model_with_examples_is_a_rung_that_all_others_are_compared_with(tmp_path: Path) -> None:
    settings = ["--no-probe", *MICRO, *ON_SMALL]
    done = ftbench("ladder", "demo", "--rung", "lora", "--base-shots", "0,2", *settings, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    state = json.loads(done.stdout)
    rows = {rung["name"]: rung for rung in state["rows"]}
    assert list(rows) == ["base", "base-2-shot", "lora"]
    assert rows["base-2-shot"]["score"] and rows["base-2-shot"]["loss"] != rows["base"]["loss"]
    assert [(comparison["a"], comparison["b"]) for comparison in state["comparisons"]] == [
        ("lora", "base"),
        ("lora", "base-2-shot"),
    ]
    assert any("2-shot" in sentence["text"] and "2 training rows" in sentence["text"] for sentence in state["verdict"])
    run = tmp_path / "runs" / rows["lora"]["runs"][0]
    assert len((run / "predictions-2-shot.jsonl").read_text().splitlines()) == 6
    assert "2-shot base" in ftbench("report", "last", "--markdown").stdout
