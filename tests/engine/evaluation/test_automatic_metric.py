"""The metric that fits the training answers, and warnings of one that does not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command import ftbench
from data_fixtures import prepare_without_children
from message_parts import settings

from engine.config.preset_library import resolve_preset
from engine.config.schema import Config
from engine.worker.planning import describe_workload
from engine.worker.requests import data_check

RANDOM = random.Random(0)
WORDS = [
    "the",
    "of",
    "a",
    "large",
    "small",
    "green",
    "old",
    "new",
    "house",
    "tree",
    "river",
    "city",
    "walked",
    "found",
    "saw",
    "because",
    "while",
    "quickly",
    "story",
]


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_without_children(monkeypatch)


def words(count: int) -> str:
    return " ".join(RANDOM.choice(WORDS) for _ in range(count))


def asked(answers: list[str]) -> list[dict[str, Any]]:
    return [{"prompt": f"{words(6)} {number}", "completion": answer} for number, answer in enumerate(answers)]


def called(name: str, **arguments: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "arguments": arguments}}]


def chat(number: int, *answers: dict[str, Any]) -> dict[str, Any]:
    turns = []
    for answer in answers:
        turns += [{"role": "user", "content": f"{words(4)} {number}"}, {"role": "assistant", "content": "", **answer}]
    return {"messages": turns}


ESSAYS = asked([words(RANDOM.randint(30, 90)) for _ in range(100)])
OBJECTS = asked([json.dumps({"kind": RANDOM.choice(WORDS), "count": number}) for number in range(100)])
LABELS = asked([RANDOM.choice(["very good", "bad", "neutral"]) for _ in range(100)])
SUMS = asked([f"{words(12)} = <<1+2=3>> so\n#### {RANDOM.randint(0, 500)}" for _ in range(100)])
NAMES = asked([f"{RANDOM.choice(WORDS)} {number}th" for number in range(100)])
PLAIN = [{"text": words(40)} for _ in range(100)]
CALLS = [
    chat(number, *([{"tool_calls": called("f", x=number)}] if number % 2 else []), {"content": words(30)})
    for number in range(100)
]
THOUGHTS = asked([f"<think>\n{words(80)}\n</think>\n\n{RANDOM.choice(['yes', 'no'])}" for _ in range(100)])
KINDS = {
    "essays": (ESSAYS, "open"),
    "objects": (OBJECTS, "json"),
    "labels": (LABELS, "choice"),
    "sums": (SUMS, "number"),
    "numbers alone": (asked([f"${number * 7 + 3}.50" for number in range(100)]), "number"),
    "numbers with a decimal comma": (asked([f"{number + 1}.250,{number} €" for number in range(100)]), "number_comma"),
    "separators that say nothing": (asked([f"{number + 1},250" for number in range(100)]), "exact_match"),
    "codes with leading zeros": (asked([f"{number * 613 % 1000:05}" for number in range(100)]), "exact_match"),
    "a rating is a label": (asked([str(RANDOM.randint(1, 5)) for _ in range(100)]), "choice"),
    "names": (NAMES, "exact_match"),
    "a few words or an essay": (NAMES[:70] + ESSAYS[:30], "open"),
    "essays with numbers in them": (asked([f"{words(30)} 12 {words(30)}" for _ in range(100)]), "open"),
    "no prompts": (PLAIN, "loss"),
    "calls before the last turn": (CALLS, "tool_calls"),
    "labels after reasoning": (THOUGHTS, "choice"),
    "lists of labels": (asked([json.dumps(RANDOM.sample(WORDS, RANDOM.randint(0, 3))) for _ in range(100)]), "set"),
    "objects in a block of code": (asked([f'```json\n{{"n": {number}}}\n```' for number in range(100)]), "json"),
    "numbers in boxes": (asked([f"{words(12)} $\\boxed{{{number}}}$" for number in range(100)]), "number"),
    "expressions in boxes": (asked([f"{words(12)} $\\boxed{{x^{{{number}}}+y}}$" for number in range(100)]), "boxed"),
    "letters without spaces": (asked(["这是一个很长的回答它没有空格" * 3] * 99 + ["短"]), "open"),
}  # fmt: skip


def config(path: Path, rows: list[dict[str, Any]], settings: dict[str, object]) -> Config:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return resolve_preset("demo-lora", None, {"data.id": str(path), **settings}).config


def checked(chosen: Config) -> dict[str, Any]:
    arguments = {name: msgspec.to_builtins(getattr(chosen, name)) for name in ("data", "model", "evaluation")}
    report: dict[str, Any] = data_check({**arguments, "max_length": chosen.train.max_length}, lambda *said: None)
    return report


@pytest.mark.parametrize("kind", KINDS)
def test_the_metric_fits_the_answers_and_is_given_with_its_reason(kind: str, tmp_path: Path) -> None:
    rows, expected = KINDS[kind]
    chosen = config(tmp_path / "a.jsonl", rows, {"model.chat_template": "tools-plain"})
    report = checked(chosen)
    assert (report["metric"], report["refused"]) == (expected, None) and report["metric_reason"]
    work = describe_workload(chosen)["work"]  # what a ladder records and every run uses
    assert (work["metric"], work["metric_reason"]) == (report["metric"], report["metric_reason"])


def test_the_choice_does_not_depend_on_the_order_of_rows_or_the_split(tmp_path: Path) -> None:
    for rows, expected in (KINDS["labels"], KINDS["a few words or an essay"]):
        for seed in range(3):
            mixed = random.Random(seed).sample(rows, len(rows))
            assert checked(config(tmp_path / "a.jsonl", mixed, {"data.seed": seed}))["metric"] == expected


@pytest.mark.parametrize(
    ("rows", "metric"),
    [
        (ESSAYS, "exact_match"),
        (ESSAYS, "contains"),
        (ESSAYS, "choice"),
        (OBJECTS, "exact_match"),
        (ESSAYS, "tool_calls"),
        (KINDS["numbers with a decimal comma"][0], "number"),
        (KINDS["codes with leading zeros"][0], "number"),
    ],
)
def test_a_metric_that_cannot_work_is_warned_of_before_the_run(
    rows: list[dict[str, Any]], metric: str, tmp_path: Path
) -> None:
    chosen = config(tmp_path / "a.jsonl", rows, {"evaluation.metric": metric})
    report = checked(chosen)
    assert report["metric"] == metric and not report["metric_reason"]
    assert "evaluation.unfit_metric" in [notice["code"] for notice in report["warnings"]]
    assert "evaluation.unfit_metric" in [notice["code"] for notice in describe_workload(chosen)["warnings"]]


@pytest.mark.parametrize(
    ("rows", "metric"), [(LABELS, "exact_match"), (SUMS, "number"), (ESSAYS, "rouge"), (NAMES, "loss")]
)
def test_a_metric_that_works_is_not_warned_of(rows: list[dict[str, Any]], metric: str, tmp_path: Path) -> None:
    report = checked(config(tmp_path / "a.jsonl", rows, {"evaluation.metric": metric}))
    assert "evaluation.unfit_metric" not in [notice["code"] for notice in report["warnings"]]


def test_a_check_without_a_preset_reports_the_automatic_metric_and_how_long_rows_may_be(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Tell me {number}.", "output": f"It is {number}. " + "Well, " * 40} for number in range(40)
    ]
    rows += [{"instruction": "Tell me all.", "output": "Well, " * 2000}]
    (tmp_path / "open.json").write_text(json.dumps(rows))
    done = ftbench("data", "check", str(tmp_path / "open.json"), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["metric"] == "open" and "median" in report["metric_reason"]
    cut = [warning["text"] for warning in report["warnings"] if warning["code"] == "data.rows_cut"]
    assert cut and all(settings(text)["train.max_length"] > 2000 for text in cut)
