"""One path: what the preview shows is what is trained, what is counted is what happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from data_fixtures import loss_texts, tokenizer, write_jsonl
from message_parts import figures, settings

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.check import check, show
from engine.data.prepare import prepare
from engine.data.problems import LEFT_OUT
from engine.data.source import NOT_READ


@pytest.fixture
def banking(tmp_path: Path) -> Any:
    """A folder like Banking77: CSV splits with text,category, and a list of categories beside them."""
    for name, rows in (("train", 60), ("test", 10)):
        lines = [f'"How do I get card {name} {n}, please?",card_{n % 3}' for n in range(rows)]
        (tmp_path / f"{name}.csv").write_text("text,category\n" + "\n".join(lines) + "\n")
    (tmp_path / "categories.json").write_text('["card_0", "card_1", "card_2"]')
    return Data(id=str(tmp_path))


def test_a_folder_of_csv_is_prepared_and_accounted_for(banking: Any) -> None:
    tok = tokenizer()
    made = prepare(banking, 128, tok)
    assert made.about()["rows"] == {"train": 57, "validation": 3, "test": 10}
    assert made.about()["format"] == "prompt-completion"
    assert [(column["name"], column["role"]) for column in made.about()["columns"]] == [
        ("text", "prompt"),
        ("category", "answer"),
    ]
    assert made.about()["notes"] == [f"{NOT_READ}categories.json"]
    assert made.about()["loss_tokens"]["test"] == sum(len(learnt_ids(row)) for row in made.test)
    assert loss_texts(made.test[0], tok) == ["card_0<|im_end|>"]
    assert (made.test[0].target, made.test[0].where) == ("card_0", "test.csv line 2")
    assert made.warnings() == []


def learnt_ids(row: Any) -> Any:
    return [label for label in row.labels if label != -100]


def test_preparing_twice_gives_the_same_rows_and_fingerprint(banking: Any) -> None:
    first, other = prepare(banking, 128, tokenizer()), prepare(banking, 128, tokenizer())
    assert first.rows == other.rows and first.about() == other.about()
    assert prepare(banking, 46, tokenizer()).facts.fingerprint != first.facts.fingerprint


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_what_is_shown_is_what_is_trained(banking: Any, split: Any) -> None:
    tok = tokenizer()
    rows = getattr(prepare(banking, 46, tok), split)
    assert split == "test" or any(row.cut for row in rows), "the cut is in what is compared"
    samples = show(banking, 46, tok, 1000, split)
    assert [[token["id"] for token in sample["tokens"]] for sample in samples] == [row.input_ids for row in rows]
    assert [[token["id"] if token["trained"] else -100 for token in sample["tokens"]] for sample in samples] == [
        row.labels for row in rows
    ]
    assert [sample["where"] for sample in samples] == [row.where for row in rows]
    assert json.loads(json.dumps(samples)) == samples


def test_shown_tokens_join_to_the_text_and_special_ones_are_marked(banking: Any) -> None:
    tok = tokenizer()
    tokens = show(banking, 128, tok, 1, "test")[0]["tokens"]
    assert "".join(token["text"] for token in tokens).startswith("<|im_start|>user\nHow do I get card test 0")
    assert [token["text"] for token in tokens if token["special"]] == ["<|im_start|>", "<|im_end|>"] * 2


def test_wikisql_like_text_learns_what_follows_the_separator(tmp_path: Path) -> None:
    rows = [{"text": f"table: {n}\nQ: Which notes {n}?\nA: SELECT {n}"} for n in range(40)]
    made = prepare(Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows)), separator="\nA:"), 128, tokenizer())
    tok = tokenizer()
    assert all(loss_texts(row, tok) == [f"{row.target}<|im_end|>"] for row in made.train)
    assert made.train[0].target.startswith(" SELECT")
    assert tok.decode(made.train[0].prompt).endswith("\nA:")


@pytest.mark.parametrize(
    ("count", "empty", "left_out", "held_out"), [(40, 4, "4 train rows ", "2 rows "), (20, 1, "1 train row ", "1 row ")]
)
def test_rows_with_nothing_to_learn_are_left_out_and_counted(
    tmp_path: Path, count: int, empty: int, left_out: str, held_out: str
) -> None:
    rows = [{"question": f"q{n}", "answer": "" if n < empty else "a"} for n in range(count)]
    made = prepare(Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows))), 64, tokenizer())
    assert made.about()["dropped"]["train"]["data.empty"] == {
        "rows": empty,
        "where": [f"a.jsonl line {n}" for n in range(1, empty + 1)],
    }
    (text,) = [notice.text for notice in made.warnings() if notice.code == "data.rows_left_out"]
    assert text.startswith(left_out) and LEFT_OUT["data.empty"] in text and "a.jsonl line 1" in text
    assert made.about()["split"][1].startswith(f"validation: {held_out}") and "by prompt" in made.about()["split"][1]


@pytest.mark.parametrize(
    ("row", "max_length", "kind", "more"),
    [
        ({"question": "q " * 30, "answer": "a"}, 16, "data.cut_before_answer", "train.max_length=128"),
        ({"messages": [{"role": "robot", "content": "a"}]}, 64, "data.unknown_role", "'robot'"),
        ({"messages": [{"role": "user", "content": "a"}]}, 64, "data.no_answer", "data.separator"),
    ],
)
def test_a_set_that_would_train_on_nothing_is_refused(
    tmp_path: Path, row: Any, max_length: int, kind: str, more: str
) -> None:
    data = Data(id=str(write_jsonl(tmp_path / "a.jsonl", [row] * 30)), validation=0.0, test=0.0)
    with pytest.raises(UserError) as caught:
        prepare(data, max_length, tokenizer())
    assert (caught.value.code, caught.value.location) == ("data.too_many_unusable_rows", "a.jsonl line 1")
    assert figures(caught.value.problem)[:2] == ["30", "30"]
    assert LEFT_OUT[kind] in caught.value.problem and more in caught.value.line
    assert check(data, max_length, tokenizer())["refused"] == caught.value.line


def test_the_report_counts_what_users_ask_about(tmp_path: Path) -> None:
    good = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]} for n in range(30)
    ]
    odd = [
        good[0],
        {"messages": [{"role": "narrator", "content": "x"}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "other"}]},
        {"messages": [{"role": "user", "content": "long"}, {"role": "assistant", "content": "word " * 80}]},
    ]
    write_jsonl(tmp_path / "train.jsonl", good + odd)
    write_jsonl(tmp_path / "test.jsonl", [good[5]])
    report = check(Data(id=str(tmp_path), validation=0.0), 48, tokenizer())
    assert json.loads(json.dumps(report)) == report
    assert report["rows"] == {"train": 33, "validation": 0, "test": 1}
    assert ["train.jsonl line 1", "train.jsonl line 31"] in report["duplicates"]["where"]
    (location,) = report["unknown_roles"]["where"]
    assert location.startswith("train.jsonl line 32: message 1 ") and "'narrator'" in location
    assert report["conflicting_labels"]["where"] == [["train.jsonl line 2", "train.jsonl line 33"]]
    overlap = {"of": 1, "prompt": 1, "answer": 1, "both": 1, "near": 0, "near_reason": ""}
    assert report["overlap"]["test/train"] == {**overlap, "where": [["test.jsonl line 1", "train.jsonl line 6"]]}
    assert report["lengths"]["train"]["answers_cut"] == 1 / 33
    assert report["lengths"]["train"]["tokens"]["max"] > 48 > report["lengths"]["train"]["tokens"]["p50"]
    assert report["refused"] is None


def test_prompt_and_completion_join_as_plain_text_where_there_is_no_template(tmp_path: Path) -> None:
    rows = [{"prompt": f"2 + {n} =", "completion": f" {n + 2}"} for n in range(30)]
    tok = tokenizer(None)
    made = prepare(Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows))), 64, tok)
    assert tok.decode(made.train[0].input_ids) == "2 + 0 = 2<|im_end|>"
    assert made.about()["template"].startswith("no chat template")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"instruction": "do", "output": "y"},
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
    ],
)
def test_conversations_need_a_template(tmp_path: Path, row: Any) -> None:
    with pytest.raises(UserError) as caught:
        prepare(Data(id=str(write_jsonl(tmp_path / "a.jsonl", [row] * 30))), 64, tokenizer(None))
    assert caught.value.code == "data.no_template" and "model.chat_template" in settings(caught.value.hint)


def test_a_template_with_todays_date_is_warned_about(banking: Any) -> None:
    dated = tokenizer("{% set d = strftime_now('%d %b') %}" + tokenizer().chat_template)
    assert any(notice.code == "data.template_writes_date" for notice in prepare(banking, 128, dated).warnings())


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("engine.data.detection", ("torch", "transformers", "datasets", "pyarrow", "numpy")),
        ("engine.data.check, engine.data.prepare", ("torch", "transformers", "datasets", "pyarrow")),
    ],
)
def test_importing_the_data_package_is_fast(modules: Any, heavy: Any) -> None:
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
