"""The report of a preparation covers every row and column, and its sums equal the rows read."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data_fixtures import tokenizer, write_jsonl

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data import parallel
from engine.data.check import check, inspect
from engine.data.prepare import prepare
from engine.data.rows import SPLITS, Example, Problem, Row
from engine.data.tokens import RowTokenizer


def chat(n: int, rng: random.Random) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"ask {n % 50}"}, {"role": "assistant", "content": f"say {n % 7}"}]
    kind = rng.randrange(12)
    if kind == 0:
        turns[1]["content"] = ""
    if kind == 1:
        turns[0]["content"] = "word " * 90
    if kind == 2:
        turns = turns[:1]
    if kind == 3:
        turns[0]["role"] = "narrator"
    return {"messages": turns, "note": f"n{n}", **({"system": "Be brief."} if kind == 4 else {})}


def pair(n: int, rng: random.Random) -> dict[str, Any]:
    return {"question": f"ask {n % 40}", "answer": rng.choice(["", "yes", "no", "word " * 60]), "id": n}


def text(n: int, rng: random.Random) -> dict[str, Any]:
    return {"text": rng.choice([f"Q: {n} A: {n}", f"no separator {n}", "", f"Q: {'word ' * 80} A: {n}"])}


SHAPES: dict[str, Any] = {"chat": chat, "pair": pair, "text": text}


def made(tmp_path: Path, shape: str, seed: int) -> Data:
    """A dataset of random rows, split files and settings."""
    rng = random.Random(seed)
    for name in {*rng.sample(["train", "validation", "test"], rng.choice([1, 2, 3])), "train"}:
        rows = [SHAPES[shape](n, rng) for n in range(rng.choice([1, 3, 40, 200]))]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return Data(
        id=str(tmp_path),
        separator=" A:" if shape == "text" else None,
        max_rows=rng.choice([None, None, 5, 100]),
        seed=seed,
        test=rng.choice([None, None, 0.0, 0.3]),
    )


def sums(report: dict[str, Any]) -> None:
    usage = report["data_usage"]
    left_out = sum(entry["rows"] for entry in usage["left_out"].values())
    assert sum(usage[name] for name in SPLITS) + left_out == usage["read"]
    assert sum(report["read"].values()) == usage["read"]
    assert usage["test_items"] <= usage["test"] == report["rows"]["test"]
    for entry in usage["left_out"].values():
        assert entry["reason"] and len(entry["where"]) == min(5, entry["rows"])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("shape", SHAPES)
def test_every_row_that_was_read_is_accounted_for(tmp_path: Path, shape: str, seed: int) -> None:
    data = made(tmp_path, shape, seed)
    try:
        report = check(data, 64, tokenizer())
    except UserError as error:  # no row at all that the format can be seen from
        assert error.code.startswith("data.") and error.hint
        return
    assert json.loads(json.dumps(report)) == report
    files = {name: (tmp_path / names[0]).read_text().count("\n") for name, names in report["files"].items()}
    assert report["read"] == files
    unread = {path.name for path in tmp_path.glob("*.jsonl")} - {names[0] for names in report["files"].values()}
    assert set(report["notes"]) >= {f"not read: {name}" for name in unread}
    sums(report)
    again = check(data, 64, tokenizer())  # from the cache
    assert again == report


@pytest.mark.parametrize("shape", SHAPES)
def test_check_inspection_and_run_give_one_account(tmp_path: Path, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.prepared.REFUSED_SHARE", 1.0)
    rows = [SHAPES[shape](n, random.Random(n)) | {"spare": "x"} for n in range(60)]
    data = Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows)), separator=" A:" if shape == "text" else None)
    report = check(data, 64, tokenizer())
    inspected = inspect(data, 64, tokenizer(), 5, 100)["report"]
    prepared = prepare(data, 64, tokenizer())
    assert report == inspected
    assert {name: prepared.about()[name] for name in ("columns", "data_usage", "overlap")} == {
        name: report[name] for name in ("columns", "data_usage", "overlap")
    }
    assert prepared.facts.fingerprint == report["fingerprint"]


def test_every_column_has_a_role_and_an_ignored_one_is_a_warning_with_examples(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{n}", "completion": "a", "score": n, "empty": None, "system": "s" * (n % 2)} for n in range(30)
    ]
    report = check(Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows))), 64, tokenizer())
    columns = {column["name"]: column for column in report["columns"]}
    assert {name: column["role"] for name, column in columns.items()} == {
        "prompt": "prompt",
        "completion": "answer",
        "score": "ignored",
        "empty": "empty",
        "system": "system",
    }
    assert (columns["score"]["rows"], columns["system"]["rows"], columns["empty"]["rows"]) == (30, 15, 0)
    (ignored,) = [warning["text"] for warning in report["warnings"] if warning["code"] == "data.ignored_column"]
    assert "score" in ignored and all(example in ignored for example in ("0", "1", "2"))


def test_rows_left_out_by_settings_have_codes_of_their_own(tmp_path: Path) -> None:
    train = [{"prompt": f"q{n}", "completion": "a"} for n in range(40)]
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "validation.jsonl", [*train[:3], {"prompt": "other", "completion": "a"}])
    report = check(Data(id=str(tmp_path), max_rows=10, test=0.0), 64, tokenizer())
    left_out = {code: entry["rows"] for code, entry in report["data_usage"]["left_out"].items()}
    assert left_out["data.max_rows"] == 30 and left_out["data.validation_overlaps"] == 3
    assert report["read"]["validation"] == 4 and report["rows"]["validation"] == 1
    assert report["refused"] is None


def test_only_the_chosen_rows_are_tokenized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, rows = tmp_path / "seen", RowTokenizer.rows

    def counted(self: RowTokenizer, examples: list[Example]) -> Iterator[Row | Problem]:
        with seen.open("a") as file:  # it runs in a child process
            file.write(f"{len(examples)}\n")
        return rows(self, examples)

    monkeypatch.setattr(RowTokenizer, "rows", counted)
    data = [{"prompt": f"q{n}", "completion": "a"} for n in range(400)]
    made = prepare(Data(id=str(write_jsonl(tmp_path / "a.jsonl", data)), max_rows=10), 64, tokenizer())
    assert len(made.train) == 10 and sum(map(int, seen.read_text().split())) == 10 + len(made.validation) + len(
        made.test
    )


@pytest.mark.parametrize(
    ("answers", "expected"),
    [(["yes", "no"], "conflicting_labels"), ([f"a sentence of its own {n}" for n in range(40)], "multiple_references")],
)
def test_several_answers_to_a_prompt_are_conflicts_among_labels_and_references_elsewhere(
    tmp_path: Path, answers: list[str], expected: str
) -> None:
    rows = [{"prompt": f"q{n % 20}", "completion": answers[(n + n // 20) % len(answers)]} for n in range(40)]
    report = check(Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows)), validation=0.0, test=0.0), 64, tokenizer())
    counts = {name: report[name]["rows"] for name in ("conflicting_labels", "multiple_references")}
    figures = {"conflicting_labels": 40, "multiple_references": 20}  # all rows of such prompts, and the further ones
    assert counts == dict.fromkeys(counts, 0) | {expected: figures[expected]}
    codes = [warning["code"] for warning in report["warnings"]]
    assert ("data.conflicting_labels" in codes) == (expected == "conflicting_labels")
    assert "contradict" not in json.dumps(report)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_prepare_the_same_rows(
    tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [chat(n, random.Random(n)) for n in range(500)]
    data = Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows)))
    alone = check(data, 64, tokenizer())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(parallel, "BATCH", 16)
    monkeypatch.setattr("engine.data.prepare.processes_for", lambda rows: processes)
    assert check(data, 64, tokenizer()) == alone
