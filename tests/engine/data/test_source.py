"""Files, folders and sets are read as what they are, and splits are found by name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from data_fixtures import write_jsonl
from reading import refusal

from engine.config.schema import Data
from engine.data import source
from engine.data.readers import arrow_files as hub
from engine.data.source import NOT_READ

ROWS = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(4)]


def values(raws: Any) -> Any:
    return [raw.values for raw in raws]


def places(raws: Any) -> Any:
    return [raw.where for raw in raws]


def size(raws: Any) -> Any:
    return len(list(raws))


def test_json_lines_say_their_line_and_skip_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": "x"}\n\n{"a": "y\xe2\x80\xa8z"}')
    read = source.read(Data(id=str(path)))
    assert places(read.train) == ["a.jsonl line 1", "a.jsonl line 3"]
    assert values(read.train)[1] == {"a": "y\u2028z"}, "only a line feed ends a line"


@pytest.mark.parametrize(
    "shape",
    [ROWS, {"data": ROWS, "version": 1}, {key: [row[key] for row in ROWS] for key in ("question", "answer")}],
    ids=["array", "array in an object", "columns"],
)
def test_json_in_three_shapes_gives_the_same_rows(tmp_path: Path, shape: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(shape))
    read = source.read(Data(id=str(path)))
    assert values(read.train) == ROWS
    assert places(read.train)[2] == "a.json item 3"


def test_one_conversation_in_a_json_file_is_one_row(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(row))
    assert values(source.read(Data(id=str(path))).train) == [row]


def test_json_lines_under_a_json_name_are_read_and_told(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.json", ROWS)
    read = source.read(Data(id=str(path)))
    assert values(read.train) == values(read.train) == ROWS
    (note,) = read.notes
    assert note.startswith("a.json: ") and "JSON lines" in note


def test_csv_with_quoted_line_breaks_names_the_line_a_row_begins_on(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf\r\ntext,label\r\n"two\r\nlines, and ""quotes""",x\r\n\r\nplain,y\r\n')
    read = source.read(Data(id=str(path)))
    assert values(read.train) == [{"text": 'two\r\nlines, and "quotes"', "label": "x"}, {"text": "plain", "label": "y"}]
    assert places(read.train) == ["a.csv line 3", "a.csv line 6"]


def test_other_separators_are_found_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text;label\na, b;c\n")
    read = source.read(Data(id=str(path)))
    assert values(read.train) == [{"text": "a, b", "label": "c"}]
    (note,) = read.notes
    assert note.startswith("a.csv: ") and note.endswith(" ;")
    (tmp_path / "b.tsv").write_text("text\tlabel\na;b\tc\n")
    assert values(source.read(Data(id=str(tmp_path / "b.tsv"))).train) == [{"text": "a;b", "label": "c"}]


def test_a_csv_field_of_a_megabyte_is_ordinary(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\n{'x' * (1 << 20)},a\n")
    assert len(values(source.read(Data(id=str(path))).train)[0]["text"]) == 1 << 20


def test_parquet_rows_are_numbered(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    read = source.read(Data(id=str(tmp_path / "a.parquet")))
    assert values(read.train) == ROWS
    assert places(read.train)[3] == "a.parquet row 4"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.json.gz"])
def test_gzip_is_read_like_the_file_in_it(tmp_path: Path, name: Any) -> None:
    text = {"a.csv.gz": "question,answer\nq0,a0\n", "a.json.gz": json.dumps(ROWS[:1])}.get(name, json.dumps(ROWS[0]))
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert values(source.read(Data(id=str(tmp_path / name))).train) == ROWS[:1]


def test_a_folder_reads_its_splits_and_tells_what_it_left(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "valid.jsonl", ROWS[:1])
    write_jsonl(tmp_path / "my_test.jsonl", ROWS[:2])
    (tmp_path / "categories.json").write_text('["a", "b"]')
    (tmp_path / "LICENSE").write_text("MIT")
    read = source.read(Data(id=str(tmp_path)))
    assert [size(rows) for rows in (read.train, read.validation, read.test)] == [4, 1, 2]
    assert read.notes == [f"{NOT_READ}categories.json"]
    assert read.files == {"train": ["train.jsonl"], "validation": ["valid.jsonl"], "test": ["my_test.jsonl"]}


def test_a_folder_of_shards_and_of_split_folders(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "test/part.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, ROWS)
    read = source.read(Data(id=str(tmp_path)))
    assert (size(read.train), size(read.test)) == (8, 4)
    assert places(read.train)[4] == "data/train-00001-of-00002.jsonl line 1"


def test_a_folder_without_split_names_is_all_training(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", ROWS[2:])
    write_jsonl(tmp_path / "a.jsonl", ROWS[:2])
    read = source.read(Data(id=str(tmp_path)))
    assert values(read.train) == ROWS
    assert read.validation is read.test is None


def test_test_and_validation_by_split_name_by_file_and_by_share(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "dev.jsonl", ROWS[:1])
    write_jsonl(tmp_path / "extra.jsonl", ROWS[:2])
    elsewhere = write_jsonl(tmp_path / "held.jsonl", ROWS[:3])
    by_name = source.read(Data(id=str(tmp_path), test="validation", validation=0.25))
    assert (size(by_name.test), by_name.validation) == (1, None)
    by_file = source.read(Data(id=str(tmp_path), test=str(elsewhere), validation="extra"))
    assert (size(by_file.test), size(by_file.validation)) == (3, 2)
    by_share = source.read(Data(id=str(tmp_path), test=0.5, validation=0.5))
    assert by_share.test is by_share.validation is None
    assert f"{NOT_READ}dev.jsonl" in by_share.notes


def test_the_default_share_gives_way_to_the_datas_own_validation(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "validation.jsonl", ROWS[:1])
    assert size(source.read(Data(id=str(tmp_path))).validation) == 1
    assert source.read(Data(id=str(tmp_path), validation=0.0)).validation is None


def test_the_embedded_set_has_three_splits() -> None:
    read = source.read(Data(id="tickets"))
    assert read.train and read.validation and read.test


def test_hub_class_numbers_become_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    made = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=kinds)
    monkeypatch.setattr(hub, "_ask", lambda _name: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_a, **_o: datasets.DatasetDict(train=made))
    assert values(source.read(Data(id="owner/name")).train) == [
        {"text": "a", "label": "good"},
        {"text": "b", "label": None},
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "data.lfs_pointer"),
        ("\n<!DOCTYPE html>\n<html><body>404: not found</body></html>\n", "data.html_page"),
        ("<html><body>Sign in</body></html>\n", "data.html_page"),
    ],
)
def test_what_a_failed_download_leaves_is_refused_as_that(suffix: str, content: str, code: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_text(content)
    assert refusal(file).code == code
