"""Rows longer than max_length: truncated with the share of tokens that is lost, left out, or split into blocks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from data_fixtures import tokenizer, write_jsonl

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.check import check
from engine.data.prepare import prepare

LENGTH = 32


def documents(tmp_path: Path, letters: str = "abcdefg hijk ÄÖ 猫🙂 ") -> tuple[Path, list[str]]:
    rng = random.Random(0)
    texts = ["".join(rng.choice(letters) for _ in range(rng.choice([5, 300]))) + f" {n}" for n in range(40)]
    return write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts]), texts


def test_truncation_says_what_share_of_the_tokens_it_drops(tmp_path: Path) -> None:
    path, _ = documents(tmp_path)
    report = check(Data(id=str(path), validation=0.0, test=0.0), LENGTH, tokenizer())
    whole = check(Data(id=str(path), validation=0.0, test=0.0), 10_000, tokenizer())
    assert report["tokens_cut"]["train"] == whole["tokens"]["train"] - report["tokens"]["train"] > 0
    (text,) = [warning["text"] for warning in report["warnings"] if warning["code"] == "data.rows_cut"]
    assert f"drops {100 * report['tokens_cut']['train'] / whole['tokens']['train']:.1f}% of the tokens" in text
    assert whole["tokens_cut"]["train"] == 0


def test_long_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    path, texts = documents(tmp_path)
    done = prepare(Data(id=str(path), long="leave_out"), LENGTH, tokenizer())
    short = sum(len(text) < 20 for text in texts)
    assert done.usage.left_out["data.too_long"].rows == len(texts) - short and not done.train.cut.any()
    assert sum(map(len, done.rows.values())) == short


def test_blocks_are_all_of_the_text_in_one_split_per_document(tmp_path: Path) -> None:
    path, texts = documents(tmp_path)
    done = prepare(Data(id=str(path), long="split", test=0.2), LENGTH, tokenizer())
    assert done.facts.format == "text" and all(not rows.cut.any() for rows in done.rows.values())
    pieces: dict[str, list[str]] = {}
    splits: dict[str, set[str]] = {}
    for name, rows in done.rows.items():
        for row in rows:
            place = row.where.partition(" block ")[0]
            pieces.setdefault(place, []).append(row.target)
            splits.setdefault(place, set()).add(name)
    assert ["".join(pieces[f"a.jsonl line {n}"]) for n in range(1, 41)] == texts
    assert all(len(names) == 1 for names in splits.values()) and set().union(*splits.values()) >= {"train", "test"}
    assert len({row.group for row in done.test}) == len({row.where.partition(" block ")[0] for row in done.test})
    longest = max(int(rows.lengths.max()) for rows in done.rows.values())
    assert longest > LENGTH - 6  # the blocks are full


@pytest.mark.parametrize("row", [{"prompt": "q", "completion": "a"}, {"text": "Q: q A: a"}])
def test_only_plain_text_is_split(row: dict[str, str], tmp_path: Path) -> None:
    separator = " A:" if "text" in row else None
    data = Data(id=str(write_jsonl(tmp_path / "a.jsonl", [row] * 3)), long="split", separator=separator)
    with pytest.raises(UserError) as caught:
        prepare(data, LENGTH, tokenizer())
    assert (caught.value.code, caught.value.location) == ("data.split_rows", "data.long")
