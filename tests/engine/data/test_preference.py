"""Preference data is recognized, never trained on unasked, and trains on the good answers where that is asked for."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from message_parts import figures, settings
from reading import assistant, reading, refusal, said, user, write_rows

N = 12


def rows_of(make: Any) -> list[Any]:
    return [make(number) for number in range(N)]


PREFERENCES = {
    "texts": lambda n: {"prompt": f"q{n}", "chosen": f"good{n}", "rejected": f"bad{n}"},
    "question": lambda n: {"question": f"q{n}", "chosen": f"good{n}", "rejected": f"bad{n}"},
    "messages": lambda n: {
        "prompt": [user(f"q{n}")], "chosen": [assistant(f"good{n}")], "rejected": [assistant(f"bad{n}")],
    },
    "messages without a prompt": lambda n: {
        "chosen": [user(f"q{n}"), assistant(f"good{n}")], "rejected": [user(f"q{n}"), assistant(f"bad{n}")],
    },
    "messages that repeat the prompt": lambda n: {
        "prompt": f"q{n}",
        "chosen": [user(f"q{n}"), assistant(f"good{n}")],
        "rejected": [user(f"q{n}"), assistant(f"bad{n}")],
        "score_chosen": 9,
        "score_rejected": 1,
    },
    "ShareGPT ranking": lambda n: {
        "conversations": [{"from": "human", "value": f"q{n}"}],
        "chosen": {"from": "gpt", "value": f"good{n}"},
        "rejected": {"from": "gpt", "value": f"bad{n}"},
    },
    "Alpaca ranking": lambda n: {"instruction": f"q{n}", "input": "", "chosen": f"good{n}", "rejected": f"bad{n}"},
    "Alpaca list": lambda n: {"instruction": f"q{n}", "input": "", "output": [f"good{n}", f"bad{n}"]},
    "HH texts": lambda n: {
        "chosen": f"\n\nHuman: q{n}\n\nAssistant: good{n}", "rejected": f"\n\nHuman: q{n}\n\nAssistant: bad{n}",
    },
    "scores": lambda n: {"prompt": f"q{n}", "responses": [f"bad{n}", f"good{n}"], "scores": [0.1, 0.9]},
    "ranks": lambda n: {"prompt": f"q{n}", "responses": [f"bad{n}", f"good{n}"], "ranks": [2, 1]},
    "other names": lambda n: {"prompt": f"q{n}", "chosen_response": f"good{n}", "rejected_response": f"bad{n}"},
}  # fmt: skip


@pytest.mark.parametrize("shape", PREFERENCES)
def test_better_and_worse_answers_are_refused_with_a_setting_that_trains_the_better(tmp_path: Path, shape: Any) -> None:
    path = write_rows(tmp_path / "a.jsonl", rows_of(PREFERENCES[shape]))
    error = refusal(path)
    assert error.code == "data.preference_data"
    assert settings(error.hint) == {"data.format": "chosen"} and figures(error.hint) == [str(N), str(N)]
    dataset = reading(path, format="chosen")
    assert [said(example) for example in dataset.examples] == [
        [("user", f"q{n}"), ("assistant", f"good{n}")] for n in range(N)
    ]
    assert "bad" not in repr(dataset.examples)


def test_preferences_as_json_text_in_a_csv_file_are_the_same(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["chosen", "rejected"])
        for n in range(N):
            writer.writerow([json.dumps([user(f"q{n}"), assistant(answer)]) for answer in (f"good{n}", f"bad{n}")])
    assert refusal(tmp_path / "a.csv").code == "data.preference_data"
    dataset = reading(tmp_path / "a.csv", format="chosen")
    assert said(dataset.examples[3]) == [("user", "q3"), ("assistant", "good3")]


def test_only_what_the_answers_do_not_share_is_in_the_loss(tmp_path: Path) -> None:
    shared = [user("a"), assistant("b"), user("c")]
    rows = [{"chosen": [*shared, assistant("good")], "rejected": [*shared, assistant("bad")]}]
    (example,) = reading(write_rows(tmp_path / "a.jsonl", rows), format="chosen").examples
    assert example.weights == {1: 0.0}


@pytest.mark.parametrize("column", ["label", "kto_tag"])
@pytest.mark.parametrize(("good", "bad"), [(True, False), (1, 0), ("true", "false")])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a"},
        {"question": "q", "answer": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"messages": [user("q"), assistant("a")]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    ],
)
def test_rows_labeled_bad_train_only_where_the_label_is_true(
    tmp_path: Path, row: Any, good: Any, bad: Any, column: Any
) -> None:
    rows = [{**row, column: good if n % 3 else bad} for n in range(N)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    error = refusal(path)
    assert error.code == "data.preference_data"
    assert settings(error.hint) == {"data.format": "desirable"} and figures(error.hint) == ["8", str(N)]
    dataset = reading(path, format="desirable")
    assert len(dataset.examples) == 8
    assert dataset.left_out == {"data.undesirable": 4}
    assert dataset.format.roles[column] == "label"


def test_a_class_called_true_or_false_is_an_answer_not_a_verdict(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": bool(n % 2)} for n in range(N)]
    assert said(reading(write_rows(tmp_path / "a.jsonl", rows)).examples[1])[-1] == ("assistant", "true")


def test_steps_with_labels_are_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completions": ["one", "two"], "labels": [True, False]}]
    assert refusal(write_rows(tmp_path / "a.jsonl", rows)).code == "data.preference_data"
