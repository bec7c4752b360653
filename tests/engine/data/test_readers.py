"""Every invalid input is reported in exactly one line with the place and what to do.

Common shapes of data files are read as what they are, or refused by name.
"""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from message_parts import figures, settings
from reading import assistant, reading, refusal, said, user, write_rows

from engine.config import schema
from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data import source
from engine.data.readers import arrow_files as hub
from engine.data.source import NOT_READ
from engine.methods.model_source import locate

GOOD = b'{"question": "a", "answer": "b"}\n'


def error_of(data: Data) -> UserError:
    with pytest.raises(UserError) as caught:
        for rows in source.read(data).splits.values():
            list(rows)
    assert "\n" not in caught.value.line
    assert caught.value.hint, "an error says what to do"
    return caught.value


def fault(folder: Path, name: str, content: bytes) -> UserError:
    path = folder / name
    path.write_bytes(content)
    return error_of(Data(id=str(path)))


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
        ("a.json", b"[" * 100_000 + b"]" * 100_000, "a.json", "data.too_deep"),
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
    error = fault(tmp_path, name, content)
    assert (error.location, error.code) == (place, code)


def test_a_row_of_60_megabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    error = fault(tmp_path, "a.jsonl", GOOD + b'{"question": "' + b"x" * (60 << 20) + b'"}\n')
    assert (error.location, error.code) == ("a.jsonl line 2", "data.row_too_long") and "16 MiB" in error.problem


def test_a_csv_field_of_20_megabytes_is_refused(tmp_path: Path) -> None:
    rows = b"text,label\nshort,a\n" + b'"' + (b"x" * 63 + b"\n") * (20 << 14) + b'",b\n'
    error = fault(tmp_path, "a.csv", rows)
    assert (error.location, error.code) == ("a.csv line 3", "data.row_too_long") and "16 MiB" in error.problem


def test_reading_csv_leaves_the_modules_own_limit_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    fault(tmp_path, "a.csv", b"text,label\na\n")
    assert csv.field_size_limit() == before


def test_a_gzip_bomb_stops_early(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as packed:
        for _ in range(120):
            packed.write(b" " * (1 << 20) + b"\n")
    error = fault(tmp_path, "a.jsonl.gz", bomb.getvalue())
    assert (error.location, error.code) == ("a.jsonl.gz", "data.grows_too_large")
    assert figures(error.problem)[0] == f"{len(bomb.getvalue()):,}"


def test_a_parquet_bomb_stops_early(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), pa.array(["x" * 10_000]))
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": text}), path)
    assert path.stat().st_size < 100_000
    error = error_of(Data(id=str(path)))
    assert (error.location, error.code) == ("a.parquet", "data.grows_too_large")


def test_a_zip_under_a_json_name_is_named(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.json", "[]")
    error = fault(tmp_path, "a.json", packed.getvalue())
    assert error.code == "data.wrong_suffix" and "zip archive" in error.problem


def test_a_missing_file_suggests_its_neighbor(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    error = error_of(Data(id=str(tmp_path / "trian.jsonl")))
    assert error.code == "data.not_found" and "'train.jsonl'" in error.problem


def test_a_misspelled_embedded_name_is_suggested() -> None:
    error = error_of(Data(id="tickts"))
    assert error.code == "data.not_found" and "'tickets'" in error.problem


def test_a_missing_split_lists_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    (tmp_path / "heldout-test.jsonl").write_bytes(GOOD)
    error = error_of(Data(id=str(tmp_path), test="tset"))
    assert (error.code, error.location) == ("data.split_not_found", "data.test") and "'tset'" in error.problem
    assert "heldout-test, train" in error.hint


def test_a_folder_without_rows_says_so(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("MIT")
    error = error_of(Data(id=str(tmp_path)))
    assert (error.code, error.location) == ("data.no_files", str(tmp_path))


def test_a_folder_with_only_a_test_split_cannot_train(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(GOOD)
    assert error_of(Data(id=str(tmp_path))).code == "data.no_training_split"


def test_a_link_that_leads_to_itself_is_an_error_not_a_loop(tmp_path: Path) -> None:
    loop = tmp_path / "a.jsonl"
    loop.symlink_to(loop)
    for path in (loop, tmp_path):
        error = error_of(Data(id=str(path)))
        assert error.code == "data.unreadable" and error.location.endswith("a.jsonl")
        assert os.strerror(errno.ELOOP) in error.problem


def test_a_folder_linked_into_itself_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(list(source.read(Data(id=str(tmp_path))).train)) == 1


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    error = error_of(Data(id=str(tmp_path / "a.jsonl")))
    assert (error.code, error.location) == ("data.not_a_file", "a.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD)
    path.chmod(0)
    error = error_of(Data(id=str(path)))
    assert error.code == "data.unreadable" and os.strerror(errno.EACCES) in error.problem


def test_a_subset_of_a_file_is_a_key_nothing_reads(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    error = error_of(Data(id=str(tmp_path / "a.jsonl"), subset="main"))
    assert (error.code, error.location) == ("data.subset_unread", "data.subset = 'main'")


def test_control_characters_of_a_file_name_stay_visible_in_the_line(tmp_path: Path) -> None:
    line = fault(tmp_path, "a\x1b[2J.jsonl", b"[]\n").line
    assert "\x1b" not in line
    assert "\\x1b" in line


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_args: Any, **_options: Any) -> None:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr(hub, "_ask", lambda _name: None)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    error = error_of(Data(id="owner/name"))
    assert (error.code, error.location) == ("data.hub_unreachable", "Hub dataset owner/name")


def test_a_row_of_json_never_recurses_however_deep(tmp_path: Path) -> None:
    for depth in (65, 500, 990, 20_000):
        row = b'{"a": 1, "b": ' + b'{"c":' * depth + b"1" + b"}" * depth + b"}"
        assert fault(tmp_path, "a.jsonl", row).code == "data.too_deep"


PAIR = [("user", "q"), ("assistant", "a")]


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    "row",
    [
        [user("q"), assistant("a")],
        [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        ["q", "a"],
        {"messages": [user([{"type": "text", "value": "q"}]), assistant([{"type": "text", "value": "a"}])]},
        {"messages": [user([{"type": "text", "text": "q"}]), assistant("a")]},
        {"question": "q", "answers": ["a", "b"]},
        {"question": "q", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}},
        {"question": "q", "answers": [{"text": "a", "answer_start": 1}, {"text": "b", "answer_start": 2}]},
        {"question": "q", "answer": {"value": "a", "aliases": ["b"]}},
        {"question": "q", "answer": "a", "aliases": ["a", "b"]},
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_of_this_shape_is_a_prompt_and_its_answer(tmp_path: Path, row: Any, name: Any) -> None:
    path = write_rows(tmp_path / name, [row]) if name == "a.jsonl" else write(tmp_path / name, json.dumps([row]))
    (example,) = reading(path).examples
    assert said(example) == PAIR
    lists = isinstance(row, dict) and "question" in row
    assert example.references == (("b",) if lists else ())


@pytest.mark.parametrize("answer", ["[]", "[/code]", "{", '{"a": 1}'])
def test_an_accepted_answer_may_begin_with_a_bracket(tmp_path: Path, answer: Any) -> None:
    (example,) = reading(write_rows(tmp_path / "a.jsonl", [{"prompt": "q", "answers": [answer, "b"]}])).examples
    assert said(example) == [("user", "q"), ("assistant", answer)]
    assert example.references == ("b",)


@pytest.mark.parametrize("row", [["q", "a"], [user("q"), assistant("a")]])
def test_the_only_array_in_a_json_object_is_its_rows_also_where_rows_are_arrays(tmp_path: Path, row: Any) -> None:
    path = write(tmp_path / "a.json", json.dumps({"version": 1, "rows": [row, row]}))
    assert [said(example) for example in reading(path).examples] == [PAIR, PAIR]


def test_a_list_of_texts_under_another_name_is_one_answer(tmp_path: Path) -> None:
    (example,) = reading(write_rows(tmp_path / "a.jsonl", [{"prompt": "q", "completion": ["a", "b"]}])).examples
    assert said(example)[-1] == ("assistant", '["a", "b"]')
    assert example.references == ()


def test_a_file_that_is_one_conversation_is_one_row(tmp_path: Path) -> None:
    dataset = reading(write(tmp_path / "a.json", json.dumps([user("q"), assistant("a")])))
    assert said(dataset.examples[0]) == PAIR
    (note,) = dataset.source.notes
    assert note.startswith("a.json: ") and "one conversation" in note


def test_squad_articles_give_a_row_for_each_question(tmp_path: Path) -> None:
    def question(number: int) -> dict[str, Any]:
        return {"id": str(number), "question": f"q{number}", "answers": [{"text": "a", "answer_start": 0}]}

    paragraph = {"context": "The passage.", "qas": [question(1), question(2), {**question(3), "answers": []}]}
    nested = {"version": "v2.0", "data": [{"title": "T", "paragraphs": [paragraph]}]}
    dataset = reading(write(tmp_path / "a.json", json.dumps(nested)))
    assert dataset.format.name == "squad"
    assert [said(example)[0][1] for example in dataset.examples] == ["The passage.\n\nq1", "The passage.\n\nq2"]
    assert dataset.examples[1].where == "a.json item 1 question 2"
    assert dataset.left_out == {"data.unanswerable": 1}


@pytest.mark.parametrize("score", [1.0, float("nan")])  # NaN is read by the standard library only
def test_a_json_object_of_splits_gives_its_splits(tmp_path: Path, score: float) -> None:
    rows = [{"question": "q", "answer": "a", "score": score}]
    path = write(tmp_path / "a.json", json.dumps({"train": rows * 5, "dev": rows * 2, "test": rows}))
    source = reading(path).source
    assert {name: len(list(part)) for name, part in source.splits.items()} == {"train": 5, "validation": 2, "test": 1}
    assert next(iter(source.splits["validation"])).where == "a.json dev item 1"


def test_a_json_object_of_rows_by_id_is_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps({str(n): {"question": "q", "answer": "a"} for n in range(3)}))
    assert len(reading(path).examples) == 3


def test_folders_of_save_to_disk_are_read_with_their_splits_and_class_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    dataset = datasets.Dataset.from_dict({"text": ["q"] * 4, "label": [1, 0, 1, 0]}, features=features)
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=dataset.shuffle(seed=0), test=dataset.select(range(1))).save_to_disk(tmp_path / "both")
    assert sorted(said(example)[-1][1] for example in reading(tmp_path / "one").examples) == ["no", "no", "yes", "yes"]
    both = reading(tmp_path / "both")
    assert len(both.examples) == 4
    assert [raw.values for raw in both.source.splits["test"]] == [{"text": "q", "label": "yes"}]


def test_a_damaged_folder_of_save_to_disk_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "dataset_dict.json", '{"splits": ["train"]}')
    assert refusal(tmp_path).code == "data.invalid_disk_set"


@pytest.mark.parametrize("damage", [(b"second", b"s\xffcond"), (b"\5\0\0\0\v\0\0\0", b"\v\0\0\0\5\0\0\0")])
def test_damaged_texts_and_offsets_in_an_arrow_file_are_one_line(tmp_path: Path, damage: Any) -> None:
    from datasets import Dataset

    rows = [{"prompt": text, "completion": "a"} for text in ("first", "second", "third")]
    Dataset.from_list(rows).save_to_disk(tmp_path / "set")
    (file,) = (tmp_path / "set").glob("*.arrow")
    content = file.read_bytes()
    assert content.count(damage[0]) == 1
    file.write_bytes(content.replace(*damage))
    with pytest.raises(UserError) as caught:
        reading(tmp_path / "set")
    assert caught.value.code == "data.invalid_arrow"


@pytest.mark.parametrize("mark", [",", ";", "|", "\t"])
def test_the_separator_is_the_one_that_splits_every_line_alike(tmp_path: Path, mark: Any) -> None:
    other = ";" if mark == "," else ","
    lines = [f"{other * (n % 3)}text {n}{mark}label{n % 2}" for n in range(8)]
    dataset = reading(write(tmp_path / "a.csv", "\n".join([f"text{mark}label", *lines])))
    assert said(dataset.examples[2]) == [("user", f"{other * 2}text 2"), ("assistant", "label0")]


def test_the_bars_of_special_tokens_separate_no_columns(tmp_path: Path) -> None:
    asked = "Where is the card that I ordered for my mother last Monday morning? <|im_end|>"
    path = write(tmp_path / "a.csv", f"{asked},arrival\n{asked} Well?,PIN\n")
    dataset = reading(path, map={"prompt": "column 1", "completion": "column 2"})
    assert [said(example)[-1][1] for example in dataset.examples] == ["arrival", "PIN"]


def test_a_csv_file_without_a_header_loses_no_row_and_its_offered_map_works(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "".join(f'"Book flight {n}, please, to Oslo",label{n % 2}\n' for n in range(10)))
    error = refusal(path)
    assert error.code == "data.no_format"
    assert "no header line" in error.problem
    assert figures(error.hint)[-2:] == ["10", "10"]
    dataset = reading(path, map=settings(error.hint)["data.map"])
    assert len(dataset.examples) == 10
    assert said(dataset.examples[0]) == [("user", "Book flight 0, please, to Oslo"), ("assistant", "label0")]


@pytest.mark.parametrize(
    "header", ["text,label", "utterance,intent", "0,1", ",text,label", "Question,Answer", "id,label"]
)
def test_a_header_line_is_not_mistaken_for_a_row(tmp_path: Path, header: Any) -> None:
    width = len(header.split(","))
    path = write(tmp_path / "a.csv", f"{header}\n" + f"{','.join(['some text here'] * (width - 1))},yes\n" * 3)
    from engine.config.schema import Data
    from engine.data.source import read

    rows = list(read(Data(id=str(path))).train)
    assert len(rows) == 3
    assert [key for key in rows[0].values if not key.startswith("column ")] == [
        name for name in header.split(",") if name
    ]


@pytest.mark.parametrize(
    ("text", "rows", "how"),
    [
        ("one\ntwo\n\n", ["one", "two"], "per line"),
        ("one\nmore\n\n\ntwo\n", ["one\nmore", "two"], "per paragraph"),
        ("only", ["only"], "per line"),
    ],
)
def test_a_text_file_is_a_document_per_paragraph_or_line_and_says_so(
    tmp_path: Path, text: Any, rows: Any, how: Any
) -> None:
    dataset = reading(write(tmp_path / "a.txt", text))
    assert [example.completion for example in dataset.examples] == rows
    assert how in dataset.format.why


def test_several_text_files_are_a_document_each_and_none_beside_other_data(tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        write(tmp_path / name, "first\n\nsecond")
    dataset = reading(tmp_path)
    assert [example.completion for example in dataset.examples] == ["first\n\nsecond"] * 2
    assert "document per file" in dataset.format.why
    write_rows(tmp_path / "train.jsonl", [{"question": "q", "answer": "a"}])
    source = reading(tmp_path).source
    assert source.files == {"train": ["train.jsonl"]}
    assert source.notes == [f"{NOT_READ}{name}" for name in ("one.txt", "two.txt")]


@pytest.mark.parametrize("names", [("a.jsonl", "b.jsonl"), ("train.jsonl", "test.jsonl")])
def test_files_that_differ_in_columns_are_named_with_them(tmp_path: Path, names: Any) -> None:
    write_rows(tmp_path / names[0], [{"question": "q", "answer": "a"}] * 9)
    write_rows(tmp_path / names[1], [{"text": "t", "label": "l"}])
    error = refusal(tmp_path)
    assert error.code == "data.files_differ"
    assert all(word in error.line for word in (names[1], "question, answer", "text, label"))


def test_files_may_differ_in_optional_columns(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"prompt": "q", "completion": "a", "system": "s"}])
    write_rows(tmp_path / "b.jsonl", [{"prompt": "q", "completion": "a"}])
    assert len(reading(tmp_path).examples) == 2


@pytest.mark.parametrize("images", [["x/1.jpg"], "x/1.png", {"bytes": None, "path": "x/1.png"}])
def test_a_column_of_images_is_refused_by_name_unless_a_map_says_otherwise(tmp_path: Path, images: Any) -> None:
    name = "images" if isinstance(images, list) else "image"
    path = write_rows(tmp_path / "a.jsonl", [{"question": f"q{n}", "answer": "a", name: images} for n in range(3)])
    error = refusal(path)
    assert error.code == "data.media_column"
    assert f"column {name}" in error.problem
    assert figures(error.hint) == ["3", "3"]
    dataset = reading(path, map={"prompt": "question", "completion": "answer"})
    assert dataset.format.roles[name] == "ignored"


@pytest.mark.parametrize(
    "turn",
    [
        user("<image>\nWhat is it?"),
        user("<video>Describe."),
        user([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "What is it?"}]),
        user([{"type": "input_audio", "input_audio": {}}]),
        user([{"type": "audio", "audio": "x.wav"}]),
    ],
)
def test_a_row_about_an_image_is_left_out_and_counted(tmp_path: Path, turn: Any) -> None:
    rows = [{"messages": [turn, assistant("a")]}, {"messages": [user("q"), assistant("<image> is a tag")]}]
    dataset = reading(write_rows(tmp_path / "a.jsonl", rows))
    assert dataset.left_out == {"data.media": 1}
    assert len(dataset.examples) == 1


def test_openais_older_function_calls_are_tool_calls(tmp_path: Path) -> None:
    call = {"name": "f", "arguments": '{"a": 1}'}
    turns = [user("q"), assistant(None, function_call=call), {"role": "function", "name": "f", "content": "1"}]
    rows = [{"messages": [*turns, assistant("a")], "functions": [{"name": "f"}]}]
    (example,) = reading(write_rows(tmp_path / "a.jsonl", rows)).examples
    assert example.messages is not None
    assert example.messages[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
    assert example.tools == [{"name": "f"}]


def test_an_adapter_given_as_a_model_names_its_base_model(tmp_path: Path) -> None:
    write(tmp_path / "adapter_config.json", json.dumps({"base_model_name_or_path": "owner/base", "peft_type": "LORA"}))
    write(tmp_path / "adapter_model.safetensors", "")
    with pytest.raises(UserError) as caught:
        locate(schema.Model(id=str(tmp_path)))
    assert caught.value.code == "model.adapter_folder"
    assert "owner/base" in caught.value.hint


def test_the_encoding_of_a_file_is_guessed(tmp_path: Path) -> None:
    text = "prompt,completion\n" + "Wie heißt die schöne Stadt Köln übrigens früher?,Grüße aus Österreich\n" * 20
    (tmp_path / "a.csv").write_bytes(text.encode("cp1252"))
    error = refusal(tmp_path / "a.csv")
    assert error.code == "data.not_utf8" and "iconv -f cp125" in error.hint
