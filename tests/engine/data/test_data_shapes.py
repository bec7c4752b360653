"""Common shapes of data files are read as what they are, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reading import assistant, reading, refusal, said, user, write_rows

from engine.config import schema
from engine.config.errors import UserError
from engine.config.preset import parse_overrides
from engine.methods.locate import locate

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
    found = reading(write(tmp_path / "a.json", json.dumps([user("q"), assistant("a")])))
    assert said(found.examples[0]) == PAIR
    assert found.source.notes == ["a.json: read as one conversation"]


def test_squad_articles_give_a_row_for_each_question(tmp_path: Path) -> None:
    def question(number: int) -> dict[str, Any]:
        return {"id": str(number), "question": f"q{number}", "answers": [{"text": "a", "answer_start": 0}]}

    paragraph = {"context": "The passage.", "qas": [question(1), question(2), {**question(3), "answers": []}]}
    nested = {"version": "v2.0", "data": [{"title": "T", "paragraphs": [paragraph]}]}
    found = reading(write(tmp_path / "a.json", json.dumps(nested)))
    assert found.format.name == "squad"
    assert [said(example)[0][1] for example in found.examples] == ["The passage.\n\nq1", "The passage.\n\nq2"]
    assert found.examples[1].where == "a.json item 1 question 2"
    assert found.left_out == {"data.unanswerable": 1}


def test_a_json_object_of_splits_gives_its_splits(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a"}]
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
    one = datasets.Dataset.from_dict({"text": ["q"] * 4, "label": [1, 0, 1, 0]}, features=features)
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=one.shuffle(seed=0), test=one.select(range(1))).save_to_disk(tmp_path / "both")
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
    found = reading(write(tmp_path / "a.csv", "\n".join([f"text{mark}label", *lines])))
    assert said(found.examples[2]) == [("user", f"{other * 2}text 2"), ("assistant", "label0")]


def test_the_bars_of_special_tokens_separate_no_columns(tmp_path: Path) -> None:
    asked = "Where is the card that I ordered for my mother last Monday morning? <|im_end|>"
    path = write(tmp_path / "a.csv", f"{asked},arrival\n{asked} Well?,PIN\n")
    found = reading(path, map={"prompt": "column 1", "completion": "column 2"})
    assert [said(example)[-1][1] for example in found.examples] == ["arrival", "PIN"]


def test_a_csv_file_without_a_header_loses_no_row_and_its_offered_map_works(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "".join(f'"Book flight {n}, please, to Oslo",label{n % 2}\n' for n in range(10)))
    error = refusal(path)
    assert error.code == "data.no_format"
    assert "no header line" in error.what
    assert "10 of 10 rows usable" in error.do
    options = error.do.split("'")[1::2]
    found = reading(path, map=parse_overrides(options)["data.map"])
    assert len(found.examples) == 10
    assert said(found.examples[0]) == [("user", "Book flight 0, please, to Oslo"), ("assistant", "label0")]


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
    found = reading(write(tmp_path / "a.txt", text))
    assert [example.completion for example in found.examples] == rows
    assert how in found.format.why


def test_several_text_files_are_a_document_each_and_none_beside_other_data(tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        write(tmp_path / name, "first\n\nsecond")
    found = reading(tmp_path)
    assert [example.completion for example in found.examples] == ["first\n\nsecond"] * 2
    assert "document per file" in found.format.why
    write_rows(tmp_path / "train.jsonl", [{"question": "q", "answer": "a"}])
    source = reading(tmp_path).source
    assert source.files == {"train": ["train.jsonl"]}
    assert source.notes == ["not read: one.txt", "not read: two.txt"]


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
    assert f"column {name}" in error.what
    assert "3 of 3 rows usable" in error.do
    found = reading(path, map={"prompt": "question", "completion": "answer"})
    assert found.format.roles[name] == "ignored"


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
    found = reading(write_rows(tmp_path / "a.jsonl", rows))
    assert found.left_out == {"data.media": 1}
    assert len(found.examples) == 1


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
    assert "owner/base" in caught.value.do
