"""Every invalid input is reported in exactly one line with the place and what to do."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data import source
from engine.data.readers import hub

GOOD = b'{"question": "a", "answer": "b"}\n'


def error_of(data: Data) -> UserError:
    with pytest.raises(UserError) as caught:
        for rows in source.read(data).splits.values():
            list(rows)
    assert "\n" not in caught.value.line
    assert caught.value.do, "an error says what to do"
    return caught.value


def line_of(data: Data) -> str:
    return error_of(data).line


def fault(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return line_of(Data(id=str(path)))


@pytest.mark.parametrize(
    ("name", "content", "place", "code"),
    [
        ("a.jsonl", GOOD + b'{"question": "caf\xe9"}\n', "a.jsonl line 2 byte 18", "data.not_utf8"),
        ("a.jsonl", GOOD * 2 + b'{"question": "a", "ans', "a.jsonl line 3 column 19", "data.invalid_json"),
        ("a.jsonl", GOOD + b'["a", "b", "c"]\n', "a.jsonl line 2", "data.invalid_row"),
        ("a.jsonl", GOOD + b"7\n", "a.jsonl line 2", "data.invalid_row"),
        (
            "a.jsonl",
            GOOD + b"\n" + b'{"question": ' + b"[" * 5000 + b"]" * 5000 + b"}\n",
            "a.jsonl line 3",
            "data.too_deep",
        ),
        ("a.jsonl", GOOD + b'{"question": ' + b"[" * 100 + b"]" * 100 + b"}\n", "a.jsonl line 2", "data.too_deep"),
        ("a.jsonl", GOOD + b'{"question": ' + b"9" * 5000 + b"}\n", "a.jsonl line 2", "data.invalid_json"),
        ("a.jsonl", GOOD + b'{"question": "a\0b"}\n', "a.jsonl line 2 byte 16", "data.not_utf8"),
        ("a.jsonl", b"", "a.jsonl", "data.no_rows"),
        ("a.jsonl", b"\n  \n\n", "a.jsonl", "data.no_rows"),
        ("a.jsonl", "question".encode("utf-16"), "a.jsonl line 1 byte 1", "data.not_utf8"),
        ("a.jsonl", gzip.compress(GOOD, mtime=0), "a.jsonl", "data.wrong_suffix"),
        ("a.jsonl.gz", GOOD, "a.jsonl.gz", "data.wrong_suffix"),
        ("a.jsonl.gz", gzip.compress(GOOD * 99, mtime=0)[:-20], "a.jsonl.gz", "data.broken_gzip"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd....", "a.jsonl.zst", "data.file_type"),
        ("a.md", b"hello", "a.md", "data.file_type"),
        ("a.json", b'[{"question": "a"}, 7]', "a.json item 2", "data.invalid_row"),
        ("a.json", b'[{"question": "a"},\n {"question": ', "a.json line 2 column 15", "data.invalid_json"),
        ("a.json", b"[" * 5000 + b"]" * 5000, "a.json", "data.too_deep"),
        ("a.json", b"[]", "a.json", "data.no_rows"),
        ("a.json", b"7", "a.json", "data.invalid_rows"),
        ("a.json", b'{"q": ["a", "b"], "a": ["c"]}', "a.json", "data.unequal_columns"),
        ("a.json", b'{"one": [{"q": "a"}], "other": [{"q": "b"}]}', "a.json", "data.several_arrays"),
        ("a.json", b'[{"question":\n "caf\xe9"}]', "a.json line 2 byte 6", "data.not_utf8"),
        ("a.csv", b"text,label\na,b\nc\n", "a.csv line 3", "data.wrong_field_count"),
        ("a.csv", b'text,label\n"a\nb",c\n"d,e\nf,g\n', "a.csv line 4", "data.unclosed_quote"),
        ("a.csv", b"text,text\na,b\n", "a.csv line 1", "data.duplicate_column"),
        ("a.csv", b"text,label\n", "a.csv", "data.no_rows"),
        ("a.csv", b"text,label\na,\xff\n", "a.csv line 2 byte 3", "data.not_utf8"),
        ("a.parquet", b"PAR1 and then nothing PAR1", "a.parquet", "data.invalid_parquet"),
    ],
)
def test_broken_file_is_one_line_with_its_place(tmp_path: Path, name: Any, content: Any, place: Any, code: Any) -> None:
    (tmp_path / name).write_bytes(content)
    error = error_of(Data(id=str(tmp_path / name)))
    assert (error.where, error.code) == (place, code)


def test_a_row_of_60_megabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    line = fault(tmp_path, "a.jsonl", GOOD + b'{"question": "' + b"x" * (60 << 20) + b'"}\n')
    assert line.startswith("row longer than 16 MiB: a.jsonl line 2;")


def test_a_csv_field_of_20_megabytes_is_refused(tmp_path: Path) -> None:
    rows = b"text,label\nshort,a\n" + b'"' + b"x\n" * (10 << 20) + b'",b\n'
    assert fault(tmp_path, "a.csv", rows).startswith("a field longer than 16 MiB: a.csv line 3;")


def test_reading_csv_leaves_the_modules_own_limit_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    fault(tmp_path, "a.csv", b"text,label\na\n")
    assert csv.field_size_limit() == before


def test_a_gzip_bomb_stops_early(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as packed:
        for _ in range(120):
            packed.write(b" " * (1 << 20) + b"\n")
    line = fault(tmp_path, "a.jsonl.gz", bomb.getvalue())
    assert line.startswith("decompresses from") and ": a.jsonl.gz;" in line


def test_a_parquet_bomb_stops_early(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), pa.array(["x" * 10_000]))
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": text}), path)
    assert path.stat().st_size < 100_000
    line = line_of(Data(id=str(path)))
    assert line.startswith("decompresses from") and ": a.parquet;" in line


def test_a_zip_under_a_json_name_is_named(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.json", "[]")
    assert "a zip archive" in fault(tmp_path, "a.json", packed.getvalue())


def test_a_missing_file_suggests_its_neighbor(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    line = line_of(Data(id=str(tmp_path / "trian.jsonl")))
    assert "not found" in line
    assert "did you mean 'train.jsonl'?" in line


def test_a_misspelled_embedded_name_is_suggested() -> None:
    assert "did you mean 'tickets'?" in line_of(Data(id="tickts"))


def test_a_missing_split_lists_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    (tmp_path / "heldout-test.jsonl").write_bytes(GOOD)
    line = line_of(Data(id=str(tmp_path), test="tset"))
    assert line.startswith("unknown split or file 'tset'") and ": data.test;" in line
    assert "heldout-test" in line


def test_a_folder_without_rows_says_so(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("MIT")
    assert "no data files in the folder" in line_of(Data(id=str(tmp_path)))


def test_a_folder_with_only_a_test_split_cannot_train(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(GOOD)
    assert "no training split" in line_of(Data(id=str(tmp_path)))


def test_a_link_that_leads_to_itself_is_an_error_not_a_loop(tmp_path: Path) -> None:
    loop = tmp_path / "a.jsonl"
    loop.symlink_to(loop)
    for path in (loop, tmp_path):
        line = line_of(Data(id=str(path)))
        assert line.startswith("cannot read the file (Too many levels of symbolic links)") and "a.jsonl;" in line


def test_a_folder_linked_into_itself_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(list(source.read(Data(id=str(tmp_path))).train)) == 1


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    assert "not a regular file" in line_of(Data(id=str(tmp_path / "a.jsonl")))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD)
    path.chmod(0)
    assert "Permission denied" in line_of(Data(id=str(path)))


def test_a_subset_of_a_file_is_a_key_nothing_reads(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    assert "data.subset" in line_of(Data(id=str(tmp_path / "a.jsonl"), subset="main"))


def test_control_characters_of_a_file_name_stay_visible_in_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J.jsonl"
    path.write_bytes(b"[]\n")
    line = line_of(Data(id=str(path)))
    assert "\x1b" not in line
    assert "\\x1b" in line


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_args: Any, **_options: Any) -> None:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr(hub, "_ask", lambda _name: None)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    line = line_of(Data(id="owner/name"))
    assert ": Hub dataset owner/name;" in line
    assert "the Hub is unreachable" in line


def test_a_row_of_json_never_recurses_however_deep(tmp_path: Path) -> None:
    for depth in (65, 500, 990, 20_000):
        assert "deep" in fault(
            tmp_path,
            "a.jsonl",
            json.dumps({"a": 1}).encode()[:-1] + b', "b": ' + b'{"c":' * depth + b"1" + b"}" * depth + b"}",
        )
